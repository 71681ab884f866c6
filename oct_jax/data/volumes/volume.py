"""What a volume is: B-scans in order, read one at a time, with what the device says of them."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from oct_jax.arrays import ScanArray
from oct_jax.data.readers import shape_problem
from oct_jax.types import UserError

Laterality: TypeAlias = Literal["R", "L"]
Pattern: TypeAlias = Literal["raster", "radial", "circle", "line", "unknown"]

MAX_BSCANS = 4096
"""Files that announce more are refused: no scanner makes so many."""
AS_STORED = "as stored"
"""The transform of formats that hold grey levels as they are displayed."""


class BScans(ABC):
    """Reads the B-scans of one volume. Immutable, picklable, and safe to use from many threads."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of B-scans."""

    @abstractmethod
    def read(self, index: int) -> ScanArray:
        """B-scan `index`, uint8 grey as displayed, of shape (height, width).

        Raises:
          UnreadableScan: the file is gone, damaged or truncated.
        """


@dataclass(frozen=True)
class ArrayBScans(BScans):
    """Arrays in memory."""

    images: tuple[np.ndarray, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> ScanArray:
        """See `BScans`."""
        return self.images[index]


@dataclass(frozen=True)
class Localizer:
    """The en-face picture that shows where the B-scans lie.

    Attributes:
      read: gives the picture, uint8 grey of shape (height, width); UnreadableScan where it cannot.
      spacing: micrometres a pixel, (down, across); None where nobody says.
    """

    read: Callable[[], UInt8[np.ndarray, "_height _width"]] = field(repr=False)
    spacing: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """The B-scans of one eye from one acquisition, in the device's order.

    Nothing in it names a person: `patient` and `eye` are opaque (see `opaque_id`), and `name` is
    the file's name only where that holds nothing that the file says of the patient.

    Attributes:
      name: to show to a person, and to call files by.
      bscans: gives the pixels.
      format: the file format, in words.
      transform: name of the transform from stored intensities to grey levels.
      spacing: micrometres a pixel of a B-scan, (axial, lateral); None where nobody says.
      paths: of each B-scan, its way over the localizer: float (points, 2), pixels (x, y) from the
        centre of the top left pixel; two points for a straight scan. Empty where nobody says.
      distances: of each B-scan from the centre of the scanned field, micrometres; empty where
        nobody says. Radial and circular scans have none.
      pattern: of the acquisition.
      laterality: R or L; None where nobody says.
      device: maker and model; "" where nobody says.
      localizer: None where the file has none.
      patient: opaque; "" where the file says nothing of the patient.
      eye: opaque, `patient` and laterality; "" where `patient` is.
      numbers: of each B-scan, its number in the acquisition, from 1.
      missing: what the file lacks, a line each: B-scans that it announces and does not hold.
    """

    name: str
    bscans: BScans = field(repr=False)
    format: str
    transform: str = AS_STORED
    spacing: tuple[float, float] | None = None
    paths: tuple[Float[np.ndarray, "_points 2"], ...] = field(default=(), repr=False)
    distances: tuple[float, ...] = field(default=(), repr=False)
    pattern: Pattern = "unknown"
    laterality: Laterality | None = None
    device: str = ""
    localizer: Localizer | None = None
    patient: str = ""
    eye: str = ""
    numbers: tuple[int, ...] = field(default=(), repr=False)
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.bscans)
        if not count:
            raise UserError(f"{self.name}: holds no B-scans")
        if not self.numbers:
            object.__setattr__(self, "numbers", tuple(range(1, count + 1)))
        for values in (self.paths, self.distances, self.numbers):
            assert len(values) in (0, count), "one for each B-scan"

    def __len__(self) -> int:
        return len(self.bscans)

    def read(self, index: int) -> ScanArray:
        """B-scan `index`, uint8 grey of shape (height, width).

        Raises:
          UnreadableScan: the file is gone, damaged or truncated.
        """
        return self.bscans.read(index)


