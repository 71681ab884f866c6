"""From a scan to the model's input: the one definition of resize, grey handling and z-score.

Training, evaluation, explanation and the exported graph use this module or are tested against it.
The scan stays uint8 and grey until `normalise`, which runs on the accelerator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, UInt8
from PIL import Image

from oct_jax.arrays import ScanArray
from oct_jax.data.retina import cut_window, fill_borders, find_retina, scan_window
from oct_jax.types import Resize, UserError

LARGEST_SIDE = 8192
"""Pixels of the largest input: a model file that asks for more is damaged or means harm."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a scan becomes the model's input; saved with every trained model.

    Attributes:
      size: side of the square of the model's input, pixels.
      resize: `squash` changes the aspect ratio to fit the whole scan; `letterbox` keeps it and
        pads with black; `crop` keeps it and takes the central square; `retina` takes a window of
        fixed physical size around the retina (see `oct_jax.data.retina`).
      mean: of each channel, on the [0, 1] scale; its length is the number of channels.
      std: of each channel, on the [0, 1] scale.

    Raises:
      UserError: a value that no scan could be prepared with.
    """

    size: int = 224
    resize: Resize = "squash"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if not 1 <= self.size <= LARGEST_SIDE:
            raise UserError(
                f"size={self.size}: the model's input needs a side of 1 to {LARGEST_SIDE} pixels"
            )
        if self.resize not in get_args(Resize):
            choices = ", ".join(get_args(Resize))
            raise UserError(f"resize={self.resize!r}: choose one of {choices}")
        if not self.mean or len(self.mean) != len(self.std):
            raise UserError(
                f"mean={self.mean} std={self.std}: give one value of each for every channel"
            )
        if not all(map(math.isfinite, self.mean)) or not all(0 < s < math.inf for s in self.std):
            raise UserError(
                f"mean={self.mean} std={self.std}: means must be finite, deviations above 0"
            )

    @property
    def channels(self) -> int:
        """Number of channels that the grey scan is repeated to."""
        return len(self.mean)


@dataclass(frozen=True)
class HeatmapGrid:
    """Where the positions of a feature map look in the model's input.

    Position (i, j) looks at pixel (offset_y + scale_y i, offset_x + scale_x j); the centre of the
    first pixel is (0, 0). Measured by `oct_jax.model.grid`; JSON by `dataclasses.asdict`.

    Attributes:
      scale_y: input pixels between two rows of the feature map.
      scale_x: input pixels between two columns.
      offset_y: input row of the first row.
      offset_x: input column of the first column.

    Raises:
      UserError: a scale is not above 0.
    """

    scale_y: float
    scale_x: float
    offset_y: float
    offset_x: float

    def __post_init__(self):
        if not (self.scale_y > 0 and self.scale_x > 0):
            raise UserError(f"heatmap grid: scales of {self.scale_y} and {self.scale_x}; above 0")


PIXELS = HeatmapGrid(1.0, 1.0, 0.0, 0.0)
"""The grid of a map over the input's own pixels."""


@dataclass(frozen=True)
class Span:
    """Along one axis: `extent` scan pixels from `start` become `length` pixels after `padding`."""

    start: float
    extent: float
    padding: int
    length: int


@dataclass(frozen=True)
class Geometry:
    """Which part of a scan of `scan_shape` (height, width) lands where in the model's input.

    The extent of `retina` may reach beyond the scan.
    """

    scan_shape: tuple[int, int]
    rows: Span
    columns: Span

    def of_resized(self, scan_shape: tuple[int, int]) -> Geometry:
        """The same part of the scan, where the scan itself was resized to another shape."""
        spans = [
            replace(span, start=span.start * count / before, extent=span.extent * count / before)
            for span, count, before in zip(
                (self.rows, self.columns), scan_shape, self.scan_shape, strict=True
            )
        ]
        return Geometry(scan_shape, *spans)


def geometry(
    scan: ScanArray, preprocess: Preprocess, spacing: tuple[float, float] | None = None
) -> Geometry:
    """Where a scan lands in the (size, size) input.

    `squash`, `letterbox` and `crop` depend on the scan's shape alone and are symmetric about the
    centre, so that a mirrored scan gives the mirrored input: the letterbox pads both sides alike
    (its inner length is the nearest to the true aspect ratio with the parity of `size`), and the
    crop may start on half a pixel. `retina` depends on what the scan shows.

    Args:
      scan: uint8 grey.
      preprocess: the target size and form.
      spacing: micrometres a pixel, (axial, lateral), where known; only `retina` uses them.
    """
    if preprocess.resize == "retina":
        window = scan_window(scan.shape, spacing)
        return _around(scan.shape, window, find_retina(scan, window[0]).row, preprocess.size)
    return _of_shape(scan.shape, preprocess)


