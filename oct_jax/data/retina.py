"""Where the retina lies in a B-scan, and the window around it that has a fixed physical size.

Everything here is integer arithmetic on 8-bit grey, so that the exported graph gives the same
pixels. The steps:

1. The scan is averaged over cells of 4x4 pixels, which also averages speckle.
2. White borders and wedges, which scanners leave where they turned or moved the picture, are
   runs of white cells from the top or the bottom of a column of cells.
3. The background is the lower quartile of the other cells: the grey of the vitreous.
4. The retina's row is the centroid of what is brighter than the mean cell, found once over the
   whole scan and twice more over a window around the row before.

The window spans `WINDOW_MICROMETRES`. Where nobody gives the size of a pixel, `scan_window` takes
it from the picture's shape.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8

from oct_jax.arrays import ScanArray

SPACING = (3.87, 11.6)
"""Micrometres a pixel, (axial, lateral), of a Spectralis B-scan of 496 rows in its usual mode."""
WINDOW = (320, 512)
"""Rows and columns of the window in pixels of `SPACING`: 1.24 mm deep, 5.9 mm wide."""

WHITE = 240
"""Grey levels from here on are a border's; JPEG leaves some of a white border below 255."""
WHITE_CELL = 64
"""Of 255: a cell with this share of white pixels, a quarter, belongs to a border."""
CELL = 4
SMALLEST = 64
"""Where a side of the scan is shorter, a cell is one pixel."""
COMMON_HEIGHTS = (192, 640)
COMMON_WIDTHS = (384, 1000)
FULL_HEIGHT = 496


class Retina(NamedTuple):
    """What `find_retina` sees in a scan.

    Attributes:
      row: pixel row of the retina's centre.
      background: grey level, 0 to 255, that borders and padding get.
      cell: side of a cell, pixels.
      above: white cells at the top of each column of cells.
      below: white cells at the bottom of each column of cells.
    """

    row: int
    background: int
    cell: int
    above: Int[np.ndarray, "columns"]
    below: Int[np.ndarray, "columns"]


