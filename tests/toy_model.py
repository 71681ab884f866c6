"""The smallest model that keeps the protocol: one convolution with BatchNorm, one linear layer.

It compiles in a second, where MobileNetV3's training step takes twenty: laws of the training step
that do not hang on the architecture are tested on it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from oct_jax.model.layers import batch_norm, batch_norm_train, conv, global_average_pool
from oct_jax.model.protocol import Pretrained, Variables

MOMENTUM = 0.9


@dataclass(frozen=True)
class ToyModel:
    features_out: int = 8
    num_classes: int = 4
    dropout: float = 0.0
    dtype: str = "float32"

    @property
    def shapes(self):
        return jax.eval_shape(lambda: self.init(0))

    def features_shape(self, height, width):
        return height // 2, width // 2, self.features_out

    def init(self, seed):
        stem, logits = jax.random.split(jax.random.key(seed))
        width = self.features_out
        backbone = {
            "kernel": jax.random.normal(stem, (3, 3, 3, width)) * 0.3,
            "scale": jnp.ones(width),
            "bias": jnp.zeros(width),
        }
        head = {
            "kernel": jax.random.normal(logits, (width, self.num_classes)) * 0.3,
            "bias": jnp.zeros(self.num_classes),
        }
        stats = {"backbone": {"mean": jnp.zeros(width), "var": jnp.ones(width)}}
        return Variables({"backbone": backbone, "head": head}, stats)

    def features(self, variables, images, *, train):
        params, stats = variables.params["backbone"], variables.stats["backbone"]
        dtype = jnp.dtype(self.dtype)
        x = conv(images.astype(dtype), params["kernel"].astype(dtype), stride=2)
        affine = {"epsilon": 1e-3, "activation": "relu"}
        if not train:
            y = batch_norm(
                x, params["scale"], params["bias"], stats["mean"], stats["var"], **affine
            )
            return y, variables.stats
        y, mean, var = batch_norm_train(x, params["scale"], params["bias"], **affine)
        moved = {
            name: MOMENTUM * stats[name] + (1 - MOMENTUM) * new
            for name, new in (("mean", mean), ("var", var))
        }
        return y, {"backbone": moved}

    def pool(self, features):
        return global_average_pool(features.astype(jnp.float32))

    def head(self, variables, features, *, dropout_key=None):
        x = self.pool(features)[:, 0, 0]
        if dropout_key is not None:
            keep = jax.random.bernoulli(dropout_key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        head = variables.params["head"]
        return x @ head["kernel"] + head["bias"]


@dataclass(frozen=True)
class ToyConfig:
    """The `ModelConfig` of a `ToyModel`: `backbone=toy_model:ToyConfig` of a command."""

    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"

    @classmethod
    def load(cls, spec, *, num_classes, seed):
        half = (0.5, 0.5, 0.5)
        return Pretrained(cls().build().init(seed), cls(), half, half, {"name": spec}, "a toy")

    def build(self):
        return ToyModel(dropout=self.dropout, dtype=self.dtype)

    def fold(self, variables):
        return variables, self
