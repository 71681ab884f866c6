"""Whether a map shows what the model used: pure functions over scans, maps and lesions.

All maps here are over the model's input, (size, size), float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from oct_jax.arrays import ScanBatch

OneScan = UInt8[np.ndarray, "size size"]
Mask = Bool[np.ndarray, "size size"]
Heat = Float32[np.ndarray, "size size"]
Remove = Callable[[OneScan, Mask, np.random.Generator], OneScan]

TOLERANCE = 15 / 224
"""Of the pointing game, as a share of the side: 15 pixels of 224 (Zhang et al. 2018)."""

_RESAMPLES = 2000


def top_share(heat: Heat, share: float, rng: np.random.Generator) -> Mask:
    """The given share of pixels where the map is highest; ties, as in its zeros, at random."""
    return next(top_shares(heat, [share], rng))


def top_shares(heat: Heat, shares: Sequence[float], rng: np.random.Generator) -> Iterator[Mask]:
    """`top_share` for several shares, from one sort."""
    order = np.lexsort((rng.random(heat.size, np.float32), heat.ravel()))
    for share in shares:
        mask = np.zeros(heat.size, bool)
        mask[order[heat.size - round(share * heat.size) :]] = True
        yield mask.reshape(heat.shape)


def remove_by_blur(scan: OneScan, mask: Mask, rng: np.random.Generator) -> OneScan:
    """Puts a heavily blurred copy under the mask (sigma of a fourteenth of the side).

    Petsiuk et al. 2018 blur for insertion. Black, as they use for deletion, would be a dark hole
    in a retina, which is what fluid looks like.
    """
    del rng
    return np.where(mask, blurred(scan), scan)


def blurred(scan: OneScan) -> OneScan:
    """The scan without its detail: what is left when all is removed."""
    return cv2.GaussianBlur(scan, (0, 0), len(scan) / 14)


def deletion_steps(
    scan: OneScan,
    heat: Heat,
    shares: Sequence[float],
    remove: Remove,
    rng: np.random.Generator,
) -> ScanBatch:
    """The scan with its highest shares removed, one for each share."""
    return np.stack([remove(scan, mask, rng) for mask in top_shares(heat, shares, rng)])


def insertion_steps(
    scan: OneScan, heat: Heat, shares: Sequence[float], rng: np.random.Generator
) -> ScanBatch:
    """The blurred scan with its highest shares restored, one for each share."""
    return np.stack([remove_by_blur(scan, ~mask, rng) for mask in top_shares(heat, shares, rng)])


def random_cells(
    rng: np.random.Generator, count: int, shape: tuple[int, int]
) -> Float32[np.ndarray, "count rows columns"]:
    """Maps that know nothing of the scan, at the resolution of the true ones."""
    return rng.random((count, *shape), np.float32)


def centre_cells(shape: tuple[int, int]) -> Float32[np.ndarray, "rows columns"]:
    """A Gaussian blob in the centre, its deviation a quarter of the side."""
    rows, columns = ((np.arange(side) + 0.5) / side - 0.5 for side in shape)
    return np.exp(-8 * (rows[:, None] ** 2 + columns**2)).astype(np.float32)


def area_under(curves: Float[np.ndarray, "scans steps"]) -> Float[np.ndarray, "scans"]:
    """Area under each curve, its ends at 0 and 1."""
    return np.trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1)


def patient_interval(
    values: Float[np.ndarray, "scans"], patients: Sequence[str], rng: np.random.Generator
) -> tuple[float, float, float]:
    """Mean over scans and its 95 % bootstrap interval (percentile; patients resampled)."""
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    sums = np.bincount(owner, weights=values, minlength=len(names))
    counts = np.bincount(owner, minlength=len(names))
    picks = rng.integers(0, len(names), (_RESAMPLES, len(names)))
    low, high = np.quantile(sums[picks].sum(1) / counts[picks].sum(1), (0.025, 0.975))
    return float(np.mean(values)), float(low), float(high)


def rank_correlation(
    maps: Float[np.ndarray, "scans rows columns"], others: Float[np.ndarray, "scans rows columns"]
) -> Float[np.ndarray, "scans"]:
    """Spearman's correlation of each pair of maps; 0 where one of them is constant."""
    from scipy.stats import rankdata  # a second to import, and only reports need it

    ranks, other_ranks = (
        rankdata(values.reshape(len(values), -1), axis=1) for values in (maps, others)
    )
    ranks -= ranks.mean(1, keepdims=True)
    other_ranks -= other_ranks.mean(1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1) * np.linalg.norm(other_ranks, axis=1)
    return (ranks * other_ranks).sum(1) / np.where(norms > 0, norms, 1)


def points_at(heat: Heat, lesion: Mask, tolerance: int) -> bool:
    """The pointing game (Zhang et al. 2018): the maximum is within `tolerance` of the lesion.

    An empty map points nowhere.
    """
    if not heat.any():
        return False
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    rows, columns = np.nonzero(lesion)
    return bool(((rows - row) ** 2 + (columns - column) ** 2 <= tolerance**2).any())


def energy_inside(heat: Heat, lesion: Mask) -> float:
    """The share of the map's sum that lies in the lesion."""
    total = float(heat.sum())
    return float(heat[lesion].sum()) / total if total else 0.0


def overlap(heat: Heat, lesion: Mask, rng: np.random.Generator) -> float:
    """Intersection over union of the lesion and as many pixels where the map is highest."""
    chosen = top_share(heat, lesion.mean(), rng)
    return float((chosen & lesion).sum() / (chosen | lesion).sum())
