"""Heidelberg `.e2e` and `.sdb` files: a linked list of directories of chunks.

The structure is that of the uocte and LibE2E projects, as OCT-Converter and eyepy have it; no file
of a real device was at hand. Positions are degrees from the centre of the localizer.
"""

from __future__ import annotations

import functools
import math
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from oct_jax.arrays import ScanArray
from oct_jax.data.readers import UnreadableScan, shape_problem
from oct_jax.data.volumes.display import HEYEX_LOG, heyex_log
from oct_jax.data.volumes.heidelberg_vol import read_bytes
from oct_jax.data.volumes.volume import (
    MAX_BSCANS,
    BScans,
    Laterality,
    Localizer,
    Volume,
    checked_spacing,
    eye_id,
    offsets,
    opaque_id,
    safe_name,
    straight,
)

FORMAT = "Heidelberg .e2e"
MAGICS = (b"CMDb", b"E2EMultipleVolumeFile")
MICROMETRES_PER_DEGREE = 288.0
"""On the retina of an eye of normal length: the file gives angles, not lengths."""

_DIRECTORY = struct.Struct("<12sI20s4I")
_ENTRY = struct.Struct("<7IiHHII")
_CHUNK = struct.Struct("<12s8IiHHII")
_IMAGE = struct.Struct("<5I")
_BSCAN = struct.Struct("<3I4fIff")
_PATIENT = struct.Struct("<31s51s15sI1s25s")
_PATIENT_TYPE, _PLACE_TYPE, _IMAGE_TYPE = 9, 10004, 0x40000000
_SIDE_AT = {11: 14, 3: 4}
"""Where chunks of these types hold the letter of the eye."""
_BSCAN_IMAGE, _LOCALIZER_IMAGE = 0x02200201, 0x02010201
_FIELD = 30.0
"""Degrees that the localizer spans, which the file does not say."""
_MOST_CHUNKS = 2_000_000


class _Image(NamedTuple):
    start: int
    height: int
    width: int


@dataclass
class _Series:
    """What the chunks of one series hold."""

    bscans: dict[int, _Image] = field(default_factory=dict)
    places: dict[int, tuple[float, ...]] = field(default_factory=dict)
    localizer: _Image | None = None
    laterality: Laterality | None = None
    announced: int = 0


@dataclass(frozen=True)
class E2EBScans(BScans):
    """B-scans of one series."""

    file: Path
    images: tuple[_Image, ...]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> ScanArray:
        """See `BScans`."""
        image = self.images[index]
        data = read_bytes(self.file, image.start, 2 * image.height * image.width)
        levels = np.frombuffer(data, "<u2").reshape(image.height, image.width)
        return heyex_log(_floats()[levels])


def open_e2e(path: Path) -> tuple[Volume, ...]:
    """The volumes of a file, one for each series of B-scans.

    Raises:
      UnreadableScan: damaged, or no B-scans in it.
    """
    series: dict[tuple[int, ...], _Series] = defaultdict(_Series)
    people: dict[int, tuple[str, ...]] = {}
    try:
        with path.open("rb") as file:
            for place in _chunks(file):
                _note(file, place, series, people)
    except OSError as error:
        raise UnreadableScan(str(path), error.strerror or str(error)) from error
    except (struct.error, ValueError, OverflowError) as error:
        raise UnreadableScan(str(path), f"damaged or truncated ({error})") from error
    with_images = [(key, scans) for key, scans in sorted(series.items()) if scans.bscans]
    if not with_images:
        raise UnreadableScan(str(path), "holds no B-scans")
    return tuple(
        _volume(path, scans, people.get(key[0], ()), number)
        for number, (key, scans) in enumerate(with_images)
    )


