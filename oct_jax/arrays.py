"""Array types shared by several subpackages: element type and shape, checked under pytest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

# For functions that take what the host or the device holds.
AnyArray: TypeAlias = Array | np.ndarray
# For functions that give a NumPy array where they are given one, and a JAX array likewise.
SameArray: TypeAlias = Any
# One B-scan as read from disk: grey, 0 (dark) to 255 (bright), rows from vitreous to choroid.
ScanArray: TypeAlias = UInt8[np.ndarray, "height width"]
# What the loader yields: resized grey scans and class indices.
ScanBatch: TypeAlias = UInt8[np.ndarray, "batch size size"]
LabelBatch: TypeAlias = Int32[np.ndarray, "batch"]
# Inputs and outputs of a model, channels last. The underscores leave sizes free: the input and the
# output of a layer need only agree in their batch.
Images: TypeAlias = Float[Array, "batch _height _width _channels"]
FeatureMap: TypeAlias = Float[Array, "batch _rows _columns _features"]
Logits: TypeAlias = Float[Array, "batch classes"]
# A random change to a training scan: from a grey image, 0 to 255, of twice the side of the model's
# input, and a generator, to an image of the same shape and dtype. Pure: decided by the two alone,
# and safe to call from many threads.
Augmentation: TypeAlias = Callable[
    [UInt8[np.ndarray, "rows columns"], np.random.Generator], UInt8[np.ndarray, "rows columns"]
]


def namespace_of(array: AnyArray) -> Any:
    """`numpy` or `jax.numpy`, whichever the array is of; inside a jitted function the latter."""
    return array.__array_namespace__()


def widest(array: AnyArray) -> Any:
    """The array for arithmetic: a NumPy array as float64, a JAX array as float32."""
    return array.astype(np.float64 if isinstance(array, np.ndarray) else np.float32)
