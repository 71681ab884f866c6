"""The smallest network that trains in both stages: one convolution with BatchNorm.

Its step is traced in a tenth of a second, so that a kill falls between writes and not into JAX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from oct_jax.arrays import FeatureMap, Images
from oct_jax.model.layers import batch_norm, batch_norm_train, conv
from oct_jax.model.pooled import PooledModel
from oct_jax.model.protocol import Tree

CHANNELS = 16
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Tiny(PooledModel):
    """A convolution of stride 8, BatchNorm and ReLU below the package's pooled head."""

    mean: ClassVar[tuple[float, ...]] = (0.5,)
    std: ClassVar[tuple[float, ...]] = (0.5,)

    def backbone_shapes(self) -> tuple[Tree, Tree]:
        """See `PooledModel`."""

        def arrays(**shapes: tuple[int, ...]) -> Tree:
            return {
                name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()
            }

        width = (CHANNELS,)
        kernel = (8, 8, len(self.mean), CHANNELS)
        return (
            {"stem": arrays(kernel=kernel, scale=width, bias=width)},
            {"stem": arrays(mean=width, var=width)},
        )

    def backbone(
        self, params: Tree, stats: Tree, images: Images, *, train: bool
    ) -> tuple[FeatureMap, Tree]:
        """See `PooledModel`."""
        layer, moments = params["stem"], stats["stem"]
        x = images.astype(self.dtype)
        x = conv(x, layer["kernel"].astype(x.dtype), stride=8)
        scale, bias = layer["scale"], layer["bias"]
        if not train:
            mean, var = moments["mean"], moments["var"]
            x = batch_norm(x, scale, bias, mean, var, epsilon=1e-3, activation="relu")
            return x, {}
        x, mean, var = batch_norm_train(x, scale, bias, epsilon=1e-3, activation="relu")
        moved = {
            name: _MOMENTUM * moments[name] + (1 - _MOMENTUM) * value
            for name, value in (("mean", mean), ("var", var))
        }
        return x, {"stem": moved}
