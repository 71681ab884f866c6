"""Topcon `.fda` and `.fds` files: chunks with names, one after the other.

The structure is that of the uocte project, as OCT-Converter has it; no file of a real device was at
hand. `.fda` holds JPEG 2000 pictures as displayed, or 16-bit intensities; `.fds` the latter.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from oct_jax.arrays import ScanArray
from oct_jax.data.readers import UnreadableScan, grey_picture, shape_problem
from oct_jax.data.volumes.display import LINEAR_16, linear_16
from oct_jax.data.volumes.heidelberg_vol import read_bytes
from oct_jax.data.volumes.volume import (
    AS_STORED,
    MAX_BSCANS,
    BScans,
    Laterality,
    Localizer,
    Volume,
    checked_spacing,
    eye_id,
    opaque_id,
    safe_name,
    straight,
)

FORMAT = "Topcon .fda or .fds"
MAGIC = b"FOCT"
_PICTURES = b"@IMG_JPEG"
_RAW = (b"@IMG_MOT_COMP_03", b"@IMG_SCAN_03")
_PICTURES_HEAD = struct.Struct("<B6I")
_RAW_HEAD = struct.Struct("<B4IBI")
_MOST_CHUNKS = 10_000
_MOST_BYTES = 64_000_000
_PICTURE_FORMATS = ("JPEG2000", "JPEG")
_RASTER = 2

Chunks = dict[bytes, tuple[int, int]]


@dataclass(frozen=True)
class PictureBScans(BScans):
    """B-scans that are JPEG 2000 pictures inside of a file."""

    file: Path
    places: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int) -> ScanArray:
        """See `BScans`."""
        return _picture(self.file, *self.places[index])


@dataclass(frozen=True)
class RawBScans(BScans):
    """B-scans of 16-bit intensities, one after the other."""

    file: Path
    start: int
    count: int
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> ScanArray:
        """See `BScans`."""
        height, width = self.shape
        size = 2 * height * width
        data = read_bytes(self.file, self.start + index * size, size)
        return linear_16(np.frombuffer(data, "<u2").reshape(height, width))


def open_topcon(path: Path) -> tuple[Volume, ...]:
    """The one volume of a file; of a truncated file, the B-scans that are whole.

    Raises:
      UnreadableScan: damaged, or no B-scan in it that can be read.
    """
    try:
        chunks = _chunks_of(path)
        bscans, announced, mode = _bscans(path, chunks)
        if not len(bscans):
            raise UnreadableScan(str(path), "truncated: it holds no whole B-scan")
        return (_volume(path, chunks, bscans, announced, mode),)
    except struct.error as error:
        raise UnreadableScan(str(path), f"damaged or truncated ({error})") from error


def _volume(path: Path, chunks: Chunks, bscans: BScans, announced: int, mode: int) -> Volume:
    width = bscans.read(0).shape[1]
    sides = _sides(path, chunks)
    laterality = _laterality(path, chunks)
    person = _person(path, chunks)
    patient = opaque_id(*person)
    eye = eye_id(patient, laterality)
    raster = mode == _RASTER and len(bscans) > 1
    distances: tuple[float, ...] = ()
    if raster and sides is not None and 100 < 1000 * sides[1] < 50_000:
        places = np.linspace(-0.5, 0.5, announced)[: len(bscans)] * 1000 * sides[1]
        distances = tuple(places.tolist())
    paths = _paths(path, chunks, announced, len(bscans)) if raster else ()
    missing = ()
    if len(bscans) < announced:
        missing = (
            f"the file is truncated: B-scans {len(bscans) + 1} to {announced} of {announced}"
            " are missing",
        )
    return Volume(
        name=safe_name(path.stem, person, eye or "eye"),
        bscans=bscans,
        format=FORMAT,
        transform=AS_STORED if isinstance(bscans, PictureBScans) else LINEAR_16,
        spacing=checked_spacing((sides[2], 1000 * sides[0] / width)) if sides else None,
        paths=paths,
        distances=distances,
        pattern="raster" if raster else "radial" if mode == 3 else "unknown",
        laterality=laterality,
        device=f"Topcon {_device(path, chunks)}".strip(),
        localizer=_localizer(path, chunks),
        patient=patient,
        eye=eye,
        missing=missing,
    )


def _chunks_of(path: Path) -> Chunks:
    """Start and size of each chunk, the first of every name."""
    chunks: Chunks = {}
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(15)
            for _ in range(_MOST_CHUNKS):
                length = file.read(1)
                if length in (b"", b"\x00"):
                    break
                name = file.read(length[0])
                stored = file.read(4)
                if len(stored) < 4:
                    break
                start, extent = file.tell(), struct.unpack("<I", stored)[0]
                chunks.setdefault(name, (start, min(extent, max(size - start, 0))))
                file.seek(start + extent)
    except OSError as error:
        raise UnreadableScan(str(path), error.strerror or str(error)) from error
    return chunks


def _bscans(path: Path, chunks: Chunks) -> tuple[BScans, int, int]:
    """The B-scans that are whole, how many were announced, and the scan mode."""
    if _PICTURES in chunks:
        start, size = chunks[_PICTURES]
        mode, _, _, _, _, count, _ = _PICTURES_HEAD.unpack(_read(path, start, _PICTURES_HEAD.size))
        _check_count(path, count)
        places = _frames(path, start + _PICTURES_HEAD.size, start + size, count)
        return PictureBScans(path, places), count, mode
    for name in _RAW:
        if name in chunks:
            start, size = chunks[name]
            head = _RAW_HEAD.unpack(_read(path, start, _RAW_HEAD.size))
            mode, width, height, _, count, _, _ = head
            _check_count(path, count)
            problem = shape_problem(height, width)
            if problem:
                raise UnreadableScan(str(path), f"damaged header: {problem}")
            whole = max(size - _RAW_HEAD.size, 0) // (2 * height * width)
            first = start + _RAW_HEAD.size
            return RawBScans(path, first, min(count, whole), (height, width)), count, mode
    raise UnreadableScan(str(path), "holds no B-scans in a known chunk")


def _frames(path: Path, place: int, end: int, count: int) -> tuple[tuple[int, int], ...]:
    places = []
    for _ in range(count):
        if place + 4 > end:
            break
        size = struct.unpack("<i", _read(path, place, 4))[0]
        if size <= 0 or size > _MOST_BYTES or place + 4 + size > end:
            break
        places.append((place + 4, size))
        place += 4 + size
    return tuple(places)


def _check_count(path: Path, count: int) -> None:
    if not 1 <= count <= MAX_BSCANS:
        raise UnreadableScan(str(path), f"damaged header: announces {count} B-scans")


def _sides(path: Path, chunks: Chunks) -> tuple[float, float, float] | None:
    """Millimetres along and across the B-scans, micrometres a pixel in depth."""
    for name, first in ((b"@PARAM_SCAN_04", 12), (b"@PARAM_SCAN_02", 21)):
        if name in chunks and chunks[name][1] >= first + 24:
            sides = struct.unpack("<3d", _read(path, chunks[name][0] + first, 24))
            return sides if all(math.isfinite(side) and side > 0 for side in sides) else None
    return None


def _laterality(path: Path, chunks: Chunks) -> Laterality | None:
    for name in (b"@CAPTURE_INFO_02", b"@CAPTURE_INFO"):
        if name in chunks and chunks[name][1]:
            side = _read(path, chunks[name][0], 1)[0]
            return "R" if side == 0 else "L" if side == 1 else None
    return None


def _device(path: Path, chunks: Chunks) -> str:
    for name in (b"@HW_INFO_03", b"@HW_INFO_02", b"@HW_INFO_01"):
        if name in chunks and chunks[name][1] >= 16:
            return _ascii(_read(path, chunks[name][0], 16))
    return ""


def _person(path: Path, chunks: Chunks) -> tuple[str, ...]:
    if b"@PATIENT_INFO_02" not in chunks or chunks[b"@PATIENT_INFO_02"][1] < 111:
        return ()
    data = _read(path, chunks[b"@PATIENT_INFO_02"][0], 111)
    birth = struct.unpack_from("<3H", data, 105)
    born = "-".join(map(str, birth)) if any(birth) else ""
    return (_ascii(data[:32]), _ascii(data[64:96]), born)


def _localizer(path: Path, chunks: Chunks) -> Localizer | None:
    if b"@IMG_FUNDUS" not in chunks or chunks[b"@IMG_FUNDUS"][1] <= 24:
        return None
    start, size = chunks[b"@IMG_FUNDUS"]
    return Localizer(partial(_picture, path, start + 24, size - 24))


def _paths(path: Path, chunks: Chunks, announced: int, whole: int):
    """Over the fundus photograph, from the box that the device registered the scan to."""
    if b"@REGIST_INFO" not in chunks or chunks[b"@REGIST_INFO"][1] < 25:
        return ()
    left, top, right, bottom = struct.unpack("<4I", _read(path, chunks[b"@REGIST_INFO"][0] + 9, 16))
    if not (left < right < 20_000 and top < bottom < 20_000):
        return ()
    rows = np.linspace(top, bottom, announced)[:whole]
    paths = [straight((left, float(row)), (right, float(row))) for row in rows]
    return () if any(line is None for line in paths) else tuple(paths)


def _picture(path: Path, start: int, size: int) -> ScanArray:
    data = read_bytes(path, start, min(size, _MOST_BYTES))
    try:
        with Image.open(io.BytesIO(data), formats=_PICTURE_FORMATS) as picture:
            return grey_picture(picture)
    except UnreadableScan as error:
        reason = error.reason
    except Exception as error:  # on damaged files Pillow raises a dozen types
        reason = f"damaged or truncated ({' '.join(str(error).split())})"
    raise UnreadableScan(str(path), reason)


def _read(path: Path, start: int, size: int) -> bytes:
    return read_bytes(path, start, size)


def _ascii(data: bytes) -> str:
    text = data.split(b"\x00")[0].decode("ascii", "replace").strip()
    return text if text.isprintable() else ""
