"""Changes of the display: black level, white level, gamma."""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import UInt8


def display(
    image: UInt8[np.ndarray, "rows columns"],
    rng: np.random.Generator,
    *,
    black: float,
    white: float,
    gamma: float,
) -> UInt8[np.ndarray, "rows columns"]:
    """Other black and white levels, then a gamma, as one table of 256 greys.

    Viewers map a window of the compressed intensity to grey; where it begins and ends is a setting
    of the device or of the person who exports, and a logarithm in place of the fourth root is near
    to another gamma over the greys that tissue has.

    Args:
      image: grey.
      rng: gives 3 values.
      black: highest grey that becomes 0; down to a quarter of it below 0, where black turns grey.
      white: farthest that the grey which becomes 255 lies below 255; up to a fifth of it above.
      gamma: largest absolute value of log gamma.
    """
    low, high, bend = rng.random(3)
    darkest = black * (1.25 * low - 0.25)
    brightest = 255.0 - white * (1.2 * high - 0.2)
    levels = (np.arange(256.0) - darkest) / (brightest - darkest)
    levels = np.clip(levels, 0.0, 1.0) ** math.exp((2 * bend - 1) * gamma)
    return cv2.LUT(image, np.rint(levels * 255.0).astype(np.uint8))
