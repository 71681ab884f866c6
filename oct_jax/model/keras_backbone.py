"""Networks of `keras.applications` as backbones: Keras 3 on its JAX backend, as pure functions.

Keras is an optional group, and imported when a network is first asked for. A network is built
without its arrays; `stateless_call` then computes it over ours, whose names are Keras's own.
"""

import functools
import hashlib
import importlib
import os
import sys
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from oct_jax.arrays import FeatureMap, Images
from oct_jax.files import Share
from oct_jax.model.pooled import PooledModel
from oct_jax.model.protocol import Pretrained, Tree, Variables, path_name
from oct_jax.paths import expand_home
from oct_jax.types import UserError

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class KerasModel(PooledModel):
    """A network of `keras.applications` whose last layer but its top is a feature map.

    BatchNorm's moving averages are the statistics. Stochastic depth is turned off: all backbones
    here are trained with the same regularisation.

    Attributes:
      bn_momentum: share of the old moving averages that one training step keeps.
      application: the network's name in `keras.applications`.
    """

    bn_momentum: Share = 0.99
    application: ClassVar[str]

    @classmethod
    def load(cls, spec: str, *, num_classes: int, seed: int) -> Pretrained:
        """Fresh variables, published ones, or those of a file that Keras wrote.

        Args:
          spec: `random`; `keras`, which Keras fetches from its own site; or the path of a
            `.weights.h5` or a published `.h5`, with or without its classifier.
          num_classes: length of the logits.
          seed: of whatever is fresh.

        Raises:
          UserError: Keras is missing, or the weights cannot be had or are of another network.
        """
        if spec == "random":
            # As for MobileNetV3: fresh statistics must forget sooner than a publisher's.
            return cls(num_classes=num_classes, bn_momentum=0.9).random(seed)
        model, path = cls(num_classes=num_classes), Path(expand_home(spec))
        if spec == "keras":
            return model._pretrained(seed, model._fetch(), {"name": "keras"})
        if not path.is_file():
            raise UserError(f"weights={spec}: no such file; a .h5 of Keras's, keras, or random")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        source = {"name": "file", "path": str(path), "sha256": digest}
        return model._pretrained(seed, model._read(path), source)

    def backbone_shapes(self) -> tuple[Tree, Tree]:
        """Trainable variables, and moving means and variances, under Keras's names."""
        network = self._network()
        params = {v.path: _shape_of(v) for v in network.trainable_variables}
        stats = {v.path: _shape_of(v) for v in network.non_trainable_variables if _is_moving(v)}
        return _nested(params), _nested(stats)

    def backbone(
        self, params: Tree, stats: Tree, images: Images, *, train: bool
    ) -> tuple[FeatureMap, Tree]:
        """The network without its top; `train` is Keras's `training`."""
        # Keras pads a strided convolution by the size of its input, so each size has its network.
        with jax.ensure_compile_time_eval():
            network = self._network(images.shape[1], images.shape[2])
        others = network.non_trainable_variables
        with _scope(import_keras()):
            features, moved = network.stateless_call(
                [_leaf(params, v.path) for v in network.trainable_variables],
                [_leaf(stats, v.path) if _is_moving(v) else _constant(v) for v in others],
                images,
                training=train,
            )
        pairs = zip(others, moved, strict=True)
        return features, _nested({v.path: new for v, new in pairs if _is_moving(v)})

    def _check_whole(self, stored: Mapping[str, np.ndarray]) -> None:
        for tree in self.backbone_shapes():
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                name = path_name(path)
                if name not in stored:
                    raise ValueError(f"{name} is missing")
                if stored[name].shape != leaf.shape:
                    raise ValueError(f"{name} is {stored[name].shape}, not {leaf.shape}")

    def _pretrained(
        self, seed: int, stored: Mapping[str, np.ndarray], source: dict[str, Any]
    ) -> Pretrained:
        """Stored arrays in place of the fresh backbone's."""
        fresh = self.init(seed)
        params, stats = (
            jax.tree_util.tree_map_with_path(
                lambda path, leaf: jnp.asarray(stored[path_name(path)], leaf.dtype),
                tree["backbone"],
            )
            for tree in fresh
        )
        variables = Variables({**fresh.params, "backbone": params}, {"backbone": stats})
        note = f"{self.application} by Keras; the head is fresh from seed {seed}"
        return Pretrained(variables, self, self.mean, self.std, source, note)

    def _network(self, height: int | None = None, width: int | None = None) -> Any:
        shape = (height, width, len(self.mean))
        return _empty_network(self.application, self.dtype, self.bn_momentum, shape)

    def _fetch(self) -> dict[str, Any]:
        try:
            return _stored(self.application, weights="imagenet", include_top=False)
        except Exception as error:  # whatever a network can raise in Keras's download
            raise UserError(
                f"weights=keras: {self.application} cannot be fetched ({_one_line(error)});"
                " give a file, or weights=random"
            ) from error

    def _read(self, path: Path) -> dict[str, Any]:
        problems = []
        for top in (False, True):
            try:
                stored = _stored(self.application, path, weights=None, include_top=top)
                self._check_whole(stored)
                return stored
            except (ValueError, KeyError, OSError) as error:
                problems.append(_one_line(error))
        raise UserError(
            f"{path}: not weights of {self.application} as Keras writes them ({problems[0]})"
        )


