"""Strict `key=value` configuration: one frozen dataclass for each command."""

from __future__ import annotations

import chz


@chz.chz
class Augment:
    """Strength of every random change to a training scan; 0 turns one off."""

    flip: float = chz.field(default=0.5, doc="probability of a horizontal flip (left and right eye)")
    rotation: float = chz.field(default=10.0, doc="largest rotation either way, degrees")
    zoom: float = chz.field(default=0.1, doc="largest relative zoom in or out")
    shift: float = chz.field(default=0.05, doc="largest shift, fraction of the side")
    brightness: float = chz.field(default=0.1, doc="largest brightness change, fraction of 255")
    contrast: float = chz.field(default=0.2, doc="largest relative contrast change about the mean")
    gamma: float = chz.field(default=0.2, doc="largest |log gamma|")
    speckle: float = chz.field(default=0.05, doc="standard deviation of multiplicative noise")
