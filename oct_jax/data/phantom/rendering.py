"""From the layers of a section to the picture of it, and the mask of its lesion."""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import UInt8

from oct_jax.data.phantom.anatomy import INDEX, LEVEL, Section
from oct_jax.data.phantom.lesions import Blob
from oct_jax.data.phantom.noise import choroid_bank, crop, speckle_bank, wander

HEIGHT = 496
"""Rows of every phantom, as of the Spectralis scans that they imitate."""

_WHITE = 255


def render(
    section: Section, boundaries: np.ndarray, choroid_depth: float, rng: np.random.Generator
) -> np.ndarray:
    """The noise-free scan, float32 (HEIGHT, width)."""
    vitreous, below = (
        np.full((1, section.width), rng.uniform(*span), np.float32) for span in ((10, 32), (8, 16))
    )
    membrane = vitreous + rng.uniform(15, 60)
    signal = _sum_of_steps(
        rows=np.vstack([_hyaloid(boundaries[0], rng), boundaries]),
        levels=np.vstack([vitreous, membrane, vitreous, section.level, below]),
    )
    _add_choroid(signal, section, choroid_depth, rng)
    signal *= rng.uniform(0.8, 1.2)
    return signal


def _hyaloid(surface: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of the edges of a detached vitreous membrane, beyond the scan in most, (2, width)."""
    distance = rng.uniform(12, 90) if rng.random() < 0.25 else 2.0 * HEIGHT
    row = surface.min() - distance + 6 * wander(rng, 1, len(surface), 60)[0]
    return np.stack([row, row + 1.5])


def _sum_of_steps(rows: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Draw layers from the rows of their edges: in every column the running sum of the steps.

    Edges are blurred by about a pixel.

    Args:
      rows: of the edges, (edges, width); those beyond the scan count as at its border.
      levels: of the layers, (edges + 1, width).

    Returns:
      float32, (HEIGHT, width).
    """
    width = rows.shape[1]
    steps = np.diff(levels, axis=0)
    rows = np.clip(rows + 0.5, 0, HEIGHT + 1)
    first = rows.astype(np.intp)
    rest = (rows - first).astype(np.float32)
    # Weights of a quadratic B-spline: a smooth edge at any fraction of a pixel.
    weights = ((1 - rest) ** 2 / 2, 0.5 + rest * (1 - rest), rest**2 / 2)
    place = first * width + np.arange(width)
    signal = np.zeros((HEIGHT + 4, width), np.float32)
    for lower, weight in enumerate(weights):
        np.add.at(signal.reshape(-1), place + lower * width, weight * steps)
    signal[0] += levels[0]
    last = int(first.max()) + 3
    for above, here in pairwise(signal[:last]):
        here += above
    signal[last:] = levels[-1]
    return signal[1 : HEIGHT + 1]


def draw_blobs(signal: np.ndarray, blobs: list[Blob]) -> np.ndarray:
    """Draw into the signal, the last on top; returns what they cover, uint8 0 to 255."""
    coverage = np.zeros(signal.shape, np.uint8)
    for level in sorted({blob.level for blob in blobs} - {0.0}):
        body = np.zeros(signal.shape, np.uint8)
        for blob in blobs:
            if blob.level in (0.0, level):
                colour = 255 if blob.level else 0
                cv2.fillPoly(body, [blob.outline], colour, cv2.LINE_AA, shift=4)
        left, top, width, height = cv2.boundingRect(body)
        part = slice(top, top + height), slice(left, left + width)
        signal[part] += (level - signal[part]) * (body[part] / np.float32(255))
        coverage[part] = np.maximum(coverage[part], body[part])
    return coverage


def lesion_mask(section: Section, boundaries: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Pixels of blobs, and of the columns where a lesion fills its layer by a pixel or more."""
    lesion = coverage > 127
    thickness, fluid = section.thickness, INDEX["subretinal_fluid"]
    spans = (
        # Fluid and material, down to the RPE; deposits with the RPE that they lift.
        ("subretinal_fluid", "rpe", thickness[fluid] + thickness[fluid + 1] >= 1),
        ("rpe", "bruch", (thickness[INDEX["deposit"]] >= 1) | (section.disrupted > 0.5)),
    )
    for upper, lower, there in spans:
        columns = np.flatnonzero(there)
        if not len(columns):
            continue
        part = slice(columns[0], columns[-1] + 1)
        top = np.where(there, boundaries[INDEX[upper]], HEIGHT)[part]
        bottom = np.where(there, boundaries[INDEX[lower]], 0)[part]
        rows = slice(max(int(top.min()), 0), max(math.ceil(bottom.max()), 0))
        middle = np.arange(HEIGHT, dtype=np.float32)[rows, None] + 0.5
        lesion[rows, part] |= (middle >= top) & (middle < bottom)
    return lesion


def _add_choroid(
    signal: np.ndarray, section: Section, fading: float, rng: np.random.Generator
) -> None:
    """Add what scatters back from below Bruch's membrane: dark vessel lumina in bright stroma.

    It fades with depth, to 1/e after `fading` pixels, and lies in the shadows of what is above.
    """
    bottom = section.bottom
    first = int(np.clip(bottom.min() - 1, 0, HEIGHT - 1))
    last = int(np.clip(bottom.max() + 3.5 * fading, first + 1, HEIGHT))
    depth = np.arange(first + 0.5, last, dtype=np.float32)[:, None] - bottom
    glow = np.minimum(depth * (-1 / fading), 4 * depth)  # cut off above the membrane
    np.exp(glow, out=glow)
    glow *= rng.uniform(45, 85) * section.level[-1] / LEVEL[-1]
    texture = crop(choroid_bank(), depth.shape, rng)
    signal[first:last] += glow
    signal[first:last] += cv2.multiply(glow, texture, scale=rng.uniform(0.25, 0.7))


def speckled(signal: np.ndarray, rng: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
    """Speckle in proportion to the signal, and the detector's noise, which a root compresses.

    What the noise adds to the fourth root of an intensity falls with the intensity: the vitreous
    is grainy where the retina is smooth.
    """
    speckle = crop(speckle_bank(), signal.shape, rng)
    proportional, floor = rng.uniform(0.03, 0.1), rng.uniform(6, 17)
    deviation = floor * 40 / (signal + 20)
    deviation = cv2.scaleAdd(signal, proportional, deviation)
    return cv2.add(signal, cv2.multiply(deviation, speckle), dtype=cv2.CV_8U)


def draw_borders(
    image: np.ndarray, lesion: np.ndarray, offset: float, rng: np.random.Generator
) -> None:
    """White wedges where registration shifted and turned the scan out of its frame."""
    turn, left = rng.normal(0, 0.035), rng.integers(0, 4)
    if offset == 0:
        return
    width = image.shape[1]
    side = turn * width / 2
    upper = [[0, -1], [0, offset - side], [width, offset + side], [width, -1]]
    lower = [
        [0, HEIGHT],
        [0, HEIGHT + offset - side],
        [width, HEIGHT + offset + side],
        [width, HEIGHT],
    ]
    for corners, beyond in ((upper, -1), (lower, HEIGHT)):
        outline = np.array(corners)
        kept = np.maximum if beyond < 0 else np.minimum
        outline[:, 1] = kept(outline[:, 1], beyond)
        cv2.fillPoly(image, [outline.astype(np.int32)], _WHITE)
        cv2.fillPoly(lesion.view(np.uint8), [outline.astype(np.int32)], 0)
    image[:, :left] = _WHITE
    lesion[:, :left] = False