class ResNet50(KerasModel):
    """He et al. 2015; input in Caffe's form, 0 to 255 less the mean of blue, green and red."""

    application = "ResNet50"
    # A grey scan is the same in all channels, so that only the order of the means is Caffe's.
    mean = (103.939 / 255, 116.779 / 255, 123.68 / 255)
    std = (1 / 255,) * 3


class ResNet152(ResNet50):
    """The same with 152 layers."""

    application = "ResNet152"


class EfficientNetB0(KerasModel):
    """Tan and Le 2019.

    Keras's network divides by 255 itself, which `std` undoes, and then normalises by a layer that
    is left at mean 0 and variance 1: `mean` and `std` say what published weights want of it.
    """

    application = "EfficientNetB0"
    mean, std = _IMAGENET[0], tuple(std / 255 for std in _IMAGENET[1])


class EfficientNetB3(EfficientNetB0):
    """The same, wider and deeper; published for 300x300 pixels."""

    application = "EfficientNetB3"


def import_keras() -> Any:
    """The module `keras`, on its JAX backend.

    Raises:
      UserError: it is not installed, or runs on another backend.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "jax"
    try:
        keras = importlib.import_module("keras")
    except ImportError as error:
        raise UserError("this backbone needs Keras: uv sync --group backbones") from error
    if keras.backend.backend() != "jax":
        raise UserError(
            f"KERAS_BACKEND={keras.backend.backend()}: Keras was imported before; it must be jax"
        )
    return keras


@functools.lru_cache(maxsize=32)
def _empty_network(
    application: str, dtype: str, momentum: float, shape: tuple[int | None, ...]
) -> Any:
    """A network without its top that holds no array, to be called with ours."""
    keras = import_keras()
    with _conventions(keras, dtype), _scope(keras):
        network = getattr(keras.applications, application)(
            weights=None, include_top=False, input_shape=shape
        )
    for layer in network.layers:
        if hasattr(layer, "moving_mean"):
            layer.momentum = momentum
        if type(layer).__name__ == "Dropout":
            layer.rate = 0.0
    return network


def _stored(application: str, path: Path | None = None, **settings: Any) -> dict[str, Any]:
    """Path -> array of a network that Keras loads, from a file where one is given."""
    keras = import_keras()
    with (
        _conventions(keras, "float32"),
        _scope(keras) as scope,
        # That layers are left without arrays, Keras only warns of; it is an error of ours.
        warnings.catch_warnings(action="ignore"),
    ):
        network = getattr(keras.applications, application)(**settings)
        if path is not None:
            network.load_weights(path)
    values = {v.path: scope.get_current_value(v) for v in network.variables}
    return {path: np.asarray(value) for path, value in values.items() if value is not None}


def _scope(keras: Any) -> Any:
    """Where Keras makes variables without arrays: to draw each would take half a minute."""
    return keras.StatelessScope(initialize_variables=False)


@contextmanager
def _conventions(keras: Any, dtype: str) -> Generator[None]:
    """Ours in place of what a user's Keras is set to, for as long as a network is built."""
    policy, layout = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.config.set_dtype_policy(dtype if dtype == "float32" else f"mixed_{dtype}")
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_image_data_format(layout)


def _is_moving(variable: Any) -> bool:
    return variable.path.endswith(("/moving_mean", "/moving_variance"))


def _shape_of(variable: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(variable.shape), jnp.float32)


def _constant(variable: Any) -> jax.Array:
    """In place of what no backbone here uses: seeds of dropout, a normalisation's counts."""
    return jnp.zeros(tuple(variable.shape), variable.dtype)


def _nested(flat: Mapping[str, Any]) -> Tree:
    """`{"stem/kernel": x}` as `{"stem": {"kernel": x}}`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *outer, name = path.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), outer, tree)[name] = leaf
    return tree


def _leaf(tree: Tree, path: str) -> Any:
    return functools.reduce(lambda node, key: node[key], path.split("/"), tree)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
