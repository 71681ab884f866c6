"""The embedded data set: synthetic B-scans with known lesions, for a first day without data.

A scan is a stack of layers. Each layer has a thickness and a brightness in every column; lesions
change these, or are drawn between the layers. Brightness is on the display's scale (about the
fourth root of the echo's intensity, as clinical scanners export it), and so is the speckle.

All that is not a lesion (size, position, tilt, brightness, noise, shadows, borders) has the same
distribution in every class, so that nothing but the lesion tells the class. Lesions lie anywhere
along the scan, not about the fovea as in patients: a heatmap must find them, and cannot be right by
lying in the centre. Synthetic scans test software; a score on them says nothing about patients.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from oct_jax.arrays import ScanArray
from oct_jax.data.manifest import Record
from oct_jax.data.readers import map_threads
from oct_jax.data.scans import Reader, Scans
from oct_jax.task import KERMANY

HEIGHT = 496
"""Rows of every phantom, as of the Spectralis scans that they imitate."""

_WIDTHS, _WIDTH_SHARES = (512, 768, 1536), (0.78, 0.2, 0.02)
_SCANS_PER_PATIENT = (1, 4)
_WHITE = 255


class _Layer(NamedTuple):
    """A layer away from the fovea: pixels, grey level, and the share that is left in the pit."""

    thickness: float
    level: float
    in_pit: float


# From the inner limiting membrane down; 3.9 micrometres a pixel. The three that are 0 thick are
# where lesions gather.
_LAYERS = {
    "nfl": _Layer(8, 118, 0.05),
    "gcl": _Layer(12, 88, 0.02),
    "ipl": _Layer(11, 97, 0.05),
    "inl": _Layer(10, 70, 0.1),
    "opl": _Layer(7, 90, 0.3),
    "onl": _Layer(21, 56, 1.2),
    "elm": _Layer(2, 80, 1.0),
    "myoid": _Layer(6, 62, 1.15),
    "ez": _Layer(3, 150, 1.0),
    "outer_segments": _Layer(6, 92, 1.4),
    "subretinal_fluid": _Layer(0, 20, 1.0),
    "subretinal_material": _Layer(0, 138, 1.0),
    "rpe": _Layer(7, 172, 1.0),
    "deposit": _Layer(0, 105, 1.0),
    "bruch": _Layer(2, 128, 1.0),
}
_INDEX = {name: row for row, name in enumerate(_LAYERS)}
_TABLE = np.array(list(_LAYERS.values()), np.float32)
_THICKNESS, _LEVEL, _IN_PIT = _TABLE.T
_FLUID_LEVEL = 16.0
_EXUDATE_LEVEL = 190.0


@dataclass(frozen=True)
class PhantomScan:
    """A synthetic B-scan and where its lesion is.

    Attributes:
      image: uint8 grey, (height, width).
      lesion: bool, (height, width); all false for NORMAL.
    """

    image: ScanArray
    lesion: Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class Anatomy:
    """What all scans of a patient share.

    Attributes:
      width: of the scans, pixels.
      thickness: of each layer, pixels.
      level: brightness of each layer.
      choroid_depth: depth at which the choroid has faded to 1/e, pixels.
      pit_depth: how much of the pit is formed, 0 to 1.
      pit_width: standard deviation of the pit, pixels.
      curvature: rise of the retina 256 pixels from the centre.
    """

    width: int
    thickness: np.ndarray
    level: np.ndarray
    choroid_depth: float
    pit_depth: float
    pit_width: float
    curvature: float


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """A random patient."""
    spread = np.exp(0.1 * rng.standard_normal((2, len(_LAYERS)), np.float32))
    return Anatomy(
        width=int(rng.choice(_WIDTHS, p=_WIDTH_SHARES)),
        thickness=_THICKNESS * spread[0] * rng.uniform(0.9, 1.15),
        level=_LEVEL * spread[1] ** 0.7,
        choroid_depth=rng.uniform(25, 75),
        pit_depth=rng.uniform(0.8, 1.0),
        pit_width=rng.uniform(38, 65),
        curvature=rng.uniform(-8, 45),
    )


def phantom_scan(
    label: str, rng: np.random.Generator, anatomy: Anatomy | None = None
) -> PhantomScan:
    """A random B-scan of a class.

    Args:
      label: CNV, DME, DRUSEN or NORMAL.
      rng: decides everything else.
      anatomy: of the patient; drawn from `rng` if not given.
    """
    anatomy = anatomy or draw_anatomy(rng)
    section = _draw_section(anatomy, rng)
    blobs = _LESIONS[label](section, rng)
    boundaries = section.boundaries()
    signal = _render(section, boundaries, anatomy.choroid_depth, rng)
    coverage = _draw_blobs(signal, blobs(boundaries))
    lesion = _lesion_mask(section, boundaries, coverage)
    image = _speckled(signal, rng)
    _draw_borders(image, lesion, section.offset, rng)
    return PhantomScan(image, lesion)


@dataclass
class _Section:
    """A scan being made; lesions change thickness and level in place.

    Attributes:
      thickness: float32, (layers, width).
      level: float32, (layers, width).
      bottom: row of the lower edge of Bruch's membrane, (width,).
      fovea: column of the fovea.
      offset: rows that the scan was shifted down when it was registered.
      disrupted: how much of a column's RPE belongs to a lesion, 0 to 1, (width,).
    """

    thickness: np.ndarray
    level: np.ndarray
    bottom: np.ndarray
    fovea: float
    offset: float
    disrupted: np.ndarray

    @property
    def width(self) -> int:
        return len(self.bottom)

    def bump(self, centre: float, spread: float, power: float = 2.0) -> np.ndarray:
        """A bell of height 1 along the columns; a higher power is flatter."""
        distance = np.abs(np.arange(self.width, dtype=np.float32) - centre) / spread
        return np.exp(-0.5 * distance**power)

    def boundaries(self) -> np.ndarray:
        """Rows of the layers' upper edges and of the last lower edge, (layers + 1, width)."""
        above_bottom = np.cumsum(self.thickness[::-1], axis=0)[::-1]
        return np.vstack([self.bottom - above_bottom, self.bottom[None]])


