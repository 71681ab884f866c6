"""Where a model's first variables come from: a publisher, a file, or a seed."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from oct_jax.model.checkpoints import read_checkpoint
from oct_jax.model.download import DownloadFailed, WeightFile, fetch
from oct_jax.model.mobilenet_v3 import MobileNetV3Config, Variant
from oct_jax.model.porting import classifier_size, port, recognise
from oct_jax.model.protocol import Pretrained, build, path_name
from oct_jax.paths import expand_home
from oct_jax.types import Padding, UserError

T = TypeVar("T")

# fmt: off
PUBLISHED = {
    "timm": WeightFile(
        "https://huggingface.co/timm/mobilenetv3_large_100.ra_in1k/resolve/main/model.safetensors",
        "mobilenetv3_large_100.ra_in1k.safetensors",
        "sha256:f425af34cc1cead2b5d6211f789a1f30b94835dc32f9c0fcc5a916e4fd2dde85",
    ),
    "torchvision": WeightFile(
        "https://download.pytorch.org/models/mobilenet_v3_large-5c1a4163.pth",
        "mobilenet_v3_large-5c1a4163.pth",
        "sha256:5c1a416349c4cf298f2a6a5e2600ed0ee55e604713578f5e74e6bc8bcaef7997",
    ),
    "torchvision_v1": WeightFile(
        "https://download.pytorch.org/models/mobilenet_v3_large-8738ca79.pth",
        "mobilenet_v3_large-8738ca79.pth",
        "sha256:8738ca797c879b547d18bbd15da5736ff2557b2036a9af72225393ca61759a04",
    ),
    "keras": WeightFile(
        "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/"
        "weights_mobilenet_v3_large_224_1.0_float.h5",
        "weights_mobilenet_v3_large_224_1.0_float.h5",
        "md5:59e551e166be033d707958cf9e29a6a7",
    ),
    # Its publisher's checksum is not known here; a run records the one that was seen.
    "minimalistic": WeightFile(
        "https://huggingface.co/timm/tf_mobilenetv3_large_minimal_100.in1k/resolve/main/model.safetensors",
        "tf_mobilenetv3_large_minimal_100.in1k.safetensors",
        None,
    ),
}
# fmt: on


class Recipe(NamedTuple):
    """What a checkpoint was trained with and its keys do not say."""

    padding: Padding
    bn_epsilon: float
    bn_momentum: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# 0 to 255 scaled to -1 to 1, in Keras's words.
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

# Minimalistic weights were trained by TensorFlow, whoever republished them.
RECIPES = {
    ("torchvision", "large"): Recipe("symmetric", 1e-3, 0.99, *_IMAGENET),
    ("torchvision", "large_minimalistic"): Recipe("same", 1e-3, 0.99, *_HALF),
    ("timm", "large"): Recipe("symmetric", 1e-5, 0.9, *_IMAGENET),
    ("timm", "large_minimalistic"): Recipe("same", 1e-3, 0.9, *_HALF),
    ("keras", "large"): Recipe("same", 1e-3, 0.999, *_HALF),
    ("keras", "large_minimalistic"): Recipe("same", 1e-3, 0.999, *_HALF),
}
# Fresh statistics start far from the data: they must forget sooner than a publisher's.
RANDOM = Recipe("symmetric", 1e-3, 0.9, *_HALF)


def load_weights(
    spec: str,
    *,
    num_classes: int = 4,
    seed: int,
    variant: Variant = "large",
    width: float = 1.0,
) -> Pretrained:
    """First variables by name, by file, or by seed.

    Args:
      spec: `timm`, `torchvision`, `torchvision_v1`, `keras`, `minimalistic` (fetched from their
        publishers), `random`, or the path of a file in one of their layouts.
      num_classes: outputs of the classifier; one with another number in the file is replaced.
      seed: of whatever is fresh.
      variant: of `random`; a file brings its own.
      width: of `random`; a file brings its own.

    Raises:
      UserError: no such name or file, no network, or a file that is damaged, unsafe or of
        another network.
    """
    if spec == "random":
        return _random(num_classes, seed, variant, width)
    if spec in PUBLISHED:
        published = PUBLISHED[spec]
        source = {"name": spec, "url": published.url, "published_checksum": published.checksum}
        try:
            path = fetch(published)
        except DownloadFailed as error:
            raise UserError(
                f"{error}; or begin offline from the model in the package: weights=starter"
            ) from error
        pretrained = _load_file(path, source, num_classes, seed)
        if published.checksum:
            return pretrained
        seen = f"; its published checksum is not known, sha256 seen {pretrained.source['sha256']}"
        return dataclasses.replace(pretrained, note=pretrained.note + seen)
    path = Path(expand_home(spec))
    if not path.is_file():
        raise UserError(
            f"weights={spec}: no such file; give one, or a name: {', '.join(PUBLISHED)}, starter,"
            " random"
        )
    return _load_file(path, {"name": "file"}, num_classes, seed)


def _random(num_classes: int, seed: int, variant: Variant, width: float) -> Pretrained:
    config = _config(RANDOM, variant, width, num_classes)
    variables = build(config).init(seed)
    note = f"MobileNetV3 {variant}, every parameter fresh from seed {seed}"
    source = {"name": "random", "seed": seed}
    return Pretrained(variables, config, RANDOM.mean, RANDOM.std, source, note)


def _config(recipe: Recipe, variant: Variant, width: float, classes: int) -> MobileNetV3Config:
    return MobileNetV3Config(
        variant=variant,
        width=width,
        padding=recipe.padding,
        bn_epsilon=recipe.bn_epsilon,
        bn_momentum=recipe.bn_momentum,
        num_classes=classes,
        channels=len(recipe.mean),
    )


def _load_file(path: Path, source: dict[str, Any], num_classes: int, seed: int) -> Pretrained:
    checkpoint = read_checkpoint(path)
    layout, variant = recognise(checkpoint.arrays, str(path))
    recipe = _recipe(RECIPES[layout.name, variant], checkpoint.metadata, path)
    classes = classifier_size(checkpoint.arrays, layout) or num_classes
    stored = _config(recipe, variant, 1.0, classes)
    leaves = port(checkpoint.arrays, layout, stored, str(path))
    if classes != num_classes:
        leaves = {k: v for k, v in leaves.items() if not k.startswith("head/classifier/")}
    config = dataclasses.replace(stored, num_classes=num_classes)
    variables = jax.tree_util.tree_map_with_path(
        lambda at, fresh: jnp.asarray(leaves.get(path_name(at[1:]), fresh)),
        build(config).init(seed),
    )
    source = source | {"path": str(path), "sha256": _sha256(path), "layout": layout.name}
    note = (
        f"{path.name}, MobileNetV3 {variant} in {layout.name}'s layout, {recipe.padding} padding,"
        f" BatchNorm epsilon {recipe.bn_epsilon:g}; {_head_note(leaves, classes, config, seed)}"
    )
    return Pretrained(variables, config, recipe.mean, recipe.std, source, note)


def _head_note(
    leaves: Mapping[str, Any], classes: int, config: MobileNetV3Config, seed: int
) -> str:
    fresh = f"fresh from seed {seed}"
    if "head/hidden/kernel" not in leaves:
        return f"the file has no hidden layer: the head is {fresh}"
    if classes != config.num_classes:
        return f"its {classes}-class classifier is replaced by one of {config.num_classes}, {fresh}"
    if "head/classifier/kernel" not in leaves:
        return f"the file has no classifier: it is {fresh}"
    return f"its {classes}-class classifier is kept"


def _recipe(default: Recipe, metadata: Mapping[str, str], path: Path) -> Recipe:
    """The recipe of a layout, with what the file itself says in its place."""

    def read(name: str, parse: Callable[[str], T], otherwise: T) -> T:
        try:
            return parse(metadata[name]) if name in metadata else otherwise
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{path}: metadata {name}={metadata[name]!r}: not valid; correct it"
            ) from error

    paddings: dict[str, Padding] = {"same": "same", "symmetric": "symmetric"}
    return Recipe(
        padding=read("padding", paddings.__getitem__, default.padding),
        bn_epsilon=read("bn_epsilon", _positive, default.bn_epsilon),
        bn_momentum=default.bn_momentum,
        mean=read("mean", _finite_channels, default.mean),
        std=read("std", _positive_channels, default.std),
    )


def _positive(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise ValueError(text)
    return float(text)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def _positive_channels(text: str) -> tuple[float, ...]:
    return _channels(text, _positive)


def _finite_channels(text: str) -> tuple[float, ...]:
    return _channels(text, _finite)


def _channels(text: str, parse: Callable[[str], float]) -> tuple[float, ...]:
    """`"0.5"` for all three channels, or `"0.485, 0.456, 0.406"`."""
    values = tuple(parse(part) for part in text.strip("[]()").split(","))
    if len(values) not in (1, 3):
        raise ValueError(text)
    return values * 3 if len(values) == 1 else values


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
