"""Pictures that show no retina, which every model should defer."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

from oct_jax.decision.outliers import TILES

SHAPE = (496, 512)
EACH = 20


def pictures_without_retina(
    scans: Sequence[np.ndarray], rng: np.random.Generator
) -> list[tuple[str, np.ndarray]]:
    """Noise, blank and grey pictures, gradients, text, photographs and shuffled scans.

    Args:
      scans: to shuffle, uint8 grey; at least 20.
      rng: draws them.

    Returns:
      (kind, picture) pairs, uint8 grey.
    """
    pictures = [("noise", rng.integers(0, 256, SHAPE, np.uint8)) for _ in range(EACH)]
    pictures += [("noise", _soft_noise(rng)) for _ in range(EACH)]
    pictures += [("blank", np.full(SHAPE, level, np.uint8)) for level in range(0, 256, 17)]
    pictures += [("gradient", _gradient(rng)) for _ in range(EACH)]
    pictures += [("text", _text(rng)) for _ in range(EACH)]
    photographs = [picture.mean(-1).astype(np.uint8) for picture in load_sample_images().images]
    pictures += [("photograph", _part(photograph, rng)) for photograph in photographs * EACH]
    return pictures + [("shuffled", _shuffled(scan, rng)) for scan in scans[:EACH]]


def _soft_noise(rng: np.random.Generator) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.standard_normal(SHAPE), (0, 0), rng.uniform(1, 12))
    return np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)


def _gradient(rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    angle = rng.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    return (255 * (along - along.min()) / np.ptp(along)).astype(np.uint8)


def _text(rng: np.random.Generator) -> np.ndarray:
    page = np.full(SHAPE, 255, np.uint8)
    letters = list("abcdefghijklmnopqrstuvwxyz      ")
    for row in range(30, SHAPE[0], 30):
        line = "".join(rng.choice(letters, 34))
        cv2.putText(page, line, (10, row), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 0, 2)
    return page


def _part(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random half of the photograph's height and width."""
    height, width = (side // 2 for side in photograph.shape)
    row, column = rng.integers(0, height), rng.integers(0, width)
    return photograph[row : row + height, column : column + width]


def _shuffled(scan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The scan cut into 14 x 14 tiles, in another order."""
    height, width = (side // TILES for side in scan.shape)
    whole = scan[: height * TILES, : width * TILES]
    tiles = whole.reshape(TILES, height, TILES, width).swapaxes(1, 2).reshape(-1, height, width)
    mixed = tiles[rng.permutation(len(tiles))].reshape(TILES, TILES, height, width)
    return mixed.swapaxes(1, 2).reshape(whole.shape)
