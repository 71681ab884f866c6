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

    amount: float = _strength(1.0, 1, "factor of every strength but flip; 0 leaves flips alone")
    flip: float = _strength(0.5, 1, "probability of a horizontal flip (left and right eye)")
    rotation: float = _strength(6.0, 180, "largest rotation either way, degrees")
    shear: float = _strength(0.12, 1, "largest tilt either way, rows a column")
    axial: float = _strength(0.2, 1, "largest logarithm of the scale along the depth, either way")
    squeeze: float = _strength(0.43, 2, "largest fall of the log scale along the width")
    stretch: float = _strength(0.22, 2, "largest rise of the log scale along the width")
    shift: float = _strength(
        0.2,
        1,
        "largest shift along the width, fraction of the side; along the depth half of it",
        open_end=True,
    )
    blur: float = _strength(0.3, 1, "probability of a coarser resolution")
    shade: float = _strength(0.25, 1, "probability of smooth shadows over the width")
    grain: float = _strength(0.85, 1, "probability of the speckle and noise of few averaged frames")
    black: float = _strength(60.0, 120, "highest grey that is displayed as black")
    white: float = _strength(55.0, 120, "farthest below 255 of the grey displayed as white")
    gamma: float = _strength(0.25, 3, "largest logarithm of gamma, either way")
    jpeg: float = _strength(0.3, 1, "probability of JPEG compression")
    crop: float = _strength(0.35, 1, "probability of a picture cropped in height")
    wedge: float = _strength(0.15, 1, "probability of a dark wedge at the top")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, highest = getattr(self, field.name), field.metadata["highest"]
            open_end = field.metadata["open_end"]
            if not (0 <= value < highest if open_end else 0 <= value <= highest):
                words = f"at least 0 and below {highest}" if open_end else f"from 0 to {highest}"
                raise UserError(f"{field.name}={value}: must be {words}")


def _attributes() -> str:
    """The fields as a section of the docstring, from their own descriptions."""
    lines = [
        f"      {field.name}: {field.metadata['doc']}; 0 to {field.metadata['highest']}"
        for field in dataclasses.fields(Augment)
    ]
    return "\n".join(["    Attributes:", *lines, ""])


Augment.__doc__ = (Augment.__doc__ or "").replace("    Raises:", f"{_attributes()}\n    Raises:")
