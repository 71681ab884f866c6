"""The layers of a retina: those of a patient, and of one of the patient's scans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from oct_jax.data.phantom.noise import wander

_WIDTHS, _WIDTH_SHARES = (512, 768, 1536), (0.78, 0.2, 0.02)


class _Layer(NamedTuple):
    """A layer away from the fovea: pixels, grey level, and the share that is left in the pit."""

    thickness: float
    level: float
    in_pit: float


# From the inner limiting membrane down; 3.9 micrometres a pixel. The three that are 0 thick are
# where lesions gather.
LAYERS = {
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
INDEX = {name: row for row, name in enumerate(LAYERS)}
_TABLE = np.array(list(LAYERS.values()), np.float32)
_THICKNESS, LEVEL, _IN_PIT = _TABLE.T


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
    spread = np.exp(0.1 * rng.standard_normal((2, len(LAYERS)), np.float32))
    return Anatomy(
        width=int(rng.choice(_WIDTHS, p=_WIDTH_SHARES)),
        thickness=_THICKNESS * spread[0] * rng.uniform(0.9, 1.15),
        level=LEVEL * spread[1] ** 0.7,
        choroid_depth=rng.uniform(25, 75),
        pit_depth=rng.uniform(0.8, 1.0),
        pit_width=rng.uniform(38, 65),
        curvature=rng.uniform(-8, 45),
    )


@dataclass
class Section:
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
        """Columns of the scan."""
        return len(self.bottom)

    def bump(self, centre: float, spread: float, power: float = 2.0) -> np.ndarray:
        """A bell of height 1 along the columns; a higher power is flatter."""
        distance = np.abs(np.arange(self.width, dtype=np.float32) - centre) / spread
        return np.exp(-0.5 * distance**power)

    def boundaries(self) -> np.ndarray:
        """Rows of the layers' upper edges and of the last lower edge, (layers + 1, width)."""
        above_bottom = np.cumsum(self.thickness[::-1], axis=0)[::-1]
        return np.vstack([self.bottom - above_bottom, self.bottom[None]])


def draw_section(anatomy: Anatomy, rng: np.random.Generator) -> Section:
    """A random section through a patient's retina, without a lesion."""
    width = anatomy.width
    fovea = width / 2 + rng.uniform(-0.2, 0.2) * 512
    offset = float(rng.choice([0.0, rng.normal(0, 18), rng.uniform(-60, 110)], p=[0.5, 0.3, 0.2]))
    along = np.arange(width, dtype=np.float32) - width / 2
    bottom = rng.uniform(215, 300) + 0.7 * offset + rng.uniform(-0.13, 0.13) * along
    bottom -= anatomy.curvature * (along / 256) ** 2 * (512 / width)
    bottom += 2.5 * wander(rng, 1, width, 60)[0]
    section = Section(
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
    change[: INDEX["onl"]] *= 1 + rim
    change *= 1 + 0.07 * wander(rng, len(LAYERS), width, 40)
    section.thickness = anatomy.thickness[:, None] * change
    section.level = anatomy.level[:, None] * (1 + 0.07 * wander(rng, len(LAYERS), width, 25))
    # The nerve fibre layer thickens and brightens towards the disc, on one side.
    disc = np.clip(along / (256 if rng.random() < 0.5 else -256), -1, 1)
    section.thickness[0] *= 1 + 0.5 * disc
    section.level[0] *= 1 + 0.3 * disc
    _cast_shadows(section, rng)
    return section


def _cast_shadows(section: Section, rng: np.random.Generator) -> None:
    """Retinal vessels: bright where they lie, dark in everything below."""
    below = np.ones(section.width, np.float32)
    for _ in range(rng.poisson(3 * section.width / 512)):
        vessel = section.bump(rng.uniform(0, section.width), rng.uniform(1.0, 6), 2.5)
        section.level[: INDEX["ipl"]] *= 1 + rng.uniform(0.0, 0.35) * vessel
        below *= 1 - rng.uniform(0.1, 0.45) * vessel
    section.level[INDEX["inl"] :] *= below