def _around(scan_shape: tuple[int, int], window: tuple[int, int], row: int, size: int) -> Geometry:
    rows, columns = window
    left = (scan_shape[1] - columns) // 2
    return Geometry(scan_shape, Span(row - rows // 2, rows, 0, size), Span(left, columns, 0, size))


def _of_shape(scan_shape: tuple[int, int], preprocess: Preprocess) -> Geometry:
    size = preprocess.size
    if preprocess.resize == "squash":
        spans = [Span(0.0, extent, 0, size) for extent in scan_shape]
    elif preprocess.resize == "letterbox":
        longest = max(scan_shape)
        paddings = [
            min(round(size * (longest - extent) / (2 * longest)), (size - 1) // 2)
            for extent in scan_shape
        ]
        spans = [
            Span(0.0, extent, padding, size - 2 * padding)
            for extent, padding in zip(scan_shape, paddings, strict=True)
        ]
    else:
        shortest = min(scan_shape)
        spans = [Span((extent - shortest) / 2, shortest, 0, size) for extent in scan_shape]
    return Geometry(scan_shape, *spans)


def resize_scan(
    scan: ScanArray, preprocess: Preprocess, spacing: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "size size"]:
    """Resize to (size, size) by antialiased bicubic interpolation, Pillow's on 8-bit grey.

    The letterbox pads with 0: a constant that needs no guess at the background, which is near
    black in the vitreous and white in the wedges that scanners leave at the border. Crop is the
    resize of the central square straight to its final size; the scaled long side never exists, so
    that a very long scan costs no memory. `retina` fills white borders and what lies beyond the
    scan with the grey of the vitreous.

    Args:
      scan: uint8 grey, any shape from (1, 1).
      preprocess: the target size and form.
      spacing: as for `geometry`.

    Returns:
      uint8 of shape (size, size), in 0..255.
    """
    if preprocess.resize == "retina":
        return _resize_around_retina(scan, preprocess.size, spacing)
    spans = _of_shape(scan.shape, preprocess)
    rows, columns = spans.rows, spans.columns
    resized = _resample(scan, rows, columns)
    padded = np.zeros((preprocess.size, preprocess.size), np.uint8)
    padded[
        rows.padding : rows.padding + rows.length,
        columns.padding : columns.padding + columns.length,
    ] = resized
    return padded


def _resize_around_retina(
    scan: ScanArray, size: int, spacing: tuple[float, float] | None
) -> UInt8[np.ndarray, "size size"]:
    window = scan_window(scan.shape, spacing)
    retina = find_retina(scan, window[0])
    spans = _around(scan.shape, window, retina.row, size)
    filled = fill_borders(scan, retina)
    top, left = int(spans.rows.start), int(spans.columns.start)
    cut = cut_window(filled, top, left, window, retina.background)
    return _resample(cut, Span(0, window[0], 0, size), Span(0, window[1], 0, size))


def _resample(
    scan: UInt8[np.ndarray, "_rows _columns"], rows: Span, columns: Span
) -> UInt8[np.ndarray, "_length _length_of_columns"]:
    """Pillow's bicubic: first every row to the new width, then every column to the new height.

    In two calls, because which direction one call begins with depends on Pillow's version.
    """
    bicubic = Image.Resampling.BICUBIC
    across = (columns.start, 0, columns.start + columns.extent, scan.shape[0])
    narrow = Image.fromarray(scan).resize((columns.length, scan.shape[0]), bicubic, across)
    down = (0, rows.start, columns.length, rows.start + rows.extent)
    return np.array(narrow.resize((columns.length, rows.length), bicubic, down))


def to_scan_coordinates(
    cells: Float32[np.ndarray, "rows columns"], grid: HeatmapGrid, spans: Geometry
) -> Float32[np.ndarray, "height width"]:
    """Draw a map of few positions over the scan: one sampling of a spline, from grid to scan.

    Each scan pixel's centre is carried to the input, as `resize_scan` does, and from there to the
    grid, where the map is a cubic B-spline (`spline_weights`), scaled so that its peak over the
    input is 1. Beyond the outermost positions the map goes on as it is there; what lies on padding
    is dropped; scan pixels outside the crop or the window get 0.

    Args:
      cells: float32 of shape (rows, columns), at least 0, for example a class activation map.
      grid: where its positions are in the input; `PIXELS` for a map over the input's pixels.
      spans: `geometry` of the scan.

    Returns:
      float32 of the scan's shape, in [0, 1].
    """
    rows, inside_rows = _in_input(spans.scan_shape[0], spans.rows)
    columns, inside_columns = _in_input(spans.scan_shape[1], spans.columns)
    size = 2 * spans.rows.padding + spans.rows.length
    peak = _sample(cells, grid, np.arange(size), np.arange(size)).max()
    drawn = _sample(_over_peak(cells, peak), grid, rows, columns)
    # A scan finer than the input may have its peak between two pixels of the input.
    return np.minimum(drawn, 1) * (inside_rows[:, None] & inside_columns)


def to_input_coordinates(
    cells: Float32[np.ndarray, "rows columns"], grid: HeatmapGrid, size: int
) -> Float32[np.ndarray, "size size"]:
    """The same over the model's input: float32 of shape (size, size)."""
    drawn = _sample(cells, grid, np.arange(size), np.arange(size))
    return _over_peak(drawn, drawn.max())


def spline_weights(
    positions: Float[np.ndarray, "pixels"], count: int
) -> Float32[np.ndarray, "pixels {count}"]:
    """What each of `count` values adds to a uniform cubic B-spline at some positions.

    The spline is a smoothing one: positive, and as wide as what a position of a feature map sees,
    which overlaps with its neighbours'. Its peak may lie between positions, where two strong
    neighbours meet; interpolation that is linear, or passes through every value, holds it at one of
    them. Unser 1999, "Splines: a perfect fit for signal and image processing", equation 1.

    Args:
      positions: where to evaluate; value k is at k. Outside of [0, count - 1] the spline is what it
        is at that end.
      count: of the values; the outermost are repeated beyond the ends.

    Returns:
      float32 (pixels, count), of rows whose sum is 1.
    """
    inside = np.clip(positions, 0, count - 1)
    away = np.abs(inside[:, None] - np.arange(-1, count + 1))
    near, far = np.maximum(1 - away, 0), np.maximum(2 - away, 0)
    weights = (far**3 - 4 * near**3) / 6
    weights[:, 1] += weights[:, 0]
    weights[:, -2] += weights[:, -1]
    return weights[:, 1:-1].astype(np.float32)


def _in_input(count: int, span: Span) -> tuple[np.ndarray, np.ndarray]:
    """For `count` scan pixels: where their centres are in the input, in pixels, and if inside."""
    centres = (np.arange(count) + 0.5 - span.start) / span.extent
    inside = (centres >= 0) & (centres <= 1)
    positions = np.clip(centres * span.length - 0.5, 0, span.length - 1)
    return positions + span.padding, inside


def _sample(
    cells: np.ndarray, grid: HeatmapGrid, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """The spline at input positions, in pixels of which the first's centre is 0."""
    down = spline_weights((rows - grid.offset_y) / grid.scale_y, cells.shape[0])
    across = spline_weights((columns - grid.offset_x) / grid.scale_x, cells.shape[1])
    return down @ cells @ across.T


def _over_peak(values: np.ndarray, peak: np.floating) -> np.ndarray:
    return values / peak if peak > 0 else values


def normalise(
    images: UInt8[Array | np.ndarray, "batch size size"]
    | Float[Array | np.ndarray, "batch size size"],
    preprocess: Preprocess,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "batch size size channels"]:
    """Grey to channels, then the z-score of the weights: (image / 255 - mean) / std.

    Pure and jit-able. Computed in float32 whatever the `dtype` of the result.

    Args:
      images: (batch, size, size) grey, uint8 or float, in 0..255.
      preprocess: mean and std of each channel.
      dtype: of the result.

    Returns:
      (batch, size, size, channels) of `dtype`.
    """
    mean = jnp.asarray(preprocess.mean, jnp.float32)
    std = jnp.asarray(preprocess.std, jnp.float32)
    grey = jnp.asarray(images).astype(jnp.float32)[..., None] / 255.0
    return ((grey - mean) / std).astype(dtype)