def _draw_section(anatomy: Anatomy, rng: np.random.Generator) -> _Section:
    width = anatomy.width
    fovea = width / 2 + rng.uniform(-0.2, 0.2) * 512
    offset = float(rng.choice([0.0, rng.normal(0, 18), rng.uniform(-60, 110)], p=[0.5, 0.3, 0.2]))
    along = np.arange(width, dtype=np.float32) - width / 2
    bottom = rng.uniform(215, 300) + 0.7 * offset + rng.uniform(-0.13, 0.13) * along
    bottom -= anatomy.curvature * (along / 256) ** 2 * (512 / width)
    bottom += 2.5 * _wander(rng, 1, width, 60)[0]
    section = _Section(
        thickness=np.empty(0),
        level=np.empty(0),
        bottom=bottom,
        fovea=fovea,
        offset=offset,
        disrupted=np.zeros(width, np.float32),
    )
    # A scan that misses the fovea has a shallow pit or none.
    depth = anatomy.pit_depth * (1.0 if rng.random() < 0.65 else rng.uniform(0.0, 0.8))
    pit = depth * section.bump(fovea, anatomy.pit_width)
    rim = 0.15 * section.bump(fovea, 2.6 * anatomy.pit_width)
    change = 1 + (_IN_PIT[:, None] - 1) * pit
    change[: _INDEX["onl"]] *= 1 + rim
    change *= 1 + 0.07 * _wander(rng, len(_LAYERS), width, 40)
    section.thickness = anatomy.thickness[:, None] * change
    section.level = anatomy.level[:, None] * (1 + 0.07 * _wander(rng, len(_LAYERS), width, 25))
    # The nerve fibre layer thickens and brightens towards the disc, on one side.
    disc = np.clip(along / (256 if rng.random() < 0.5 else -256), -1, 1)
    section.thickness[0] *= 1 + 0.5 * disc
    section.level[0] *= 1 + 0.3 * disc
    _cast_shadows(section, rng)
    return section


