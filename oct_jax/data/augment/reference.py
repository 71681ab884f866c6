"""The augmentation of the reference project: flip, rotation, zoom, brightness and contrast.

`protocol=reference` trains with it. The reference names the changes and no strengths: these are
those of the first augmentation of this package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from oct_jax.data.augment.geometry import horizontal_flip


@dataclass(frozen=True)
class ReferenceAugmentation:
    """A function of an image and a generator: see `oct_jax.data.augment.Augmentation`.

    Attributes:
      flip: probability of a horizontal flip, 0 to 1.
      rotation: largest angle either way, degrees.
      zoom: largest relative change of scale; in and out are equally likely.
      brightness: largest change either way, fraction of 255.
      contrast: largest relative change about the image's mean, either way.
    """

    flip: float = 0.5
    rotation: float = 10.0
    zoom: float = 0.1
    brightness: float = 0.1
    contrast: float = 0.2

    def __call__(
        self, image: UInt8[np.ndarray, "rows columns"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "rows columns"]:
        """The image flipped, turned and scaled about its centre, then its greys stretched."""
        image = horizontal_flip(image, rng, probability=self.flip)
        angle, scale, lift, spread = rng.uniform(-1.0, 1.0, 4)
        image = _turned(image, angle * self.rotation, (1 + self.zoom) ** scale)
        return _toned(image, lift * self.brightness * 255, 1 + spread * self.contrast)


def _turned(
    image: UInt8[np.ndarray, "rows columns"], degrees: float, factor: float
) -> UInt8[np.ndarray, "rows columns"]:
    """One bilinear warp about the centre; what it uncovers is filled by reflection."""
    rows, columns = image.shape
    cosine = factor * math.cos(math.radians(degrees))
    sine = factor * math.sin(math.radians(degrees))
    x, y = (columns - 1) / 2, (rows - 1) / 2
    matrix = np.array(
        [[cosine, -sine, x - cosine * x + sine * y], [sine, cosine, y - sine * x - cosine * y]]
    )
    return cv2.warpAffine(
        image,
        matrix,
        (columns, rows),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def _toned(
    image: UInt8[np.ndarray, "rows columns"], lift: float, contrast: float
) -> UInt8[np.ndarray, "rows columns"]:
    """Contrast about the mean, then brightness, as one table of 256 greys."""
    mean = cv2.mean(image)[0]
    levels = (np.arange(256.0) - mean) * contrast + mean + lift
    return cv2.LUT(image, np.rint(np.clip(levels, 0, 255)).astype(np.uint8))
