"""Publishers' MobileNetV3 checkpoints as our variables: names, layouts, transforms.

Every leaf of our model has exactly one key in each publisher's layout, and every key of a file
feeds exactly one leaf; anything else is an error that lists what does not fit.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import jax
import numpy as np

from oct_jax.model.checkpoints import Arrays
from oct_jax.model.mobilenet_v3 import Block, MobileNetV3Config, Variant, blocks_of
from oct_jax.model.protocol import build, path_name
from oct_jax.types import UserError

Transform: TypeAlias = Callable[[np.ndarray], np.ndarray]


class Module(NamedTuple):
    """What a publisher calls one of our modules: its convolution, and its BatchNorm if any."""

    conv: str
    norm: str = ""


Modules: TypeAlias = dict[str, Module]


def _torchvision(blocks: Collection[Block]) -> Modules:
    modules = {
        "backbone/stem": Module("features.0.0", "features.0.1"),
        "backbone/last": Module(f"features.{len(blocks) + 1}.0", f"features.{len(blocks) + 1}.1"),
        "head/hidden": Module("classifier.0"),
        "head/classifier": Module("classifier.3"),
    }
    for row, block in enumerate(blocks):
        ours = f"backbone/blocks/{row}"
        parts = ["expand"] * (row > 0) + ["depthwise"] + ["se"] * block.squeeze + ["project"]
        for position, part in enumerate(parts):
            prefix = f"features.{row + 1}.block.{position}"
            if part == "se":
                modules[f"{ours}/squeeze_excite/reduce"] = Module(f"{prefix}.fc1")
                modules[f"{ours}/squeeze_excite/expand"] = Module(f"{prefix}.fc2")
            else:
                modules[f"{ours}/{part}"] = Module(f"{prefix}.0", f"{prefix}.1")
    return modules


# Rows of the block table in each of timm's stages.
_TIMM_STAGES = (1, 2, 3, 4, 2, 3)


def _timm(_: Collection[Block]) -> Modules:
    modules = {
        "backbone/stem": Module("conv_stem", "bn1"),
        "backbone/last": Module("blocks.6.0.conv", "blocks.6.0.bn1"),
        "head/hidden": Module("conv_head"),
        "head/classifier": Module("classifier"),
    }
    places = [f"{stage}.{i}" for stage, size in enumerate(_TIMM_STAGES) for i in range(size)]
    for row, place in enumerate(places):
        ours = f"backbone/blocks/{row}"
        prefix = f"blocks.{place}"
        names = ["conv_dw", "conv_pw"] if row == 0 else ["conv_pw", "conv_dw", "conv_pwl"]
        parts = ["depthwise", "project"] if row == 0 else ["expand", "depthwise", "project"]
        for number, (part, name) in enumerate(zip(parts, names, strict=True), 1):
            modules[f"{ours}/{part}"] = Module(f"{prefix}.{name}", f"{prefix}.bn{number}")
        modules[f"{ours}/squeeze_excite/reduce"] = Module(f"{prefix}.se.conv_reduce")
        modules[f"{ours}/squeeze_excite/expand"] = Module(f"{prefix}.se.conv_expand")
    return modules


def _keras(blocks: Collection[Block]) -> Modules:
    modules = {
        "backbone/stem": Module("conv", "conv_bn"),
        "backbone/last": Module("conv_1", "conv_1_bn"),
        "head/hidden": Module("conv_2"),
        "head/classifier": Module("logits"),
    }
    for row in range(len(blocks)):
        ours = f"backbone/blocks/{row}"
        prefix = f"expanded_conv_{row}" if row else "expanded_conv"
        for part in ("expand", "depthwise", "project"):
            modules[f"{ours}/{part}"] = Module(f"{prefix}_{part}", f"{prefix}_{part}_bn")
        modules[f"{ours}/squeeze_excite/reduce"] = Module(f"{prefix}_squeeze_excite_conv")
        modules[f"{ours}/squeeze_excite/expand"] = Module(f"{prefix}_squeeze_excite_conv_1")
    return modules


# By the kind of our leaf; shapes are theirs -> ours.
_TORCH_TRANSFORMS: dict[str, Transform] = {
    "conv": lambda w: w.transpose(2, 3, 1, 0),  # (O, I, k, k) -> (k, k, I, O)
    "depthwise": lambda w: w.transpose(2, 3, 1, 0),  # (C, 1, k, k) -> (k, k, 1, C)
    "matrix": lambda w: w.reshape(w.shape[:2]).T,  # (O, I) or (O, I, 1, 1) -> (I, O)
    "vector": lambda w: w,
}
_KERAS_TRANSFORMS: dict[str, Transform] = {
    "conv": lambda w: w,  # (k, k, I, O)
    "depthwise": lambda w: w.transpose(0, 1, 3, 2),  # (k, k, C, 1) -> (k, k, 1, C)
    "matrix": lambda w: w.reshape(w.shape[-2:]),  # (1, 1, I, O) -> (I, O)
    "vector": lambda w: w,
}

# Our leaf -> theirs, in a convolution (or dense layer) and in the BatchNorm after it.
_TORCH_CONV = {"kernel": ".weight", "bias": ".bias"}
_TORCH_NORM = {"scale": ".weight", "bias": ".bias", "mean": ".running_mean", "var": ".running_var"}
_KERAS_CONV = {"kernel": "/kernel", "bias": "/bias"}
_KERAS_NORM = {
    "scale": "/gamma",
    "bias": "/beta",
    "mean": "/moving_mean",
    "var": "/moving_variance",
}


@dataclass(frozen=True)
class Layout:
    """How one publisher names and lays out its arrays.

    Attributes:
      name: of the publisher's library.
      marker: a key that every file of this layout has and no other.
      squeeze: a part of the keys of squeeze-excite and of no other.
      modules: names of the publisher's modules, by ours.
      conv: names of the arrays of a convolution or dense layer, by ours.
      norm: names of the arrays of a BatchNorm, by ours.
      transforms: from the publisher's arrays to ours, by the kind of our leaf.
    """

    name: Literal["torchvision", "timm", "keras"]
    marker: str
    squeeze: str
    modules: Callable[[Collection[Block]], Modules]
    conv: Mapping[str, str]
    norm: Mapping[str, str]
    transforms: Mapping[str, Transform]


LAYOUTS = (
    Layout(
        name="torchvision",
        marker="features.0.0.weight",
        squeeze=".fc1.",
        modules=_torchvision,
        conv=_TORCH_CONV,
        norm=_TORCH_NORM,
        transforms=_TORCH_TRANSFORMS,
    ),
    Layout(
        name="timm",
        marker="conv_stem.weight",
        squeeze=".se.",
        modules=_timm,
        conv=_TORCH_CONV,
        norm=_TORCH_NORM,
        transforms=_TORCH_TRANSFORMS,
    ),
    Layout(
        name="keras",
        marker="conv/kernel",
        squeeze="_squeeze_excite_",
        modules=_keras,
        conv=_KERAS_CONV,
        norm=_KERAS_NORM,
        transforms=_KERAS_TRANSFORMS,
    ),
)
# PyTorch's BatchNorm counts its batches; nothing here reads that.
_IGNORED = ".num_batches_tracked"


class Row(NamedTuple):
    """One line of the key map: which array of the file feeds which leaf, and how."""

    key: str
    leaf: str
    transform: str


def key_map(layout: Layout, config: MobileNetV3Config) -> tuple[Row, ...]:
    """The whole correspondence between a publisher's file and our variables."""
    modules = layout.modules(blocks_of(config))
    rows = []
    for name, shape in leaf_shapes(config).items():
        module, _, array = name.rpartition("/")
        theirs = modules[module]
        if theirs.norm and array != "kernel":
            key = theirs.norm + layout.norm[array]
        else:
            key = theirs.conv + layout.conv[array]
        rows.append(Row(key, name, _kind(module, shape)))
    return tuple(rows)