def _cast_shadows(section: _Section, rng: np.random.Generator) -> None:
    """Retinal vessels: bright where they lie, dark in everything below."""
    below = np.ones(section.width, np.float32)
    for _ in range(rng.poisson(3 * section.width / 512)):
        vessel = section.bump(rng.uniform(0, section.width), rng.uniform(1.0, 6), 2.5)
        section.level[: _INDEX["ipl"]] *= 1 + rng.uniform(0.0, 0.35) * vessel
        below *= 1 - rng.uniform(0.1, 0.45) * vessel
    section.level[_INDEX["inl"] :] *= below


# --- lesions -------------------------------------------------------------------------------------


class _Blob(NamedTuple):
    """A rounded body of one brightness inside a layer."""

    outline: np.ndarray  # int32 (points, 2), sixteenths of a pixel, x before y
    level: float


_Blobs = Callable[[np.ndarray], list[_Blob]]
"""Draws a lesion's bodies once it is known where the layers' boundaries are."""


def _no_blobs(boundaries: np.ndarray) -> list[_Blob]:
    return []


def _normal(section: _Section, rng: np.random.Generator) -> _Blobs:
    return _no_blobs


def _drusen(section: _Section, rng: np.random.Generator) -> _Blobs:
    """Several deposits between RPE and Bruch's membrane that lift the RPE."""
    deposit = np.zeros(section.width, np.float32)
    largest = rng.uniform(8, 20)
    middle, spread = _anywhere(section, rng), rng.uniform(20, 60)
    for height in largest * rng.uniform(0.35, 1.0, rng.integers(3, 13)) ** 1.3:
        centre = middle + spread * rng.normal()
        mound = section.bump(centre, height * rng.uniform(0.5, 1.1) + 2, rng.uniform(2, 3))
        np.maximum(deposit, height * mound, out=deposit)
    # One of them is always within the scan, and of the largest size.
    np.maximum(deposit, largest * section.bump(middle, 0.8 * largest + 2), out=deposit)
    _lift(section, "deposit", deposit, absorbed=0.75)
    section.level[_INDEX["deposit"]] *= rng.uniform(0.75, 1.25)
    return _no_blobs


def _dme(section: _Section, rng: np.random.Generator) -> _Blobs:
    """Dark cysts in a swollen retina, sometimes with hard exudates or fluid beneath it."""
    centre = _anywhere(section, rng)
    spread = rng.uniform(25, 90)
    swelling = rng.uniform(10, 75) * section.bump(centre, 1.2 * spread)
    section.thickness[_INDEX["inl"]] += 0.35 * swelling
    section.thickness[_INDEX["opl"]] += 0.1 * swelling
    section.thickness[_INDEX["onl"]] += 0.55 * swelling
    if rng.random() < 0.2:
        _add_fluid(section, centre, rng)
    cysts = int(rng.integers(2, 15))
    exudates = int(rng.integers(2, 14)) if rng.random() < 0.5 else 0

    def blobs(boundaries: np.ndarray) -> list[_Blob]:
        return [
            *_cysts(boundaries, centre, spread, cysts, rng),
            *_exudates(boundaries, centre, 1.6 * spread, exudates, rng),
        ]

    return blobs


