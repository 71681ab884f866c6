"""Image files to grey scans: JPEG, PNG, TIFF and BMP, detected from content."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from oct_jax.arrays import ScanArray
from oct_jax.types import UserError

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded (decompression bombs)."""
MAX_ASPECT = 32
"""Longer pictures are not B-scans: the widest that scanners make are some ten times as wide as
high."""

_ORIENTATION_TAG = 0x0112
_JPEG_END = b"\xff\xd9"
_CHUNK = 1024

Item = TypeVar("Item")
Result = TypeVar("Result")


class UnreadableScan(UserError):
    """A file that is not one readable scan.

    Attributes:
      name: the file, as the caller named it.
      reason: what is wrong with it, in one line.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)  # both in `args`, so that it pickles
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read scan {self.name}: {self.reason}"


class _Refusal(Exception):
    """Why a picture is refused; `decode_scan` adds the name."""


def read_scan(path: str | os.PathLike[str]) -> ScanArray:
    """Reads one file; see `decode_scan`.

    Raises:
      UnreadableScan: no such file, or not one readable scan.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableScan(os.fspath(path), error.strerror or str(error)) from error
    return decode_scan(data, os.fspath(path))


def decode_scan(data: bytes, name: str) -> ScanArray:
    """Decodes one picture to grey levels, whatever its file is called.

    - Colour becomes luma (ITU-R BT.601, as in Pillow); transparency is composited over black.
    - 16 bits: full scale is the smallest of 255, 4095 and 65535 that holds the brightest pixel,
      because cameras store 12 (and some programs 8) bits in 16-bit files without saying so.
    - Floats are taken as 0 to 1 if none is above 1, else as 0 to 255.
    - EXIF orientation is applied.

    Args:
      data: the content of a JPEG, PNG, TIFF or BMP file.
      name: what to call it in an error.

    Returns:
      uint8 of shape (height, width), 0 black to 255 white.

    Raises:
      UnreadableScan: empty, truncated or not an image, more than one frame, a shape that no
        scanner makes (`shape_problem`), or a kind of pixel without a sure meaning as grey.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_shape(image)
            return _grey(image, data)
    except _Refusal as error:
        reason = str(error)
    except UnidentifiedImageError:
        reason = "not a JPEG, PNG, TIFF or BMP image" if data else "the file is empty"
    except Image.DecompressionBombError:
        reason = f"more than {MAX_PIXELS // 10**6} megapixels"
    except Exception as error:  # on damaged files Pillow raises a dozen types, SyntaxError too
        reason = f"damaged or truncated ({' '.join(str(error).split())})"
    raise UnreadableScan(name, reason)


def shape_problem(height: int, width: int) -> str:
    """Why no B-scan has this shape, in words; "" where one may.

    >>> shape_problem(496, 512)
    ''
    """
    size = f"{width}x{height}"
    if width * height > MAX_PIXELS:
        return f"{size} is more than {MAX_PIXELS // 10**6} megapixels"
    if width * height == 0:
        return f"{size} holds no pixel"
    if max(width, height) > MAX_ASPECT * min(width, height):
        return f"{size} is not a B-scan: one side is more than {MAX_ASPECT} times the other"
    return ""


def map_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Result]:
    """Yields `function(item)` in order, computed in threads; decoding and hashing free the GIL.

    Args:
      function: what to do with an item.
      items: handed out a chunk at a time, so that an interrupt is not held up by a long queue.
      progress: called with (done, total) in the caller's thread.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(items), _CHUNK):
            results = pool.map(function, items[start : start + _CHUNK])
            for done, result in enumerate(results, start + 1):
                if progress is not None:
                    progress(done, len(items))
                yield result


def _check_shape(image: Image.Image) -> None:
    problem = shape_problem(image.height, image.width)
    if problem:
        raise _Refusal(problem)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise _Refusal(f"holds {frames} frames; save each B-scan as a file of its own")


def _grey(image: ImageFile.ImageFile, data: bytes) -> ScanArray:
    if _is_plain_grey_jpeg(image, data):
        # The same libjpeg-turbo and the same levels as Pillow's, without Pillow's two copies.
        levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if levels is not None:
            return levels
    picture = _colour_of_16_bits(image, data) if _is_16_bit_colour(image) else image
    return _levels(picture)


def grey_picture(picture: Image.Image) -> ScanArray:
    """The grey levels of an open Pillow picture, as `decode_scan` has them of a file's.

    16-bit colour is out of its reach: Pillow keeps the high byte only.

    Raises:
      UnreadableScan: damaged, a shape that no scanner makes, or pixels without a sure meaning.
    """
    problem = shape_problem(picture.height, picture.width)
    try:
        if not problem:
            return _levels(picture)
    except (_Refusal, OSError, SyntaxError, ValueError) as error:
        problem = " ".join(str(error).split())
    raise UnreadableScan(f"{picture.mode} picture", problem)


def _levels(picture: Image.Image) -> ScanArray:
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        return _from_integers(np.asarray(picture))
    if picture.mode == "F":
        return _from_floats(np.asarray(picture))
    return _luma(picture)


def _is_plain_grey_jpeg(image: Image.Image, data: bytes) -> bool:
    # Without its end marker a JPEG is truncated, or followed by foreign bytes: Pillow knows which.
    return (
        image.format == "JPEG"
        and image.mode == "L"
        and data.endswith(_JPEG_END)
        and image.getexif().get(_ORIENTATION_TAG, 1) == 1
    )


def _is_16_bit_colour(image: ImageFile.ImageFile) -> bool:
    deep = image.format in ("PNG", "TIFF") and ";16" in str(image.tile[0].args)
    return deep and image.mode in ("LA", "RGB", "RGBA")


def _colour_of_16_bits(image: Image.Image, data: bytes) -> Image.Image:
    """Reads by OpenCV what Pillow would cut to the high byte, so that 12 bits in 16 survive."""
    levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None or levels.dtype != np.uint16 or levels.ndim != 3:
        raise _Refusal("16-bit colour of an unusual kind; save it as 16-bit grey or 8-bit colour")
    colour = _from_integers(levels[..., 2::-1])  # OpenCV's order is blue, green, red, alpha
    alpha = (levels[..., 3:] // 257).astype(np.uint8)
    converted = Image.fromarray(np.concatenate([colour, alpha], axis=-1))
    converted.info = image.info  # holds the orientation
    return converted


def _from_integers(levels: Integer[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65535:
        raise _Refusal(f"levels of {low} to {high}; integers of more than 8 bits must fit 16")
    full = next(full for full in (255, 4095, 65535) if high <= full)
    return ((levels.astype(np.uint32) * 255 + full // 2) // full).astype(np.uint8)


def _from_floats(levels: Float[np.ndarray, "h w"]) -> ScanArray:
    low, high = float(levels.min()), float(levels.max())
    if not (low >= 0 and high <= 255):  # so written that it refuses NaN
        raise _Refusal(f"floats of {low:g} to {high:g}; scale them to 0..1 or 0..255")
    scale = 255.0 if high <= 1 else 1.0
    return np.rint(levels * scale).astype(np.uint8)


def _luma(image: Image.Image) -> ScanArray:
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
        raise _Refusal(f"colour mode {image.mode}; save it as grey or RGB")
    return np.array(image.convert("L"))