def volume_from_arrays(
    images: Sequence[np.ndarray] | UInt8[np.ndarray, "bscans height width"],
    *,
    name: str = "volume",
    spacing: tuple[float, float] | None = None,
    laterality: Laterality | None = None,
) -> Volume:
    """A volume of B-scans in memory.

    Args:
      images: uint8 grey, each of shape (height, width), 0 dark to 255 bright, in order.
      name: to show to a person.
      spacing: micrometres a pixel, (axial, lateral), where they are known.
      laterality: R or L, where it is known.

    Raises:
      UserError: no arrays, or one that is no scan.
    """
    for index, image in enumerate(images):
        if getattr(image, "dtype", None) != np.uint8 or image.ndim != 2:
            raise UserError(f"{name}: B-scan {index + 1} is not uint8 grey of (height, width)")
        problem = shape_problem(*image.shape)
        if problem:
            raise UserError(f"{name}: B-scan {index + 1}: {problem}")
    return Volume(
        name=name,
        bscans=ArrayBScans(tuple(images)),
        format="arrays",
        spacing=checked_spacing(spacing),
        laterality=laterality,
    )


def checked_spacing(spacing: Sequence[float] | None) -> tuple[float, float] | None:
    """Micrometres (axial, lateral) where both are plausible, else None.

    Axial 0.5 to 30 and lateral 1 to 200 hold every B-scan of a retina; a damaged header says
    anything.
    """
    if spacing is None:
        return None
    axial, lateral = (round(float(value), 6) for value in spacing)
    plausible = 0.5 <= axial <= 30 and 1 <= lateral <= 200  # false of NaN too
    return (axial, lateral) if plausible else None


def opaque_id(*fields: str) -> str:
    """A patient's name for programs: ten hexadecimal digits of a slow one-way hash (scrypt).

    The same fields give the same id on every machine, so that the scans of a patient stay together
    in a split; nobody can read the fields back. It is a pseudonym: who holds a list of all
    patients can try each, at a tenth of a second.

    Args:
      fields: what the file says of the patient; "" for what it does not say.

    Returns:
      "" where all fields are empty.
    """
    cleaned = tuple(" ".join(text.split()).casefold() for text in fields)
    return _hashed(cleaned) if any(cleaned) else ""


@lru_cache(maxsize=4096)
def _hashed(fields: tuple[str, ...]) -> str:
    content = "\x00".join(fields).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(content, salt=b"oct_jax patient", n=2**14, r=8, p=1, dklen=5).hex()


def eye_id(patient: str, laterality: str | None) -> str:
    """The opaque name of an eye of a patient."""
    return f"{patient}-{laterality or 'unknown'}" if patient else ""


def safe_name(name: str, identifying: Sequence[str], otherwise: str) -> str:
    """A file's name, unless it holds what the file says of the patient.

    Args:
      name: of the file.
      identifying: names, ids and dates of the patient.
      otherwise: what to use instead.
    """
    plain = _letters(name)
    words = {_letters(part) for text in identifying for part in (text, *text.split())}
    return otherwise if any(len(word) > 2 and word in plain for word in words) else name


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def straight(
    start: tuple[float, float], end: tuple[float, float]
) -> Float[np.ndarray, "_points 2"] | None:
    """The path of a straight B-scan; None where a coordinate is no number."""
    points = np.array([start, end], np.float64)
    return points if np.isfinite(points).all() and np.abs(points).max() < 1e5 else None


def around(
    centre: tuple[float, float], edge: tuple[float, float], points: int = 73
) -> Float[np.ndarray, "_points 2"]:
    """The path of a circular B-scan that starts and ends at `edge`."""
    radius = math.dist(centre, edge)
    first = math.atan2(edge[1] - centre[1], edge[0] - centre[0])
    angles = first + np.linspace(0, 2 * np.pi, points)
    return np.stack(
        [centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1
    )


def offsets(paths: Sequence[np.ndarray], spacing: tuple[float, float] | None) -> tuple[float, ...]:
    """How far each straight B-scan lies from the centre of the scanned field, micrometres.

    Args:
      paths: over the localizer, pixels.
      spacing: of the localizer, micrometres (down, across).

    Returns:
      Empty where the spacing or a path is not known, or the scans are not parallel.
    """
    if spacing is None or not paths or any(len(path) != 2 for path in paths):
        return ()
    ends = np.stack(paths) * np.array([spacing[1], spacing[0]])
    middles = ends.mean(1)
    ways = ends[:, 1] - ends[:, 0]
    lengths = np.linalg.norm(ways, axis=1)
    if not lengths.min() > 0:
        return ()
    ways = ways / lengths[:, None]
    if np.abs(ways @ ways[0]).min() < 0.98:
        return ()
    across = np.array([-ways[0, 1], ways[0, 0]])
    places = middles @ across
    return tuple((places - (places.max() + places.min()) / 2).tolist())
