"""Changes of the eye and of how it lies in the picture: side, tilt, scale, position."""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import UInt8


def horizontal_flip(
    image: UInt8[np.ndarray, "rows columns"], rng: np.random.Generator, *, probability: float
) -> UInt8[np.ndarray, "rows columns"]:
    """Mirror left and right with this probability: a left eye becomes a right one."""
    return cv2.flip(image, 1) if rng.random() < probability else image


def warp(
    image: UInt8[np.ndarray, "rows columns"],
    rng: np.random.Generator,
    *,
    rotation: float,
    shear: float,
    axial: float,
    squeeze: float,
    stretch: float,
    shift: float,
) -> UInt8[np.ndarray, "rows columns"]:
    """Rotate, tilt, scale and shift about the centre in one bilinear warp, so that it blurs once.

    Depth and width change scale independently: their pixel sizes do from device to device (3.9
    micrometres and 6 to 17 on one device alone, by its scan pattern). A beam that enters the pupil
    off its centre tilts the retina as a shear, not as a rotation.

    What the warp uncovers is filled by reflection. A black or white fill would add wedges that
    look like the scanner's own border and differ with the tilt of the retina; a reflected border
    has the texture of the tissue beside it.

    Args:
      image: grey.
      rng: gives 6 values.
      rotation: largest angle either way, degrees.
      shear: largest slope either way, rows a column.
      axial: largest absolute value of the logarithm of the scale along the depth.
      squeeze: largest fall of the logarithm of the scale along the width.
      stretch: largest rise of it.
      shift: largest shift along the width, fraction of the columns; along the depth half of it.
    """
    angle, slope, depth, width, right, down = rng.uniform(-1.0, 1.0, 6)
    rows, columns = image.shape
    # From -squeeze to stretch, uniform: -1 is the one end and 1 the other.
    along_width = math.exp((width * (squeeze + stretch) + stretch - squeeze) / 2)
    along_depth = math.exp(depth * axial)
    cosine = math.cos(math.radians(angle * rotation))
    sine = math.sin(math.radians(angle * rotation))
    linear = np.array(
        [
            [along_width * cosine, -along_width * sine],
            [along_depth * (sine + slope * shear), along_depth * cosine],
        ]
    )
    centre = np.array([(columns - 1) / 2, (rows - 1) / 2])
    moved = centre + np.array([right * shift * columns, down * shift / 2 * rows])
    matrix = np.column_stack([linear, moved - linear @ centre])
    return cv2.warpAffine(
        image, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
