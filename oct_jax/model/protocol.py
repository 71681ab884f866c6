"""What every backbone is to the rest of the package: four pure functions over two trees."""

import functools
import hashlib
import math
import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, PRNGKeyArray

from oct_jax.model.layers import global_average_pool
from oct_jax.model.mobilenet_v3 import STRIDE, MobileNetV3, MobileNetV3Config, feature_channels
from oct_jax.types import FeatureMap, Images, Logits

Tree: TypeAlias = dict[str, Any]


class Variables(NamedTuple):
    """All arrays of a model, float32, in nested dicts with names for keys.

    Attributes:
      params: what an optimiser may move; top level `backbone` and `head`.
      stats: running BatchNorm statistics; top level `backbone`.
    """

    params: Tree
    stats: Tree


def fingerprint_of(variables: Variables) -> str:
    """Names weights by their head, which all training changes: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(variables.params["head"]):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


@runtime_checkable
class Model(Protocol):
    """An image classifier as pure functions; static and hashable, so it may be closed over.

    `features` and `head` are safe under `jit`, `grad` and `vmap`.
    """

    @property
    def shapes(self) -> Variables:
        """`jax.ShapeDtypeStruct` in place of every array of the variables."""
        ...

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        ...

    def features_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, columns, features) of the feature map of one image."""
        ...

    def init(self, seed: int) -> Variables:
        """Fresh variables, the same for the same seed."""
        ...

    def features(
        self, variables: Variables, images: Images, *, train: bool
    ) -> tuple[FeatureMap, Tree]:
        """The last feature map of normalised images, and the statistics after them.

        `train=True` normalises with the batch's statistics and returns moved running ones;
        `train=False` uses the running ones and returns them unchanged.
        """
        ...

    def pool(self, features: FeatureMap) -> FeatureMap:
        """The smallest map, (batch, 1, 1, features), for which `head` gives the same logits."""
        ...

    def head(
        self,
        variables: Variables,
        features: FeatureMap,
        *,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Logits:
        """Float32 logits of a feature map; drops activations only when given a key."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class NNXModel:
    """`Model` by an NNX module whose submodules are exactly `backbone` and `head`.

    Two of them are equal when their configs are. The graph definitions are the module without
    its arrays; merging them with arrays inside each function keeps the functions pure.
    """

    config: MobileNetV3Config
    shapes: Variables = field(repr=False, compare=False)
    _backbone: nnx.GraphDef = field(repr=False, compare=False)
    _head: nnx.GraphDef = field(repr=False, compare=False)

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.config.num_classes

    def features_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, columns, features) of the feature map of one image."""
        return -(-height // STRIDE), -(-width // STRIDE), feature_channels(self.config)

    def init(self, seed: int) -> Variables:
        """Fresh variables, the same for the same seed."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _initial(path_name(path[1:]), leaf.shape, seed), self.shapes
        )

    def features(
        self, variables: Variables, images: Images, *, train: bool
    ) -> tuple[FeatureMap, Tree]:
        """The last feature map and the statistics after it; see `Model.features`."""
        backbone = nnx.merge(
            self._backbone,
            nnx.State(variables.params["backbone"]),
            nnx.State(variables.stats["backbone"]),
            copy=True,
        )
        feature_map = backbone(images, train=train)
        if not train:
            return feature_map, variables.stats
        return feature_map, {"backbone": _arrays(nnx.state(backbone, nnx.BatchStat))}

    def pool(self, features: FeatureMap) -> FeatureMap:
        """The head's own global average pooling, which changes nothing when done twice."""
        return global_average_pool(features.astype(jnp.float32))

    def head(
        self,
        variables: Variables,
        features: FeatureMap,
        *,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Logits:
        """Float32 logits; see `Model.head`."""
        head = nnx.merge(self._head, nnx.State(variables.params["head"]), copy=True)
        return head(features, dropout_key=dropout_key)


@functools.lru_cache(maxsize=32)
def build(config: MobileNetV3Config) -> Model:
    """The model of a config; allocates no array, and traces the module once."""
    module = nnx.eval_shape(lambda: MobileNetV3(config, rngs=nnx.Rngs(0)))
    backbone, params, stats = nnx.split(module.backbone, nnx.Param, nnx.BatchStat)
    head, head_params = nnx.split(module.head, nnx.Param)
    shapes = Variables(
        {"backbone": _arrays(params), "head": _arrays(head_params)}, {"backbone": _arrays(stats)}
    )
    return NNXModel(config, shapes, backbone, head)


def path_name(path: tuple[jax.tree_util.DictKey, ...]) -> str:
    """A leaf's path as text, e.g. `backbone/blocks/3/expand/kernel`."""
    return "/".join(key.key for key in path)


def _initial(path: str, shape: tuple[int, ...], seed: int) -> Array:
    """One fresh leaf: He et al. 2015 by fan-out for convolutions, N(0, 0.01^2) for the head.

    Drawn by NumPy from the seed and the leaf's own path. The module's initialisers would say the
    same, but XLA compiles each of their sixty draws: 12 s before the first step.
    """
    *_, name = path.split("/")
    if name in ("scale", "var"):
        return jnp.ones(shape)
    if name in ("bias", "mean"):
        return jnp.zeros(shape)
    depthwise = len(shape) == 4 and shape[2] == 1
    fan_out = math.prod(shape[:2]) if depthwise else math.prod((*shape[:-2], shape[-1]))
    deviation = 0.01 if path.startswith("head/") else math.sqrt(2 / fan_out)
    random = np.random.Generator(np.random.Philox([seed, zlib.crc32(path.encode())]))
    return jnp.asarray(random.standard_normal(shape, np.float32) * np.float32(deviation))


def _arrays(state: nnx.State) -> Tree:
    return nnx.to_pure_dict(state)
