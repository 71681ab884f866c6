"""The base of other backbones: a feature map under a pool, dropout and one linear layer.

A subclass says what its backbone's arrays look like and what it computes; config, model, head,
fresh weights, training, evaluation and Grad-CAM follow (docs/backbones.md).
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from oct_jax.arrays import FeatureMap, Images, Logits
from oct_jax.files import PositiveInt, Rate
from oct_jax.model.layers import dropout, global_average_pool
from oct_jax.model.protocol import Model, Pretrained, Tree, Variables, initial, path_name
from oct_jax.types import UserError


@dataclass(frozen=True)
class PooledModel:
    """A `ModelConfig` that is its own `Model`.

    Attributes:
      num_classes: length of the logits.
      dropout: rate before the classifier, in training.
      dtype: of the backbone's arithmetic; parameters, statistics and the head stay float32.
      remat: `"none"`; the other form is MobileNetV3's alone.
      mean: of the input's channels on the [0, 1] scale, as the backbone expects them.
      std: of the input's channels on the [0, 1] scale.
    """

    num_classes: PositiveInt = 4
    dropout: Rate = 0.2
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    remat: Literal["none", "blocks"] = "none"

    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)

    def backbone_shapes(self) -> tuple[Tree, Tree]:
        """`jax.ShapeDtypeStruct`s of parameters and BatchNorm statistics, in named dicts."""
        raise NotImplementedError

    def backbone(
        self, params: Tree, stats: Tree, images: Images, *, train: bool
    ) -> tuple[FeatureMap, Tree]:
        """The last feature map of normalised images, and the statistics after them.

        Args:
          params: of the backbone alone, as `backbone_shapes` names them.
          stats: its BatchNorm statistics.
          images: float32 (batch, height, width, channels).
          train: whether BatchNorm uses the batch's statistics and returns moved ones.

        Returns:
          The feature map (batch, rows, columns, features), and the statistics.
        """
        raise NotImplementedError

    def fresh(self, path: str, shape: tuple[int, ...], seed: int) -> Array:
        """One fresh parameter or statistic, a function of the three.

        Args:
          path: e.g. `backbone/stem/kernel`.
          shape: of the leaf.
          seed: of the draw.
        """
        return initial(path, shape, seed)

    @classmethod
    def load(cls, spec: str, *, num_classes: int, seed: int) -> Pretrained:
        """First variables of this backbone.

        Args:
          spec: what `weights=` says; `random` alone, unless a subclass reads files.
          num_classes: length of the logits.
          seed: of whatever is fresh.

        Raises:
          UserError: there are none of this name.
        """
        if spec != "random":
            raise UserError(
                f"weights={spec}: {cls.__name__} has no published weights here; weights=random"
            )
        return cls(num_classes=num_classes).random(seed)

    def random(self, seed: int) -> Pretrained:
        """Fresh variables, the same for the same `seed`, and this model."""
        note = f"{type(self).__name__}, every parameter fresh from seed {seed}"
        source = {"name": "random", "seed": seed}
        return Pretrained(self.init(seed), self, self.mean, self.std, source, note)

    # What follows is `Model` and `ModelConfig`.

    def build(self) -> Model:
        """Itself.

        Raises:
          UserError: the network has no such form.
        """
        if self.remat != "none":
            raise UserError(f"remat={self.remat}: {type(self).__name__} has no such form; leave it")
        return self

    def fold(self, variables: Variables) -> "tuple[Variables, PooledModel]":
        """`variables` and model as given: `train=False` is the form that inference runs."""
        return variables, self

    @property
    def shapes(self) -> Variables:
        """`jax.ShapeDtypeStruct` in place of every array of the variables."""
        return _shapes(self)

    def features_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, columns, features) of the map of an image of `height` and `width` pixels."""
        images = jax.ShapeDtypeStruct((1, height, width, len(self.mean)), jnp.float32)
        _, rows, columns, features = _features(self, *_backbone_shapes(self), images).shape
        return rows, columns, features

    def init(self, seed: int) -> Variables:
        """Fresh variables, the same for the same `seed`."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self.fresh(path_name(path[1:]), leaf.shape, seed), self.shapes
        )

    def features(
        self, variables: Variables, images: Images, *, train: bool
    ) -> tuple[FeatureMap, Tree]:
        """The last feature map and the statistics after it; see `Model.features`.

        Args:
          variables: of this model.
          images: float32 (batch, height, width, channels), normalised.
          train: as for `backbone`.
        """
        params, stats = variables.params["backbone"], variables.stats["backbone"]
        feature_map, moved = self.backbone(params, stats, images, train=train)
        return feature_map, {"backbone": moved} if train else variables.stats

    def pool(self, features: FeatureMap) -> FeatureMap:
        """Global average pooling of `features`, which changes nothing when done twice."""
        return global_average_pool(features.astype(jnp.float32))

    def head(
        self,
        variables: Variables,
        features: FeatureMap,
        *,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Logits:
        """Float32 logits (batch, classes); see `Model.head`.

        Args:
          variables: of this model.
          features: (batch, rows, columns, features), or pooled already.
          dropout_key: drops pooled features where it is given.
        """
        x = self.pool(features)[:, 0, 0]
        if dropout_key is not None:
            x = dropout(dropout_key, x, self.dropout)
        classifier = variables.params["head"]["classifier"]
        return x @ classifier["kernel"] + classifier["bias"]


def _features(model: PooledModel, params: Tree, stats: Tree, images: Any) -> Any:
    return jax.eval_shape(
        lambda *arrays: model.backbone(*arrays, train=False)[0], params, stats, images
    )


@functools.lru_cache(maxsize=32)
def _backbone_shapes(model: PooledModel) -> tuple[Tree, Tree]:
    return model.backbone_shapes()


@functools.lru_cache(maxsize=32)
def _shapes(model: PooledModel) -> Variables:
    *_, features = model.features_shape(224, 224)
    params, stats = _backbone_shapes(model)
    classifier = {
        "kernel": jax.ShapeDtypeStruct((features, model.num_classes), jnp.float32),
        "bias": jax.ShapeDtypeStruct((model.num_classes,), jnp.float32),
    }
    return Variables({"backbone": params, "head": {"classifier": classifier}}, {"backbone": stats})