def _cnv(section: _Section, rng: np.random.Generator) -> _Blobs:
    """A bright membrane under the retina or under an uneven, raised RPE, with fluid beside it."""
    centre = _anywhere(section, rng)
    spread = rng.uniform(22, 75)
    body = section.bump(centre, spread, rng.uniform(2, 4))
    uneven = np.clip(1 + 0.3 * _wander(rng, 1, section.width, 12)[0], 0.3, 1.8)
    raised = rng.random() < 0.75
    if raised:
        _lift(section, "deposit", rng.uniform(8, 55) * body * uneven, absorbed=0.2)
        section.level[_INDEX["deposit"]] *= rng.uniform(0.55, 1.3)
    material = not raised or rng.random() < 0.5
    if material:
        shifted = section.bump(centre + 0.4 * spread * rng.normal(), 0.8 * spread, 3.0)
        _lift(section, "subretinal_material", rng.uniform(7, 26) * shifted * uneven, absorbed=0.3)
        section.level[_INDEX["subretinal_material"]] *= rng.uniform(0.7, 1.2)
    if not material or rng.random() < 0.6:
        _add_fluid(section, centre + spread * (1.1 if rng.random() < 0.5 else -1.1), rng)
    ragged = 1 + body * np.clip(0.4 * _wander(rng, 1, section.width, 4)[0] - 0.15, -0.8, 0.5)
    section.level[_INDEX["rpe"]] *= ragged
    section.thickness[_INDEX["rpe"]] *= np.clip(1 + body * (uneven - 1), 0.3, 2.0)
    section.level[[_INDEX["elm"], _INDEX["ez"]]] *= 1 - 0.6 * body
    section.thickness[_INDEX["onl"]] += rng.uniform(0, 14) * body
    np.maximum(section.disrupted, body, out=section.disrupted)
    cysts = int(rng.integers(1, 7)) if rng.random() < 0.35 else 0
    return lambda boundaries: _cysts(boundaries, centre, spread, cysts, rng)


_LESIONS: dict[str, Callable[[_Section, np.random.Generator], _Blobs]] = {
    "CNV": _cnv,
    "DME": _dme,
    "DRUSEN": _drusen,
    "NORMAL": _normal,
}


def _anywhere(section: _Section, rng: np.random.Generator) -> float:
    """The column of a lesion's middle."""
    return rng.uniform(70, section.width - 70)


def _lift(section: _Section, layer: str, height: np.ndarray, absorbed: float) -> None:
    """Fill a layer; the nuclear layer above gives way by the share that is absorbed."""
    section.thickness[_INDEX[layer]] += height
    above = section.thickness[_INDEX["onl"]]
    above -= np.minimum(absorbed * height, 0.75 * above)


def _add_fluid(section: _Section, centre: float, rng: np.random.Generator) -> None:
    dome = section.bump(centre, rng.uniform(18, 60), rng.uniform(2, 3))
    _lift(section, "subretinal_fluid", rng.uniform(7, 28) * dome, absorbed=0.3)


def _cysts(
    boundaries: np.ndarray, centre: float, spread: float, count: int, rng: np.random.Generator
) -> list[_Blob]:
    """Dark bodies in the inner and outer nuclear layer, with walls where they meet."""
    blobs = []
    for number in range(count):
        x = centre + (0.65 * spread * rng.normal() if number else 0.0)
        column = int(np.clip(x, 0, boundaries.shape[1] - 1))
        layer = "inl" if number and rng.random() < 0.35 else "onl"
        top, bottom = boundaries[_INDEX[layer] : _INDEX[layer] + 2, column].tolist()
        reach = 0.48 * (bottom - top) * (rng.uniform(0.45, 1.0) if number else 0.95)
        if reach < 2.5:
            continue
        y = (top + bottom) / 2 + rng.uniform(-1, 1) * (0.48 * (bottom - top) - reach)
        across = max(2.5, reach * rng.uniform(0.35, 1.0))
        shape = _rough_circle(rng)
        wall = _outline(shape, x, y, across + 1.5, reach + 1.0)
        blobs.append(_Blob(wall, 0.0))
        blobs.append(_Blob(_outline(shape, x, y, across, reach), _FLUID_LEVEL))
    return blobs


def _exudates(
    boundaries: np.ndarray, centre: float, spread: float, count: int, rng: np.random.Generator
) -> list[_Blob]:
    """Bright dots about the outer plexiform layer."""
    blobs = []
    for _ in range(count):
        x = np.clip(centre + spread * rng.normal(), 0, boundaries.shape[1] - 1)
        y = float(boundaries[_INDEX["opl"], int(x)]) + 7 * rng.normal() + 3
        size = rng.uniform(1.3, 4)
        outline = _outline(_rough_circle(rng), x, y, size * rng.uniform(1, 1.8), size)
        blobs.append(_Blob(outline, _EXUDATE_LEVEL))
    return blobs