def _chunks(file: BinaryIO) -> Iterator[int]:
    """Where the header of every chunk in the directories is."""
    skip = 64 if file.read(21) == b"E2EMultipleVolumeFile" else 0
    _, place, _ = _directory(file, skip + 36)
    seen: set[int] = set()
    count = 0
    while place and place not in seen:
        seen.add(place)
        entries, _, previous = _directory(file, place + skip)
        count += entries
        if count > _MOST_CHUNKS:
            raise ValueError(f"{count} chunks")
        table = file.read(entries * _ENTRY.size)
        chunks = []
        for position, start, *_ in _ENTRY.iter_unpack(
            table[: len(table) // _ENTRY.size * _ENTRY.size]
        ):
            if start > position:
                chunks.append(start + skip)
        yield from chunks
        place = previous


def _directory(file: BinaryIO, place: int) -> tuple[int, int, int]:
    """Number of entries, the last directory, the one before this."""
    file.seek(place)
    _, _, _, entries, current, previous, _ = _DIRECTORY.unpack(file.read(_DIRECTORY.size))
    return entries, current, previous


def _note(
    file: BinaryIO,
    place: int,
    series: dict[tuple[int, ...], _Series],
    people: dict[int, tuple[str, ...]],
) -> None:
    """Keeps what is wanted of one chunk; what is damaged or unknown is passed over."""
    file.seek(place)
    head = file.read(_CHUNK.size)
    if len(head) < _CHUNK.size or not head.startswith(b"MDbData"):
        return
    _, _, _, _, _, _, patient, study, number, slice_id, index, _, kind, _ = _CHUNK.unpack(head)
    scans = series[patient, study, number]
    if kind == _PATIENT_TYPE:
        people.setdefault(patient, _person(file.read(_PATIENT.size)))
    elif kind in _SIDE_AT:
        side = file.read(_SIDE_AT[kind] + 1)[-1:].decode("ascii", "replace").upper()
        scans.laterality = scans.laterality or (
            "R" if side == "R" else "L" if side == "L" else None
        )
    elif kind == _PLACE_TYPE:
        data = file.read(72)
        if len(data) == 72:
            _, _, _, x0, y0, x1, y1, _, _, scale = _BSCAN.unpack_from(data)
            scans.places[slice_id] = (x0, y0, x1, y1, scale)
            announced = struct.unpack_from("<I", data, 64)[0]
            scans.announced = max(scans.announced, announced if announced <= MAX_BSCANS else 0)
    elif kind == _IMAGE_TYPE:
        _note_image(file, place + _CHUNK.size, slice_id, index, scans)


def _note_image(file: BinaryIO, place: int, slice_id: int, index: int, scans: _Series) -> None:
    data = file.read(_IMAGE.size)
    if len(data) < _IMAGE.size:
        return
    _, kind, _, height, width = _IMAGE.unpack(data)
    if shape_problem(height, width):
        return
    image = _Image(place + _IMAGE.size, height, width)
    if kind == _BSCAN_IMAGE or index == 1:
        if len(scans.bscans) >= MAX_BSCANS:
            raise ValueError(f"more than {MAX_BSCANS} B-scans")
        scans.bscans[slice_id] = image
    elif kind == _LOCALIZER_IMAGE or index == 0:
        scans.localizer = scans.localizer or image


def _volume(path: Path, scans: _Series, person: tuple[str, ...], number: int) -> Volume:
    slices = sorted(scans.bscans)
    images = tuple(scans.bscans[slice_id] for slice_id in slices)
    places = [scans.places.get(slice_id) for slice_id in slices]
    localizer = _localizer(path, scans)
    paths = _paths(places, scans.localizer)
    patient = opaque_id(*person)
    eye = eye_id(patient, scans.laterality)
    name = safe_name(path.stem, person, eye or "eye")
    numbers = tuple(slice_id // 2 + 1 for slice_id in slices)
    usual = len(set(numbers)) == len(numbers) and min(numbers) >= 1 and len(numbers) > 1
    missing = ()
    if scans.announced > len(slices):
        gone = sorted(set(range(1, scans.announced + 1)) - set(numbers)) if usual else []
        named = f": {', '.join(map(str, gone[:50]))}" if gone else ""
        missing = (
            f"{scans.announced - len(slices)} of {scans.announced} B-scans are missing{named}",
        )
    return Volume(
        name=name if number == 0 else f"{name}-{number + 1}",
        bscans=E2EBScans(path, images),
        format=FORMAT,
        transform=HEYEX_LOG,
        spacing=_spacing(places, images[0].width),
        paths=paths,
        distances=offsets(paths, localizer.spacing if localizer else None),
        pattern="raster" if len(images) > 2 and len(paths) else "unknown",
        laterality=scans.laterality,
        device="Heidelberg Engineering Spectralis",
        localizer=localizer,
        patient=patient,
        eye=eye,
        numbers=numbers if usual else (),
        missing=missing,
    )


def _localizer(path: Path, scans: _Series) -> Localizer | None:
    if scans.localizer is None:
        return None
    _, height, width = scans.localizer
    scales = [_FIELD / side * MICROMETRES_PER_DEGREE for side in (height, width)]
    return Localizer(partial(_read_localizer, path, scans.localizer), (scales[0], scales[1]))


def _read_localizer(path: Path, image: _Image) -> np.ndarray:
    data = read_bytes(path, image.start, image.height * image.width)
    return np.frombuffer(data, np.uint8).reshape(image.height, image.width)


def _paths(places: list[tuple[float, ...] | None], localizer: _Image | None):
    if localizer is None:
        return ()
    paths = []
    for place in places:
        if place is None:
            return ()
        across, down = localizer.width / _FIELD, localizer.height / _FIELD
        x0, y0, x1, y1 = (
            (value + _FIELD / 2) * scale
            for value, scale in zip(place[:4], (across, down, across, down), strict=True)
        )
        paths.append(straight((x0, y0), (x1, y1)))
    return () if any(path is None for path in paths) else tuple(paths)


def _spacing(places: list[tuple[float, ...] | None], width: int) -> tuple[float, float] | None:
    if places[0] is None or not all(map(math.isfinite, places[0])):
        return None
    x0, y0, x1, y1, scale = places[0]
    lateral = math.dist((x0, y0), (x1, y1)) * MICROMETRES_PER_DEGREE / width
    return checked_spacing((1000 * scale, lateral))


def _person(data: bytes) -> tuple[str, ...]:
    if len(data) < _PATIENT.size:
        return ()
    _, surname, _, birth, _, number = _PATIENT.unpack(data)
    words = [part.split(b"\x00")[0].decode("latin-1").strip() for part in (number, surname)]
    return (*words, str(birth) if birth else "")


@functools.cache
def _floats() -> np.ndarray:
    """Value of each 16-bit float: six bits of exponent over ten of mantissa, no sign.

    OCT-Converter 0.7 and eyepy 0.21 take the mantissa's bits in reverse order, which would make
    the values jump; here larger numbers are larger values.
    """
    bits = np.arange(65536, dtype=np.int64)
    values = (1 + (bits & 1023) / 1024) * 2.0 ** ((bits >> 10) - 63)
    # The largest marks what lies outside of the scan.
    return np.where(values > 1.99, np.inf, values).astype(np.float32)
