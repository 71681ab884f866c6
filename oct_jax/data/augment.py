"""Random changes to a training scan: pure functions of an image and a generator.

Every function takes a grey uint8 image of shape (size, size), returns one of the same shape and
dtype, and is decided by the generator alone. At strength 0 it is the identity, bit for bit.

Every function draws the same number of random values at any strength, so that one strength
changed in the configuration leaves the other draws of a run as they were. The noise of `speckle`
is the one exception; it therefore comes last.

OpenCV does the work and releases Python's lock while it does. Its own threads change no result, but
split even a small warp: a loader that already runs one image per thread should turn them off with
`cv2.setNumThreads(1)`, which is a setting of the process and so is not made here.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import cv2
import numpy as np
from jaxtyping import UInt8

from oct_jax.data.strengths import Augment

__all__ = ["Augment", "affine", "augment", "horizontal_flip", "speckle", "tone"]


def augment(
    image: UInt8[np.ndarray, "size size"], rng: np.random.Generator, config: Augment
) -> UInt8[np.ndarray, "size size"]:
    """Flip, warp, tone and speckle, in this order, at the strengths of `config`."""
    image = horizontal_flip(image, rng, probability=config.flip)
    image = affine(image, rng, rotation=config.rotation, zoom=config.zoom, shift=config.shift)
    image = tone(
        image, rng, brightness=config.brightness, contrast=config.contrast, gamma=config.gamma
    )
    return speckle(image, rng, deviation=config.speckle)


def horizontal_flip(
    image: UInt8[np.ndarray, "size size"], rng: np.random.Generator, *, probability: float
) -> UInt8[np.ndarray, "size size"]:
    """Mirror left and right with this probability: a left eye becomes a right one."""
    return cv2.flip(image, 1) if rng.random() < probability else image


def affine(
    image: UInt8[np.ndarray, "size size"],
    rng: np.random.Generator,
    *,
    rotation: float,
    zoom: float,
    shift: float,
) -> UInt8[np.ndarray, "size size"]:
    """Rotate, zoom and shift about the centre in one bilinear warp, so that it blurs once.

    What the warp uncovers is filled by reflection. A black or white fill would add wedges that
    look like the scanner's own border and differ with the tilt of the retina; a reflected border
    has the texture of the tissue beside it.

    Args:
      image: grey, (size, size).
      rng: gives 4 values.
      rotation: largest angle either way, degrees.
      zoom: largest relative change of scale; in and out are equally likely.
      shift: largest shift along each axis, fraction of the side.
    """
    angle, scale, right, down = rng.uniform(-1.0, 1.0, 4)
    side = image.shape[0]
    factor = math.exp(scale * math.log1p(zoom))
    cosine = factor * math.cos(math.radians(angle * rotation))
    sine = factor * math.sin(math.radians(angle * rotation))
    centre = (side - 1) / 2
    matrix = np.array(
        [
            [cosine, -sine, centre * (1 - cosine + sine) + right * shift * side],
            [sine, cosine, centre * (1 - sine - cosine) + down * shift * side],
        ]
    )
    return cv2.warpAffine(
        image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


def tone(
    image: UInt8[np.ndarray, "size size"],
    rng: np.random.Generator,
    *,
    brightness: float,
    contrast: float,
    gamma: float,
) -> UInt8[np.ndarray, "size size"]:
    """Contrast about the image's mean, then brightness, then gamma, as one table of 256 greys.

    Args:
      image: grey, (size, size).
      rng: gives 3 values.
      brightness: largest change either way, fraction of 255.
      contrast: largest relative change either way.
      gamma: largest absolute value of log gamma.
    """
    lift, spread, bend = rng.uniform(-1.0, 1.0, 3)
    mean = cv2.mean(image)[0]
    levels = np.arange(256.0)
    levels += (levels - mean) * (spread * contrast) + lift * brightness * 255.0
    levels = np.clip(levels / 255.0, 0.0, 1.0) ** math.exp(bend * gamma)
    return cv2.LUT(image, np.rint(levels * 255.0).astype(np.uint8))


def speckle(
    image: UInt8[np.ndarray, "size size"], rng: np.random.Generator, *, deviation: float
) -> UInt8[np.ndarray, "size size"]:
    """Multiply every pixel by 1 + deviation * n, n normal, independent, of unit variance.

    The noise takes 256 values, the normal quantiles: a random byte and a table cost a tenth of
    a normal deviate, and the image has no more greys than that.
    """
    if deviation == 0:
        return image
    noise = rng.integers(0, 256, image.shape, np.uint8)
    factors = cv2.LUT(noise, 1 + np.float32(deviation) * _normal_quantiles())
    return cv2.multiply(image, factors, dtype=cv2.CV_8U)


@cache
def _normal_quantiles() -> np.ndarray:
    """256 equally likely values of zero mean and unit variance, normal in shape."""
    normal = NormalDist()
    quantiles = np.array([normal.inv_cdf((k + 0.5) / 256) for k in range(256)])
    return (quantiles / quantiles.std()).astype(np.float32)