def scan_window(
    scan_shape: tuple[int, int], spacing: tuple[float, float] | None = None
) -> tuple[int, int]:
    """The window's rows and columns in pixels of this scan.

    Without `spacing` the picture's shape decides:

    - 192 to 640 rows are taken as rows of 3.87 micrometres, whether the scan is whole (496) or
      was cropped; other heights as a whole scan, 1.92 mm deep, stored at another size.
    - 384 to 999 columns are taken as columns of 11.6 micrometres (512 are 20 degrees, 768 are
      30); more as the high-resolution mode's 5.8; fewer as a scan 5.9 mm wide, stored smaller.

    Args:
      scan_shape: (height, width).
      spacing: micrometres a pixel, (axial, lateral), where they are known.
    """
    rows, columns = WINDOW
    if spacing is not None:
        axial, lateral = spacing
        return (
            max(1, round(rows * SPACING[0] / axial)),
            max(1, round(columns * SPACING[1] / lateral)),
        )
    height, width = scan_shape
    if not COMMON_HEIGHTS[0] <= height <= COMMON_HEIGHTS[1]:
        rows = max(1, (height * rows + FULL_HEIGHT // 2) // FULL_HEIGHT)
    if width >= COMMON_WIDTHS[1]:
        columns *= 2
    elif width < COMMON_WIDTHS[0]:
        columns = width
    return rows, columns


def find_retina(scan: ScanArray, rows: int) -> Retina:
    """Finds the retina's row, the background and the white borders.

    Args:
      scan: uint8 grey, any shape from (1, 1).
      rows: of the window that the centroid is taken over, pixels.
    """
    cell = CELL if min(scan.shape) >= SMALLEST else 1
    cells = _averages(scan, cell)
    white = _white_cells(scan, cell)
    above, below = _runs(white), _runs(white[::-1])
    places = np.arange(len(cells))[:, None]
    inside = (places >= above) & (places < len(cells) - below)
    levels = cells[inside]
    middle = scan.shape[0] // 2
    if not levels.size:
        return Retina(middle, 0, cell, above, below)
    counts = np.bincount(levels, minlength=256).cumsum()
    background = int(np.searchsorted(counts, (levels.size + 3) // 4))
    mean = int(levels.sum(dtype=np.int64)) // levels.size
    excess = (np.maximum(cells, mean) - np.uint8(mean)) * inside
    profile = excess.sum(1, dtype=np.int64)
    row = _centroid(profile, 0, len(profile), cell, middle)
    for _ in range(2):
        first = max((row - rows // 2) // cell, 0)
        last = min((row + rows // 2) // cell + 1, len(profile))
        row = _centroid(profile, first, last, cell, row)
    return Retina(row, background, cell, above, below)


def fill_borders(scan: ScanArray, retina: Retina) -> ScanArray:
    """The scan with the background in place of white borders; itself where it has none."""
    if not retina.above.any() and not retina.below.any():
        return scan
    filled = scan.copy()
    height, width = scan.shape
    rows = height // retina.cell
    for column in np.flatnonzero(retina.above | retina.below):
        # What is left beyond the last whole cell belongs to it.
        end = width if column == len(retina.above) - 1 else (column + 1) * retina.cell
        columns = slice(column * retina.cell, end)
        filled[: retina.above[column] * retina.cell, columns] = retina.background
        if retina.below[column]:
            filled[(rows - retina.below[column]) * retina.cell :, columns] = retina.background
    return filled


def cut_window(
    scan: ScanArray, top: int, left: int, shape: tuple[int, int], background: int
) -> UInt8[np.ndarray, "rows columns"]:
    """A window of a scan, which may reach beyond it; there it holds the background."""
    height, width = scan.shape
    bottom, right = top + shape[0], left + shape[1]
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        return scan[top:bottom, left:right]
    window = np.full(shape, background, np.uint8)
    rows = slice(max(top, 0), min(bottom, height))
    columns = slice(max(left, 0), min(right, width))
    window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = scan[
        rows, columns
    ]
    return window


def _averages(levels: UInt8[np.ndarray, "h w"], cell: int) -> UInt8[np.ndarray, "rows columns"]:
    """Means of whole cells, by halving: each time (a + b + c + d + 2) // 4 of 2x2 pixels."""
    height, width = (side // cell * cell for side in levels.shape)
    while cell > 1:
        height, width, cell = height // 2, width // 2, cell // 2
        whole = levels[: 2 * height, : 2 * width]
        levels = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    return levels


def _white_cells(scan: ScanArray, cell: int) -> Bool[np.ndarray, "rows columns"]:
    """Cells of which a quarter is white, or more: a border may be one pixel wide."""
    white = (scan >= WHITE).view(np.uint8) * np.uint8(255)
    return _averages(white, cell) >= WHITE_CELL


def _runs(white: Bool[np.ndarray, "rows columns"]) -> Int[np.ndarray, "columns"]:
    """Length of the run of white cells at the top of each column, and the cell below it.

    That cell is partly white, or holds the ringing that JPEG leaves beside an edge.
    """
    rows = len(white)
    lengths = np.where(white.all(0), rows, white.argmin(0))
    return np.where(lengths > 0, np.minimum(lengths + 1, rows), 0)


def _centroid(
    profile: Int[np.ndarray, "rows"], first: int, last: int, cell: int, otherwise: int
) -> int:
    """Pixel row of the centroid of cells `first` to `last`; `otherwise` where all are 0."""
    weights = profile[first:last]
    total = int(weights.sum())
    if not total:
        return otherwise
    # The centre of cell i is pixel (2 i + 1) cell / 2.
    return int(weights @ (2 * np.arange(first, last) + 1)) * cell // (2 * total)
