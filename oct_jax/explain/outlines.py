"""Lesions that people outlined: read from a folder, and compared with heatmaps.

<folder>/
  scans/        PATIENT_NUMBER.png, one B-scan each
  <grader>/     a mask of the same name and size for every scan, 0 outside of the lesions

There is one folder for each grader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from oct_jax.arrays import ScanArray
from oct_jax.data.preprocess import Geometry, Span
from oct_jax.data.readers import UnreadableScan, read_scan
from oct_jax.explain.faithfulness import energy_inside, points_at, top_share
from oct_jax.types import UserError

SCANS = "scans"
FIGURES = ("pointing_game", "pointing_game_strict", "share_inside", "dice", "lesion_area")

Mask = Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class OutlinedScan:
    """A scan and the lesions that each grader outlined.

    Attributes:
      name: of the files.
      patient: the file's name before its last `_`.
      scan: uint8 grey, (height, width).
      masks: of each grader, True inside of a lesion; of the scan's shape.
    """

    name: str
    patient: str
    scan: ScanArray
    masks: tuple[Mask, ...]

    @property
    def lesion(self) -> Mask:
        """What any grader outlined."""
        return np.any(self.masks, axis=0)


def read_outlines(folder: Path) -> list[OutlinedScan]:
    """The scans of a folder on which a grader outlined something.

    Raises:
      UserError: no scans or no masks; a mask is missing, unreadable, coloured or of another size
        than its scan; or nobody outlined anything.
    """
    scans = sorted(path for path in (folder / SCANS).glob("*") if not path.name.startswith("."))
    graders = sorted(path for path in folder.glob("*") if path.is_dir() and path.name != SCANS)
    if not scans or not graders:
        raise UserError(
            f"masks={folder}: must hold {SCANS}/ with scans, and beside it a folder of masks of the"
            " same names for each grader"
        )
    outlined = [_read(path, graders) for path in scans]
    lesions = [one for one in outlined if one.lesion.any()]
    if not lesions:
        raise UserError(f"masks={folder}: every mask is empty; lesions must be above 0")
    return lesions


def agreement(scans: Sequence[OutlinedScan]) -> float | None:
    """Mean Dice of the first two graders over scans; None where there is one grader."""
    pairs = [one.masks[:2] for one in scans if len(one.masks) > 1]
    return float(np.mean([dice(*pair) for pair in pairs])) if pairs else None


def dice(first: Mask, second: Mask) -> float:
    """Dice 1945: twice the common area over the sum of areas; 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def compare(
    heat: Float[np.ndarray, "size size"],
    lesion: Bool[np.ndarray, "size size"],
    tolerance: int,
    rng: np.random.Generator,
) -> list[float]:
    """The `FIGURES` of one map over the model's input.

    Args:
      heat: the map, in [0, 1].
      lesion: not empty.
      tolerance: of the pointing game, pixels.
      rng: orders equal pixels among the highest.
    """
    highest = top_share(heat, lesion.mean(), rng)
    return [
        points_at(heat, lesion, tolerance),
        points_at(heat, lesion, 0),
        energy_inside(heat, lesion),
        dice(highest, lesion),
        lesion.mean(),
    ]


def _read(path: Path, graders: Sequence[Path]) -> OutlinedScan:
    try:
        scan = read_scan(path)
    except UnreadableScan as error:
        raise UserError(str(error)) from error
    masks = tuple(_read_mask(grader / path.name, scan) for grader in graders)
    return OutlinedScan(path.name, path.stem.rpartition("_")[0] or path.stem, scan, masks)


def _read_mask(path: Path, scan: ScanArray) -> Mask:
    try:
        with Image.open(path) as picture:
            mode, mask = picture.mode, np.asarray(picture)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such mask; every scan needs one, empty if need be") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable mask ({error})") from error
    if mask.ndim != 2:
        raise UserError(f"{path}: a mask is black and white or grey, not {mode}")
    if mask.shape != scan.shape:
        rows, columns = scan.shape
        raise UserError(
            f"{path}: {mask.shape[0]} rows and {mask.shape[1]} columns; its scan has {rows} and"
            f" {columns}"
        )
    return mask > 0


def over_input(mask: Mask, spans: Geometry, size: int) -> Bool[np.ndarray, "size size"]:
    """A mask of a scan over the model's input: the nearest scan pixel of each input pixel.

    Args:
      mask: of the scan.
      spans: `geometry` of the scan itself, for a window may depend on what the scan shows.
      size: of the input.
    """
    rows, inside_rows = _nearest(size, spans.rows, mask.shape[0])
    columns, inside_columns = _nearest(size, spans.columns, mask.shape[1])
    return mask[rows][:, columns] & inside_rows[:, None] & inside_columns


def _nearest(size: int, span: Span, count: int) -> tuple[np.ndarray, np.ndarray]:
    along = (np.arange(size) + 0.5 - span.padding) / span.length
    places = np.floor(span.start + along * span.extent).astype(np.int64)
    inside = (along >= 0) & (along <= 1) & (places >= 0) & (places < count)
    return np.clip(places, 0, count - 1), inside
