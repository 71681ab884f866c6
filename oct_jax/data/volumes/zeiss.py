"""Zeiss Cirrus `.img` files: cubes of 8-bit intensities without a header.

Two sizes are known, those of the macular cubes 512x128 and 200x200, both 6 mm wide and 2 mm deep;
depth runs fastest, as OCT-Converter reads them. No file of a real device was at hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oct_jax.arrays import ScanArray
from oct_jax.data.volumes.heidelberg_vol import read_bytes
from oct_jax.data.volumes.volume import BScans, Laterality, Volume, eye_id, opaque_id

FORMAT = "Zeiss .img"
SUFFIX = ".img"
_DEPTH = 1024
_CUBES = {_DEPTH * 512 * 128: (512, 128), _DEPTH * 200 * 200: (200, 200)}
_SIDE, _DEEP = 6000.0, 2000.0
_PATIENT = re.compile(r"^(P\d+|PCZMI\d+)")
_EYES: dict[str, Laterality] = {"OD": "R", "OS": "L"}


@dataclass(frozen=True)
class CubeBScans(BScans):
    """The B-scans of a cube."""

    file: Path
    count: int
    width: int

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> ScanArray:
        """See `BScans`."""
        size = _DEPTH * self.width
        data = read_bytes(self.file, index * size, size)
        return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(self.width, _DEPTH).T)


def is_cube(path: Path) -> bool:
    """Whether a file is as long as a macular cube, and is called `.img`: it has no header."""
    try:
        return path.suffix.casefold() == SUFFIX and path.stat().st_size in _CUBES
    except OSError:
        return False


def open_cube(path: Path) -> tuple[Volume, ...]:
    """The one volume of a cube; its laterality and patient are those of the file's name."""
    width, count = _CUBES[path.stat().st_size]
    side = re.search(r"(?<![A-Za-z])(OD|OS)(?![A-Za-z])", path.name)
    laterality = _EYES[side[1]] if side else None
    named = _PATIENT.match(path.name)
    patient = opaque_id(named[1]) if named else ""
    eye = eye_id(patient, laterality)
    volume = Volume(
        name=eye or "cube",  # the device's names hold the patient's number and the date
        bscans=CubeBScans(path, count, width),
        format=FORMAT,
        spacing=(_DEEP / _DEPTH, _SIDE / width),
        distances=tuple((np.linspace(-0.5, 0.5, count) * _SIDE).tolist()),
        pattern="raster",
        laterality=laterality,
        device="Carl Zeiss Meditec Cirrus",
        patient=patient,
        eye=eye,
    )
    return (volume,)
