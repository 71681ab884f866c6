"""What is measured of one scan's file."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagehash
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from oct_jax.arrays import ScanArray
from oct_jax.data.manifest import Record, scan_bytes
from oct_jax.data.readers import decode_scan
from oct_jax.types import UserError

WHITE = 250
SHORTCUT_FEATURES = ("width", "height", "aspect", "border", "mean", "contrast")
_FRAME = 4  # pixels along each edge in which white borders are looked for
_THUMBNAIL = 32
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
}


@dataclass(frozen=True)
class Measured:
    """One readable scan and what was measured of it.

    Attributes:
      record: path, label, patient, official split, size and hash.
      storage: format, colour mode and bits a channel, as "JPEG L 8 bit".
      odd: what is odd about the file, or "".
      border: share of the outermost pixels that are white, 0 to 1.
      mean: grey level, 0 to 255.
      contrast: standard deviation of grey levels.
      phash: perceptual hash.
      thumbnail: the scan squashed to 32x32.
    """

    record: Record
    storage: str
    odd: str
    border: float
    mean: float
    contrast: float
    phash: int
    thumbnail: UInt8[np.ndarray, "32 32"]

    @property
    def features(self) -> tuple[float, ...]:
        """What the trivial classifier sees: `SHORTCUT_FEATURES`."""
        width, height = self.record.width, self.record.height
        return width, height, width / height, self.border, self.mean, self.contrast


def measure_file(record: Record, *, root: Path) -> Measured:
    """Measures the file of a record, below `root`.

    Raises:
      UserError: it is gone, or another file than the one that was listed.
    """
    try:
        data = scan_bytes(root, record.path)
    except OSError as error:
        raise UserError(f"cannot read {root / record.path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise UserError(f"{root / record.path} changed while it was audited; audit again")
    return measure(data, record)


def measure(data: bytes, record: Record) -> Measured:
    """Measures one file.

    Args:
      data: its content.
      record: what the listing knows of it.

    Raises:
      UnreadableScan: not one readable scan.
    """
    scan = decode_scan(data, record.path)
    # The hash's own first step; near duplicates are confirmed on the same small picture.
    small = Image.fromarray(scan).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    (mean,), (contrast,) = cv2.meanStdDev(scan)
    with Image.open(io.BytesIO(data)) as image:
        kind, mode = str(image.format), image.mode
        bits = _bits_per_channel(image)
    return Measured(
        record=record,
        storage=f"{kind} {mode} {bits} bit",
        odd=_oddity(record.path, kind, mode),
        border=white_border(scan),
        mean=float(mean[0]),
        contrast=float(contrast[0]),
        phash=int(str(imagehash.phash(small)), 16),
        thumbnail=np.asarray(small, np.uint8),
    )


def white_border(scan: ScanArray) -> float:
    """Share of the outermost pixels that are white: scanners fill what they moved with white."""
    inner = scan[_FRAME:-_FRAME, _FRAME:-_FRAME]
    white = np.count_nonzero(scan >= WHITE) - np.count_nonzero(inner >= WHITE)
    return white / (scan.size - inner.size)


def _bits_per_channel(image: Image.Image) -> int:
    if image.mode.startswith("I") or ";16" in str(getattr(image, "tile", "")):
        return 16
    return {"1": 1, "F": 32}.get(image.mode, 8)


def _oddity(path: str, kind: str, mode: str) -> str:
    suffix = Path(path).suffix.lower()
    odd = []
    if suffix not in _SUFFIXES[kind]:
        odd.append(f"{kind} called {suffix or 'nothing'}")
    if mode not in ("L", "I;16"):
        odd.append(f"colour mode {mode}")
    return "; ".join(odd)
