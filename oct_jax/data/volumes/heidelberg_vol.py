"""Heidelberg `.vol` files (HEYEX "RAW" export): a header, the localizer, and B-scans as floats.

Offsets from Heidelberg's description of the format, version HSF-OCT-103, as eyepy has them.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oct_jax.arrays import ScanArray
from oct_jax.data.readers import UnreadableScan, shape_problem
from oct_jax.data.volumes.display import HEYEX_LOG, heyex_log
from oct_jax.data.volumes.volume import (
    MAX_BSCANS,
    BScans,
    Laterality,
    Localizer,
    Pattern,
    Volume,
    around,
    checked_spacing,
    eye_id,
    offsets,
    opaque_id,
    safe_name,
    straight,
)

FORMAT = "Heidelberg .vol"
MAGIC = b"HSF-OCT-"
_HEADER = struct.Struct("<12s3I3d2I2dId4sQiI16s16sI24sd")
_HEADER_SIZE = 2048
_BSCAN = struct.Struct("<12sI4d")
_CIRCLE = 2
_PATTERNS: dict[int, Pattern] = {
    1: "line",
    _CIRCLE: "circle",
    3: "raster",
    4: "raster",
    5: "radial",
}
_EYES: dict[str, Laterality] = {"OD": "R", "OS": "L"}


class _Header(NamedTuple):
    version: bytes
    width: int
    count: int
    height: int
    scale_x: float
    distance: float
    scale_z: float
    localizer_width: int
    localizer_height: int
    localizer_scale_x: float
    localizer_scale_y: float
    field: int
    focus: float
    position: bytes
    exam_time: int
    pattern: int
    bscan_header: int
    scan_id: bytes
    reference_id: bytes
    patient_number: int
    patient_id: bytes
    birth_date: float

    @property
    def localizer_size(self) -> int:
        return self.localizer_width * self.localizer_height

    @property
    def bscan_size(self) -> int:
        return self.bscan_header + 4 * self.width * self.height

    def start_of(self, index: int) -> int:
        """Where B-scan `index`, with its header, begins in the file."""
        return _HEADER_SIZE + self.localizer_size + index * self.bscan_size


@dataclass(frozen=True)
class VolBScans(BScans):
    """B-scans of one file: floats from `first`, every `step` bytes."""

    file: Path
    count: int
    shape: tuple[int, int]
    first: int
    step: int

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> ScanArray:
        """See `BScans`."""
        height, width = self.shape
        data = read_bytes(self.file, self.first + index * self.step, 4 * height * width)
        return heyex_log(np.frombuffer(data, "<f4").reshape(height, width))


def open_vol(path: Path) -> tuple[Volume, ...]:
    """The one volume of a `.vol` file; of a truncated file, the B-scans that are whole.

    Raises:
      UnreadableScan: the header is damaged, or no B-scan is whole.
    """
    data = read_bytes(path, 0, _HEADER_SIZE)
    header = _Header(*_HEADER.unpack_from(data))
    _check(header, path)
    whole = (os.path.getsize(path) - header.start_of(0)) // header.bscan_size
    count = min(header.count, max(whole, 0))
    if not count:
        raise UnreadableScan(str(path), "truncated: it holds no whole B-scan")
    localizer = _localizer(path, header)
    paths = _paths(path, header, count, localizer)
    laterality = _EYES.get(_ascii(header.position).upper())
    fields = _patient_fields(header)
    patient = opaque_id(*fields)
    eye = eye_id(patient, laterality)
    missing = ()
    if count < header.count:
        missing = (
            f"the file is truncated: B-scans {count + 1} to {header.count} of {header.count}"
            " are missing",
        )
    volume = Volume(
        name=safe_name(path.stem, fields, eye or "eye"),
        bscans=VolBScans(
            path,
            count,
            (header.height, header.width),
            header.start_of(0) + header.bscan_header,
            header.bscan_size,
        ),
        format=FORMAT,
        transform=HEYEX_LOG,
        spacing=checked_spacing((1000 * header.scale_z, 1000 * header.scale_x)),
        paths=paths,
        distances=offsets(paths, localizer.spacing if localizer else None),
        pattern=_PATTERNS.get(header.pattern, "line" if header.count == 1 else "unknown"),
        laterality=laterality,
        device="Heidelberg Engineering Spectralis",
        localizer=localizer,
        patient=patient,
        eye=eye,
        missing=missing,
    )
    return (volume,)


def read_bytes(path: Path, start: int, size: int) -> bytes:
    """Part of a file.

    Raises:
      UnreadableScan: the file is gone or ends before.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
    except (OSError, OverflowError, ValueError) as error:
        raise UnreadableScan(str(path), getattr(error, "strerror", None) or str(error)) from error
    if len(data) < size:
        raise UnreadableScan(str(path), "truncated")
    return data


def _check(header: _Header, path: Path) -> None:
    problem = shape_problem(header.height, header.width)
    if not problem and not 1 <= header.count <= MAX_BSCANS:
        problem = f"announces {header.count} B-scans"
    if not problem and not 256 <= header.bscan_header <= 64_000_000:
        problem = f"B-scan headers of {header.bscan_header} bytes"
    if not problem and header.localizer_size:
        problem = shape_problem(header.localizer_height, header.localizer_width)
    if problem:
        raise UnreadableScan(str(path), f"damaged header: {problem}")


def _localizer(path: Path, header: _Header) -> Localizer | None:
    if not header.localizer_size:
        return None
    scales = (1000 * header.localizer_scale_y, 1000 * header.localizer_scale_x)
    plausible = all(0.5 <= scale <= 200 for scale in scales)
    shape = (header.localizer_height, header.localizer_width)
    return Localizer(partial(_read_localizer, path, shape), scales if plausible else None)


def _read_localizer(path: Path, shape: tuple[int, int]) -> np.ndarray:
    data = read_bytes(path, _HEADER_SIZE, shape[0] * shape[1])
    return np.frombuffer(data, np.uint8).reshape(shape)


def _paths(path: Path, header: _Header, count: int, localizer: Localizer | None):
    if localizer is None or localizer.spacing is None:
        return ()
    down, across = localizer.spacing
    paths = []
    for index in range(count):
        data = read_bytes(path, header.start_of(index), _BSCAN.size)
        _, _, x0, y0, x1, y1 = _BSCAN.unpack(data)
        start, end = (1000 * x0 / across, 1000 * y0 / down), (1000 * x1 / across, 1000 * y1 / down)
        line = straight(start, end)
        # Of a circular scan, the end is its centre.
        paths.append(around(end, start) if line is not None and _is_circle(header) else line)
    return () if any(line is None for line in paths) else tuple(paths)


def _is_circle(header: _Header) -> bool:
    return header.pattern == _CIRCLE


def _patient_fields(header: _Header) -> tuple[str, ...]:
    known = math.isfinite(header.birth_date) and header.birth_date > 0
    number = str(header.patient_number) if header.patient_number else ""
    return (_ascii(header.patient_id), number, f"{header.birth_date:.0f}" if known else "")


def _ascii(data: bytes) -> str:
    return data.split(b"\x00")[0].decode("ascii", "replace").strip()
