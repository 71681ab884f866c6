"""Lesions: each changes the layers of a section, or is drawn between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from oct_jax.data.phantom.anatomy import INDEX, Section
from oct_jax.data.phantom.noise import wander

_FLUID_LEVEL = 16.0
_EXUDATE_LEVEL = 190.0


class Blob(NamedTuple):
    """A rounded body of one brightness inside a layer."""

    outline: np.ndarray  # int32 (points, 2), sixteenths of a pixel, x before y
    level: float


Blobs = Callable[[np.ndarray], list[Blob]]
"""Draws a lesion's bodies once it is known where the layers' boundaries are."""


def _no_blobs(boundaries: np.ndarray) -> list[Blob]:
    return []


def _normal(section: Section, rng: np.random.Generator) -> Blobs:
    return _no_blobs


def _drusen(section: Section, rng: np.random.Generator) -> Blobs:
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
    section.level[INDEX["deposit"]] *= rng.uniform(0.75, 1.25)
    return _no_blobs


def _dme(section: Section, rng: np.random.Generator) -> Blobs:
    """Dark cysts in a swollen retina, sometimes with hard exudates or fluid beneath it."""
    centre = _anywhere(section, rng)
    spread = rng.uniform(25, 90)
    swelling = rng.uniform(10, 75) * section.bump(centre, 1.2 * spread)
    section.thickness[INDEX["inl"]] += 0.35 * swelling
    section.thickness[INDEX["opl"]] += 0.1 * swelling
    section.thickness[INDEX["onl"]] += 0.55 * swelling
    if rng.random() < 0.2:
        _add_fluid(section, centre, rng)
    cysts = int(rng.integers(2, 15))
    exudates = int(rng.integers(2, 14)) if rng.random() < 0.5 else 0

    def blobs(boundaries: np.ndarray) -> list[Blob]:
        return [
            *_cysts(boundaries, centre, spread, cysts, rng),
            *_exudates(boundaries, centre, 1.6 * spread, exudates, rng),
        ]

    return blobs


def _cnv(section: Section, rng: np.random.Generator) -> Blobs:
    """A bright membrane under the retina or under an uneven, raised RPE, with fluid beside it."""
    centre = _anywhere(section, rng)
    spread = rng.uniform(22, 75)
    body = section.bump(centre, spread, rng.uniform(2, 4))
    uneven = np.clip(1 + 0.3 * wander(rng, 1, section.width, 12)[0], 0.3, 1.8)
    raised = rng.random() < 0.75
    if raised:
        _lift(section, "deposit", rng.uniform(8, 55) * body * uneven, absorbed=0.2)
        section.level[INDEX["deposit"]] *= rng.uniform(0.55, 1.3)
    material = not raised or rng.random() < 0.5
    if material:
        shifted = section.bump(centre + 0.4 * spread * rng.normal(), 0.8 * spread, 3.0)
        _lift(section, "subretinal_material", rng.uniform(7, 26) * shifted * uneven, absorbed=0.3)
        section.level[INDEX["subretinal_material"]] *= rng.uniform(0.7, 1.2)
    if not material or rng.random() < 0.6:
        _add_fluid(section, centre + spread * (1.1 if rng.random() < 0.5 else -1.1), rng)
    ragged = 1 + body * np.clip(0.4 * wander(rng, 1, section.width, 4)[0] - 0.15, -0.8, 0.5)
    section.level[INDEX["rpe"]] *= ragged
    section.thickness[INDEX["rpe"]] *= np.clip(1 + body * (uneven - 1), 0.3, 2.0)
    section.level[[INDEX["elm"], INDEX["ez"]]] *= 1 - 0.6 * body
    section.thickness[INDEX["onl"]] += rng.uniform(0, 14) * body
    np.maximum(section.disrupted, body, out=section.disrupted)
    cysts = int(rng.integers(1, 7)) if rng.random() < 0.35 else 0
    return lambda boundaries: _cysts(boundaries, centre, spread, cysts, rng)


LESIONS: dict[str, Callable[[Section, np.random.Generator], Blobs]] = {
    "CNV": _cnv,
    "DME": _dme,
    "DRUSEN": _drusen,
    "NORMAL": _normal,
}


def _anywhere(section: Section, rng: np.random.Generator) -> float:
    """The column of a lesion's middle."""
    return rng.uniform(70, section.width - 70)


def _lift(section: Section, layer: str, height: np.ndarray, absorbed: float) -> None:
    """Fill a layer; the nuclear layer above gives way by the share that is absorbed."""
    section.thickness[INDEX[layer]] += height
    above = section.thickness[INDEX["onl"]]
    above -= np.minimum(absorbed * height, 0.75 * above)


def _add_fluid(section: Section, centre: float, rng: np.random.Generator) -> None:
    dome = section.bump(centre, rng.uniform(18, 60), rng.uniform(2, 3))
    _lift(section, "subretinal_fluid", rng.uniform(7, 28) * dome, absorbed=0.3)


def _cysts(
    boundaries: np.ndarray, centre: float, spread: float, count: int, rng: np.random.Generator
) -> list[Blob]:
    """Dark bodies in the inner and outer nuclear layer, with walls where they meet."""
    blobs = []
    for number in range(count):
        x = centre + (0.65 * spread * rng.normal() if number else 0.0)
        column = int(np.clip(x, 0, boundaries.shape[1] - 1))
        layer = "inl" if number and rng.random() < 0.35 else "onl"
        top, bottom = boundaries[INDEX[layer] : INDEX[layer] + 2, column].tolist()
        reach = 0.48 * (bottom - top) * (rng.uniform(0.45, 1.0) if number else 0.95)
        if reach < 2.5:
            continue
        y = (top + bottom) / 2 + rng.uniform(-1, 1) * (0.48 * (bottom - top) - reach)
        across = max(2.5, reach * rng.uniform(0.35, 1.0))
        shape = _rough_circle(rng)
        wall = _outline(shape, x, y, across + 1.5, reach + 1.0)
        blobs.append(Blob(wall, 0.0))
        blobs.append(Blob(_outline(shape, x, y, across, reach), _FLUID_LEVEL))
    return blobs


def _exudates(
    boundaries: np.ndarray, centre: float, spread: float, count: int, rng: np.random.Generator
) -> list[Blob]:
    """Bright dots about the outer plexiform layer."""
    blobs = []
    for _ in range(count):
        x = np.clip(centre + spread * rng.normal(), 0, boundaries.shape[1] - 1)
        y = float(boundaries[INDEX["opl"], int(x)]) + 7 * rng.normal() + 3
        size = rng.uniform(1.3, 4)
        outline = _outline(_rough_circle(rng), x, y, size * rng.uniform(1, 1.8), size)
        blobs.append(Blob(outline, _EXUDATE_LEVEL))
    return blobs


_ANGLES = np.linspace(0, 2 * np.pi, 28, endpoint=False)
_HARMONICS = np.stack([np.cos(k * _ANGLES) for k in (2, 3, 4)] + [np.sin(3 * _ANGLES)])
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def _rough_circle(rng: np.random.Generator) -> np.ndarray:
    """A circle of radius about 1 that is a little dented, (points, 2)."""
    return _CIRCLE * (1 + rng.uniform(-0.09, 0.09, 4) @ _HARMONICS)[:, None]


def _outline(shape: np.ndarray, x: float, y: float, across: float, reach: float) -> np.ndarray:
    return np.rint(16 * (shape * (across, reach) + (x, y))).astype(np.int32)
