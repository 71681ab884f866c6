"""Banks of noise, made once and cut at random places.

Fresh noise would cost more than all the rest of a scan.
"""

from functools import cache

import cv2
import numpy as np

_BANK_SHAPE = (1024, 2304)


def crop(bank: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A piece of a bank, of shape (rows, columns), from a random place."""
    rows, columns = shape
    row = rng.integers(bank.shape[0] - rows + 1)
    column = rng.integers(bank.shape[1] - columns + 1)
    return bank[row : row + rows, column : column + columns]


def wander(rng: np.random.Generator, count: int, width: int, scale: int) -> np.ndarray:
    """Curves of zero mean and unit variance, smooth over `scale` pixels, (count, width)."""
    return crop(_curve_bank(scale), (count, width), rng)


@cache
def _curve_bank(scale: int) -> np.ndarray:
    noise = np.random.default_rng(scale).standard_normal((64, 4096), np.float32)
    return _standardised(cv2.GaussianBlur(noise, (0, 0), scale, sigmaY=0.01))


@cache
def speckle_bank() -> np.ndarray:
    """Fourth root of exponentially distributed intensity, as a display shows it."""
    intensity = np.random.default_rng(0).standard_exponential(_BANK_SHAPE, np.float32)
    return _standardised(cv2.GaussianBlur(intensity**0.25, (0, 0), 0.55, sigmaY=0.75))


@cache
def choroid_bank() -> np.ndarray:
    """From about -1 in a lumen to 0.7 in the stroma."""
    noise = np.random.default_rng(1).standard_normal(_BANK_SHAPE, np.float32)
    smooth = _standardised(cv2.GaussianBlur(noise, (0, 0), 6, sigmaY=5))
    return np.tanh(0.8 * smooth + 0.4) - 0.2


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()