def _kind(module: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return "depthwise" if module.endswith("/depthwise") else "conv"
    return "matrix" if len(shape) == 2 else "vector"


def recognise(arrays: Arrays, where: str) -> tuple[Layout, Variant]:
    """The publisher's layout and the architecture of a file, by its keys.

    Raises:
      UserError: the keys are of no known layout.
    """
    for layout in LAYOUTS:
        if layout.marker in arrays:
            squeezes = any(layout.squeeze in key for key in arrays)
            return layout, "large" if squeezes else "large_minimalistic"
    raise UserError(
        f"{where}: not MobileNetV3-Large in the layout of timm, torchvision or Keras"
        f" ({_listed(arrays)}); give one of those"
    )


def classifier_size(arrays: Arrays, layout: Layout) -> int | None:
    """The number of classes of the classifier in a file; None where it has none."""
    key = layout.modules(())["head/classifier"].conv + layout.conv["bias"]
    return len(arrays[key]) if key in arrays and arrays[key].ndim else None


def port(arrays: Arrays, layout: Layout, config: MobileNetV3Config, where: str) -> Arrays:
    """A publisher's arrays as ours, float32, by the names of our leaves.

    Args:
      arrays: of the file, by its own keys.
      layout: of the file.
      config: of the model in the file; `num_classes` is the file's.
      where: the file, for messages.

    Returns:
      One array for every leaf of the model, less the classifier or the head where the file has
      none.

    Raises:
      UserError: keys are missing, feed nothing or feed two leaves, or arrays have another shape
        or numbers that are not finite; it lists them.
    """
    absent = _absent_head(arrays, layout)
    rows = [row for row in key_map(layout, config) if not row.leaf.startswith(absent)]
    shapes = leaf_shapes(config)
    keys = Counter(row.key for row in rows)
    extra = [key for key in arrays if key not in keys and not key.endswith(_IGNORED)]
    present = [row for row in rows if row.key in arrays]
    ported = {
        row.leaf: _apply(layout.transforms[row.transform], arrays[row.key]) for row in present
    }
    wrong = {
        "missing": [row.key for row in rows if row.key not in arrays],
        "unknown": extra,
        "used twice": [key for key, times in keys.items() if times > 1],
        "misshapen": [
            f"{row.key} {arrays[row.key].shape}"
            for row in present
            if ported[row.leaf].shape != shapes[row.leaf]
        ],
        "not finite": [row.key for row in present if not np.isfinite(ported[row.leaf]).all()],
    }
    problems = [f"{len(keys)} {what} ({_listed(keys)})" for what, keys in wrong.items() if keys]
    if problems:
        raise UserError(
            f"{where}: does not fit MobileNetV3 {config.variant} in {layout.name}'s layout:"
            f" {'; '.join(problems)}; give a checkpoint of exactly this network"
        )
    return ported


def leaf_shapes(config: MobileNetV3Config) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf of a model's variables, by its name."""
    leaves = jax.tree_util.tree_leaves_with_path(build(config).shapes)
    return {path_name(path[1:]): leaf.shape for path, leaf in leaves}


def _absent_head(arrays: Arrays, layout: Layout) -> tuple[str, ...]:
    """What a file without its top lacks of our head: the classifier, or both layers."""
    absent = []
    for ours in ("head/classifier", "head/hidden"):
        theirs = layout.modules(())[ours].conv
        if any(theirs + array in arrays for array in layout.conv.values()):
            break
        absent.append(f"{ours}/")
    return tuple(absent)


def _apply(transform: Transform, array: np.ndarray) -> np.ndarray:
    try:
        return transform(array).astype(np.float32)
    except ValueError:
        return array  # of another rank: its shape says so


def _listed(names: Collection[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
