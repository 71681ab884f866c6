"""Changes of the signal: resolution, shadows, speckle of few averaged frames, detector noise.

A scanner displays a compressed intensity: Spectralis the fourth root of the reflectivity, others
its logarithm. Noise is added where it arises, to the intensity: grey**4.
"""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

FRAMES = (1, 2, 3, 4, 6, 8, 12, 16, 32)
"""Numbers of averaged frames of `grain`, each as likely as the other."""
_GRAINS = ((0.3, 0.4), (0.5, 0.9), (0.7, 1.3))  # of noise: deviation along width, depth; pixels
_NOISE = (1e-5, 1e-2)  # deviation of detector noise, of the intensity of white; log-uniform
_INTENSITY = ((np.arange(256) / 255.0) ** 4).astype(np.float32)


def blur(
    image: UInt8[np.ndarray, "rows columns"], rng: np.random.Generator, *, probability: float
) -> UInt8[np.ndarray, "rows columns"]:
    """A Gaussian of 0.4 to 1.6 pixels along either axis: a coarser axial or lateral resolution.

    The point spread of an OCT system is near Gaussian: along the depth by the spectrum of its
    source, along the width by its spot (Fercher et al. 2003, "Optical coherence tomography -
    principles and applications", Rep. Prog. Phys. 66).
    """
    chance, across, down = rng.random(3)
    if chance >= probability:
        return image
    return cv2.GaussianBlur(image, (0, 0), sigmaX=0.4 + 1.2 * across, sigmaY=0.4 + 1.2 * down)


def shade(
    image: UInt8[np.ndarray, "rows columns"], rng: np.random.Generator, *, probability: float
) -> UInt8[np.ndarray, "rows columns"]:
    """Smooth shading across the width, 0.3 to 1.2 times the intensity: opacity, vignetting.

    A cubic spline through four random levels; nothing along the depth, for what lies above a
    column shades all of it.
    """
    chance, *levels = rng.random(5)
    if chance >= probability:
        return image
    knots = np.array([levels], np.float32) * 0.9 + 0.3
    gain = cv2.resize(knots, (image.shape[1], 1), interpolation=cv2.INTER_CUBIC).clip(0.1, 2)
    factors = np.broadcast_to(gain**0.25, image.shape)
    return cv2.multiply(image, np.ascontiguousarray(factors), dtype=cv2.CV_8U)


def grain(
    image: UInt8[np.ndarray, "rows columns"], rng: np.random.Generator, *, probability: float
) -> UInt8[np.ndarray, "rows columns"]:
    """Speckle of N averaged frames and detector noise, in intensity, with this probability.

    With grey g in [0, 1] the new grey is max(0, g**4 s + d (n + b))**(1/4). The speckle s is the
    mean intensity of N circular Gaussian fields: gamma distributed with mean 1 and variance 1 / N
    where they are independent (Goodman 1976, "Some fundamental properties of speckle", JOSA 66;
    Schmitt, Xiang and Yung 1999, "Speckle in optical coherence tomography"). The noise n is normal
    and correlated over a pixel, d its deviation and b what the device's subtraction of the
    background leaves. Where the signal is weak half of the pixels fall below zero, are shown black,
    and the fourth root lifts the others far above it: the salt on black of scans with few frames.

    The fields are cut at random places out of stored ones, for drawing them anew would cost more
    than the training step.

    Args:
      image: grey.
      rng: gives 8 values and, where the image changes, 8 more.
      probability: of a change.
    """
    chance, frames, level, background, kind, soften, softness, _ = rng.random(8)
    if chance >= probability:
        return image
    signal = cv2.LUT(image, _INTENSITY)
    side = max(image.shape)
    speckle = _cut(_speckle_fields(side)[int(frames * len(FRAMES))], image.shape, rng)
    noise = _cut(_noise_fields(side)[int(kind * len(_GRAINS))], image.shape, rng)
    low, high = map(math.log, _NOISE)
    deviation = math.exp(low + level * (high - low))
    signal *= speckle
    signal += np.float32(deviation) * noise
    signal += np.float32(deviation * (1.5 * background - 0.5))
    np.maximum(signal, 0, out=signal)
    grey = np.sqrt(np.sqrt(signal, out=signal), out=signal)
    if soften < 0.3:  # an export that interpolates
        grey = cv2.GaussianBlur(grey, (0, 0), 0.4 + 0.5 * softness)
    return cv2.convertScaleAbs(grey, alpha=255.0)


def _cut(
    field: Float32[np.ndarray, "side side"], shape: tuple[int, int], rng: np.random.Generator
) -> Float32[np.ndarray, "rows columns"]:
    """A piece of a field at a random place, perhaps mirrored."""
    top, left, mirror, turn = rng.random(4)
    row = int(top * (field.shape[0] - shape[0] + 1))
    column = int(left * (field.shape[1] - shape[1] + 1))
    piece = field[row : row + shape[0], column : column + shape[1]]
    piece = piece[:, ::-1] if mirror < 0.5 else piece
    return piece[::-1] if turn < 0.5 else piece


@cache
def _speckle_fields(side: int) -> tuple[Float32[np.ndarray, "field field"], ...]:
    """Of each number of `FRAMES`: mean intensity of as many fields, 1.5 times the side."""
    rng = np.random.default_rng(1976)
    field = side + side // 2
    total = np.zeros((field, field), np.float32)
    fields = {}
    for frame in range(1, max(FRAMES) + 1):
        for _ in range(2):  # real and imaginary part
            part = rng.standard_normal((field, field), np.float32)
            total += cv2.GaussianBlur(part, (3, 3), sigmaX=0.3, sigmaY=0.4) ** 2
        if frame in FRAMES:
            fields[frame] = total / total.mean()
    return tuple(fields[frame] for frame in FRAMES)


@cache
def _noise_fields(side: int) -> tuple[Float32[np.ndarray, "field field"], ...]:
    """Of each of `_GRAINS`: normal noise of unit variance, 1.5 times the side."""
    rng = np.random.default_rng(1999)
    field = side + side // 2
    white = rng.standard_normal((field, field), np.float32)
    blurred = (cv2.GaussianBlur(white, (0, 0), sigmaX=x, sigmaY=y) for x, y in _GRAINS)
    return tuple(noise / noise.std() for noise in blurred)
