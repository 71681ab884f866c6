"""What callers give as scans: paths, arrays or Pillow pictures, one or many; made grey arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from PIL import Image

from oct_jax.arrays import ScanArray
from oct_jax.data.readers import grey_picture, read_scan, shape_problem
from oct_jax.types import UserError

EXPECTED = (
    "a scan is a path, a Pillow picture or a grey uint8 array of shape (height, width);"
    " several are a sequence or an iterator of such, or an array of shape (scans, height, width)"
)


def list_scans(scans: object) -> tuple[list[object], bool]:
    """Scans as a list, and whether there were several rather than a single one.

    Args:
      scans: a path, a Pillow picture, a NumPy or JAX array of shape (height, width) or (scans,
        height, width), or any iterable of single scans.

    Raises:
      TypeError: something else.
      UserError: an array of another number of dimensions, or a colour picture.
    """
    if isinstance(scans, (str, os.PathLike, Image.Image)):
        return [scans], False
    if _is_array(scans):
        array = np.asarray(scans)
        if array.ndim == 3 and array.shape[-1] not in (3, 4):
            return list(array), True
        return [_checked(array)], False
    if isinstance(scans, (bytes, bytearray, memoryview, dict)) or not isinstance(scans, Iterable):
        raise TypeError(f"{type(scans).__name__}: {EXPECTED}")
    return list(scans), True


def grey_levels(scan: object) -> ScanArray:
    """A single scan as an array: read from its file, or converted to NumPy.

    Returns:
      uint8 of shape (height, width), 0 black to 255 white.

    Raises:
      TypeError: not a path, a picture or an array.
      UserError: a file or picture that is not a readable scan, or an array that is not a grey one.
    """
    if isinstance(scan, (str, os.PathLike)):
        return read_scan(scan)
    if isinstance(scan, Image.Image):
        return grey_picture(scan)
    if _is_array(scan):
        return _checked(np.asarray(scan))
    raise TypeError(f"{type(scan).__name__}: {EXPECTED}")


def _is_array(value: object) -> bool:
    # JAX arrays have it too, and need not be imported to be recognised.
    return hasattr(value, "__array__") and not isinstance(value, type)


def _checked(pixels: np.ndarray) -> ScanArray:
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or not pixels.size:
        raise UserError(f"array of shape {pixels.shape}, {pixels.dtype}: {EXPECTED}")
    problem = shape_problem(*pixels.shape)
    if problem:
        raise UserError(f"array: {problem}")
    return pixels
