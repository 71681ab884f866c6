"""What every backbone is to the rest of the package: four pure functions over two trees."""

import functools
import hashlib
import math
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from oct_jax.arrays import FeatureMap, Images, Logits
from oct_jax.data.preprocess import Preprocess
from oct_jax.types import Resize, UserError

Tree: TypeAlias = dict[str, Any]
_VARIANCES = ("var", "moving_variance")


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


def digest_of(arrays: Any) -> str:
    """SHA-256 over the names and values of all leaves of a tree, hexadecimal."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def check_variables(variables: Variables, name: str) -> None:
    """Refuses weights that no training makes.

    Args:
      variables: of a model that is not folded.
      name: of their file, for the error.

    Raises:
      UserError: a value is not finite, or a variance of BatchNorm is negative.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables._asdict())
    for path, leaf in leaves:
        values = np.asarray(leaf)
        where = path_name(path[1:])
        if not np.isfinite(values).all():
            raise UserError(f"{name}: {where} holds values that are not finite; use other weights")
        if where.rsplit("/", 1)[-1] in _VARIANCES and (values < 0).any():
            raise UserError(f"{name}: {where} holds negative variances; use other weights")


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


@runtime_checkable
class DenseModel(Model, Protocol):
    """A `Model` that also computes its last feature map at the positions between."""

    def dense_features(self, variables: Variables, images: Images) -> FeatureMap:
        """The last feature map at twice the positions along each axis, as `train=False`.

        Every second row and column are `features`: with (rows, columns) there, the result is
        (batch, 2 rows - 1, 2 columns - 1, features).
        """
        ...


@runtime_checkable
class ModelConfig(Protocol):
    """Which network: a frozen dataclass of JSON values, from which `build` makes the model.

    `dataclasses.replace` of `dropout`, `dtype` and `remat` gives the form that a stage trains;
    the variables fit all forms.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self) -> Model:
        """The model; allocates no array.

        Raises:
          UserError: the network has no such form.
        """
        ...

    def fold(self, variables: Variables) -> "tuple[Variables, ModelConfig]":
        """`variables` and config of the form that inference runs; of such a form, both as given."""
        ...

    def __hash__(self) -> int: ...


class LoadableConfig(ModelConfig, Protocol):
    """A `ModelConfig` that `backbone=MODULE:CLASS` may name: it also has first variables."""

    @classmethod
    def load(cls, spec: str, *, num_classes: int, seed: int) -> "Pretrained":
        """First variables as `weights=` names them.

        Raises:
          UserError: there are none of this name.
        """
        ...


@dataclass(frozen=True)
class Pretrained:
    """Variables, the model that they fit, and what they want of its input.

    Attributes:
      variables: float32, on the default device.
      config: of the model.
      mean: of the input's channels on the [0, 1] scale.
      std: of the input's channels on the [0, 1] scale.
      source: provenance: name, and for a file its path, url, sha256 and layout.
      note: one line for the user on what was loaded and what is fresh.
    """

    variables: Variables
    config: ModelConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: dict[str, Any]
    note: str

    def preprocess(self, *, size: int = 224, resize: Resize = "retina") -> Preprocess:
        """From a scan to the input that these variables want.

        Args:
          size: side of the input, pixels.
          resize: how a scan is made square; see `Preprocess`.
        """
        return Preprocess(size=size, resize=resize, mean=self.mean, std=self.std)


@functools.lru_cache(maxsize=32)
def build(config: ModelConfig) -> Model:
    """The model of a config; allocates no array, and traces the network once."""
    return config.build()


def path_name(path: tuple[jax.tree_util.DictKey, ...]) -> str:
    """A leaf's path as text, e.g. `backbone/blocks/3/expand/kernel`."""
    return "/".join(key.key for key in path)


def initial(path: str, shape: tuple[int, ...], seed: int) -> Array:
    """One fresh leaf: He et al. 2015 by fan-out for convolutions, N(0, 0.01^2) for the head.

    Drawn by NumPy from the seed and the leaf's own path: of JAX's initialisers XLA compiles each of
    sixty draws, 12 s before the first step. The fan-out of a depthwise kernel is rows times
    columns, as PyTorch counts it; JAX's initialisers count all channels as well, so their deviation
    is smaller by the square root of that number.
    """
    *_, name = path.split("/")
    if name in ("scale", "var", "gamma", "moving_variance"):
        return jnp.ones(shape)
    if name in ("bias", "mean", "beta", "moving_mean"):
        return jnp.zeros(shape)
    depthwise = len(shape) == 4 and shape[2] == 1
    fan_out = math.prod(shape[:2]) if depthwise else math.prod((*shape[:-2], shape[-1]))
    deviation = 0.01 if path.startswith("head/") else math.sqrt(2 / fan_out)
    return normal(path, shape, seed, deviation)


def normal(path: str, shape: tuple[int, ...], seed: int, deviation: float) -> Array:
    """One leaf of N(0, deviation^2), a function of the seed and the leaf's path."""
    random = np.random.Generator(np.random.Philox([seed, zlib.crc32(path.encode())]))
    return jnp.asarray(random.standard_normal(shape, np.float32) * np.float32(deviation))