_ANGLES = np.linspace(0, 2 * np.pi, 28, endpoint=False)
_HARMONICS = np.stack([np.cos(k * _ANGLES) for k in (2, 3, 4)] + [np.sin(3 * _ANGLES)])
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def _rough_circle(rng: np.random.Generator) -> np.ndarray:
    """A circle of radius about 1 that is a little dented, (points, 2)."""
    return _CIRCLE * (1 + rng.uniform(-0.09, 0.09, 4) @ _HARMONICS)[:, None]


def _outline(shape: np.ndarray, x: float, y: float, across: float, reach: float) -> np.ndarray:
    return np.rint(16 * (shape * (across, reach) + (x, y))).astype(np.int32)


# --- picture -------------------------------------------------------------------------------------


def _render(
    section: _Section, boundaries: np.ndarray, choroid_depth: float, rng: np.random.Generator
) -> np.ndarray:
    """The noise-free scan, float32 (HEIGHT, width)."""
    vitreous, below = (
        np.full((1, section.width), rng.uniform(*span), np.float32) for span in ((10, 32), (8, 16))
    )
    membrane = vitreous + rng.uniform(15, 60)
    signal = _sum_of_steps(
        rows=np.vstack([_hyaloid(boundaries[0], rng), boundaries]),
        levels=np.vstack([vitreous, membrane, vitreous, section.level, below]),
    )
    _add_choroid(signal, section, choroid_depth, rng)
    signal *= rng.uniform(0.8, 1.2)
    return signal


