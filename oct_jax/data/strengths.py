"""How strongly training scans are augmented; `oct_jax.data.augment` does it.

Apart, and without NumPy, so that reading a command's settings costs nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from oct_jax.types import UserError


def _strength(default: float, highest: float, doc: str, *, open_end: bool = False) -> Any:
    """A field of `Augment`: from 0 to `highest`, or to just below it."""
    limits = {"highest": highest, "open_end": open_end}
    return dataclasses.field(default=default, metadata={"doc": doc, **limits})


@dataclass(frozen=True)
class Augment:
    """Strength of every random change to a training scan; 0 turns one off.

    Raises:
      UserError: a strength outside of its range; the line names it.
    """

    flip: float = _strength(0.5, 1, "probability of a horizontal flip (left and right eye)")
    rotation: float = _strength(10.0, 180, "largest rotation either way, degrees")
    zoom: float = _strength(0.1, 1, "largest relative zoom in or out", open_end=True)
    shift: float = _strength(0.05, 1, "largest shift, fraction of the side", open_end=True)
    brightness: float = _strength(0.1, 1, "largest brightness change, fraction of 255")
    contrast: float = _strength(
        0.2, 1, "largest relative contrast change about the mean", open_end=True
    )
    gamma: float = _strength(0.2, 3, "largest |log gamma|")
    speckle: float = _strength(0.05, 1, "standard deviation of multiplicative noise")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, highest = getattr(self, field.name), field.metadata["highest"]
            open_end = field.metadata["open_end"]
            if not (0 <= value < highest if open_end else 0 <= value <= highest):
                words = f"at least 0 and below {highest}" if open_end else f"from 0 to {highest}"
                raise UserError(f"{field.name}={value}: must be {words}")