def _hyaloid(surface: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of the edges of a detached vitreous membrane, beyond the scan in most, (2, width)."""
    distance = rng.uniform(12, 90) if rng.random() < 0.25 else 2.0 * HEIGHT
    row = surface.min() - distance + 6 * _wander(rng, 1, len(surface), 60)[0]
    return np.stack([row, row + 1.5])


def _sum_of_steps(rows: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Draw layers from the rows of their edges: in every column the running sum of the steps.

    Edges are blurred by about a pixel.

    Args:
      rows: of the edges, (edges, width); those beyond the scan count as at its border.
      levels: of the layers, (edges + 1, width).

    Returns:
      float32, (HEIGHT, width).
    """
    width = rows.shape[1]
    steps = np.diff(levels, axis=0)
    rows = np.clip(rows + 0.5, 0, HEIGHT + 1)
    first = rows.astype(np.intp)
    rest = (rows - first).astype(np.float32)
    # Weights of a quadratic B-spline: a smooth edge at any fraction of a pixel.
    weights = ((1 - rest) ** 2 / 2, 0.5 + rest * (1 - rest), rest**2 / 2)
    place = first * width + np.arange(width)
    signal = np.zeros((HEIGHT + 4, width), np.float32)
    for lower, weight in enumerate(weights):
        np.add.at(signal.reshape(-1), place + lower * width, weight * steps)
    signal[0] += levels[0]
    last = int(first.max()) + 3
    for above, here in pairwise(signal[:last]):
        here += above
    signal[last:] = levels[-1]
    return signal[1 : HEIGHT + 1]


def _draw_blobs(signal: np.ndarray, blobs: list[_Blob]) -> np.ndarray:
    """Draw into the signal, the last on top; returns what they cover, uint8 0 to 255."""
    coverage = np.zeros(signal.shape, np.uint8)
    for level in sorted({blob.level for blob in blobs} - {0.0}):
        body = np.zeros(signal.shape, np.uint8)
        for blob in blobs:
            if blob.level in (0.0, level):
                colour = 255 if blob.level else 0
                cv2.fillPoly(body, [blob.outline], colour, cv2.LINE_AA, shift=4)
        left, top, width, height = cv2.boundingRect(body)
        part = slice(top, top + height), slice(left, left + width)
        signal[part] += (level - signal[part]) * (body[part] / np.float32(255))
        coverage[part] = np.maximum(coverage[part], body[part])
    return coverage


def _lesion_mask(section: _Section, boundaries: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Pixels of blobs, and of the columns where a lesion fills its layer by a pixel or more."""
    lesion = coverage > 127
    thickness, fluid = section.thickness, _INDEX["subretinal_fluid"]
    spans = (
        # Fluid and material, down to the RPE; deposits with the RPE that they lift.
        ("subretinal_fluid", "rpe", thickness[fluid] + thickness[fluid + 1] >= 1),
        ("rpe", "bruch", (thickness[_INDEX["deposit"]] >= 1) | (section.disrupted > 0.5)),
    )
    for upper, lower, there in spans:
        columns = np.flatnonzero(there)
        if not len(columns):
            continue
        part = slice(columns[0], columns[-1] + 1)
        top = np.where(there, boundaries[_INDEX[upper]], HEIGHT)[part]
        bottom = np.where(there, boundaries[_INDEX[lower]], 0)[part]
        rows = slice(max(int(top.min()), 0), max(math.ceil(bottom.max()), 0))
        middle = np.arange(HEIGHT, dtype=np.float32)[rows, None] + 0.5
        lesion[rows, part] |= (middle >= top) & (middle < bottom)
    return lesion


def _add_choroid(
    signal: np.ndarray, section: _Section, fading: float, rng: np.random.Generator
) -> None:
    """Add what scatters back from below Bruch's membrane: dark vessel lumina in bright stroma.

    It fades with depth, to 1/e after `fading` pixels, and lies in the shadows of what is above.
    """
    bottom = section.bottom
    first = int(np.clip(bottom.min() - 1, 0, HEIGHT - 1))
    last = int(np.clip(bottom.max() + 3.5 * fading, first + 1, HEIGHT))
    depth = np.arange(first + 0.5, last, dtype=np.float32)[:, None] - bottom
    glow = np.minimum(depth * (-1 / fading), 4 * depth)  # cut off above the membrane
    np.exp(glow, out=glow)
    glow *= rng.uniform(45, 85) * section.level[-1] / _LEVEL[-1]
    texture = _crop(_choroid_bank(), depth.shape, rng)
    signal[first:last] += glow
    signal[first:last] += cv2.multiply(glow, texture, scale=rng.uniform(0.25, 0.7))


def _speckled(signal: np.ndarray, rng: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
    """Speckle in proportion to the signal, and the detector's noise, which a root compresses.

    What the noise adds to the fourth root of an intensity falls with the intensity: the vitreous
    is grainy where the retina is smooth.
    """
    speckle = _crop(_speckle_bank(), signal.shape, rng)
    proportional, floor = rng.uniform(0.03, 0.1), rng.uniform(6, 17)
    deviation = floor * 40 / (signal + 20)
    deviation = cv2.scaleAdd(signal, proportional, deviation)
    return cv2.add(signal, cv2.multiply(deviation, speckle), dtype=cv2.CV_8U)


def _draw_borders(
    image: np.ndarray, lesion: np.ndarray, offset: float, rng: np.random.Generator
) -> None:
    """White wedges where registration shifted and turned the scan out of its frame."""
    turn, left = rng.normal(0, 0.035), rng.integers(0, 4)
    if offset == 0:
        return
    width = image.shape[1]
    side = turn * width / 2
    upper = [[0, -1], [0, offset - side], [width, offset + side], [width, -1]]
    lower = [
        [0, HEIGHT],
        [0, HEIGHT + offset - side],
        [width, HEIGHT + offset + side],
        [width, HEIGHT],
    ]
    for corners, beyond in ((upper, -1), (lower, HEIGHT)):
        outline = np.array(corners)
        kept = np.maximum if beyond < 0 else np.minimum
        outline[:, 1] = kept(outline[:, 1], beyond)
        cv2.fillPoly(image, [outline.astype(np.int32)], _WHITE)
        cv2.fillPoly(lesion.view(np.uint8), [outline.astype(np.int32)], 0)
    image[:, :left] = _WHITE
    lesion[:, :left] = False


# --- banks of noise ------------------------------------------------------------------------------
# Made once and cut at random places: fresh noise would cost more than all the rest of a scan.

_BANK_SHAPE = (1024, 2304)


def _crop(bank: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    rows, columns = shape
    row = rng.integers(bank.shape[0] - rows + 1)
    column = rng.integers(bank.shape[1] - columns + 1)
    return bank[row : row + rows, column : column + columns]


def _wander(rng: np.random.Generator, count: int, width: int, scale: int) -> np.ndarray:
    """Curves of zero mean and unit variance, smooth over `scale` pixels, (count, width)."""
    return _crop(_curve_bank(scale), (count, width), rng)


@cache
def _curve_bank(scale: int) -> np.ndarray:
    noise = np.random.default_rng(scale).standard_normal((64, 4096), np.float32)
    return _standardised(cv2.GaussianBlur(noise, (0, 0), scale, sigmaY=0.01))


@cache
def _speckle_bank() -> np.ndarray:
    """Fourth root of exponentially distributed intensity, as a display shows it."""
    intensity = np.random.default_rng(0).standard_exponential(_BANK_SHAPE, np.float32)
    return _standardised(cv2.GaussianBlur(intensity**0.25, (0, 0), 0.55, sigmaY=0.75))


@cache
def _choroid_bank() -> np.ndarray:
    """From about -1 in a lumen to 0.7 in the stroma."""
    noise = np.random.default_rng(1).standard_normal(_BANK_SHAPE, np.float32)
    smooth = _standardised(cv2.GaussianBlur(noise, (0, 0), 6, sigmaY=5))
    return np.tanh(0.8 * smooth + 0.4) - 0.2


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


# --- data set ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PhantomReader(Reader):
    """Phantoms: nothing is stored, a scan is made from (seed, patient, scan) when it is read.

    Attributes:
      seed: fixes every pixel.
      keys: of each scan, the number of the patient and that of the scan.
    """

    seed: int
    keys: tuple[tuple[int, int], ...]

    def read(self, row: int) -> ScanArray:
        """Makes scan `row`."""
        return _make(self.seed, *self.keys[row]).image

    def lesion(self, row: int) -> Bool[np.ndarray, "height width"]:
        """Where the lesion of scan `row` is; all false for NORMAL."""
        return _make(self.seed, *self.keys[row]).lesion


def phantom_scans(*, patients: int, seed: int) -> Scans:
    """Synthetic scans of Kermany's four classes, split by patient; `Scans.lesion` is known.

    Classes take turns; each patient has one class and 1 to 4 scans. Each scan is made once here
    for the hash in its record, which is of its pixels.

    Args:
      patients: how many; a multiple of 4 gives every class the same number of scans.
      seed: fixes every pixel and the split.

    Raises:
      UserError: too few patients for every split.
    """
    keys = tuple(
        (patient, scan) for patient in range(patients) for scan in range(_scan_count(seed, patient))
    )
    records = list(map_threads(lambda key: _record(seed, *key), keys))
    scans = Scans(tuple(records), KERMANY, PhantomReader(seed, keys))
    return scans.split_by_patient(seed=seed)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _label(patient: int) -> str:
    return KERMANY.classes[patient % len(KERMANY.classes)]


def _scan_count(seed: int, patient: int) -> int:
    # The same for the patients of a round through the classes, which keeps the classes balanced.
    fewest, most = _SCANS_PER_PATIENT
    return int(_generator(seed, patient // len(KERMANY.classes), 0, 0).integers(fewest, most + 1))


def _make(seed: int, patient: int, scan: int) -> PhantomScan:
    anatomy = draw_anatomy(_generator(seed, patient, 1, 0))
    return phantom_scan(_label(patient), _generator(seed, patient, 2, scan), anatomy)


def _record(seed: int, patient: int, scan: int) -> Record:
    image = _make(seed, patient, scan).image
    return Record(
        path=f"{_label(patient)}-{patient}-{scan}",
        label=_label(patient),
        patient=str(patient),
        split="",
        width=image.shape[1],
        height=image.shape[0],
        bytes=image.nbytes,
        sha256=hashlib.sha256(image.data).hexdigest(),
    )
