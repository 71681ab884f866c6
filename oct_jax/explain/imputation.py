"""Removal of pixels by noisy linear imputation, as ROAD does it."""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Bool, Float64, UInt8

NOISE = 2.55
"""Standard deviation of the noise, grey levels: 0.01 of full scale."""

_BESIDE, _DIAGONAL = 1 / 6, 1 / 12
_NEIGHBOURS = [place for place in itertools.product((-1, 0, 1), repeat=2) if place != (0, 0)]


def remove_by_imputation(
    scan: UInt8[np.ndarray, "rows columns"],
    mask: Bool[np.ndarray, "rows columns"],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "rows columns"]:
    """Fills the mask from its surroundings, so that its outline tells nothing.

    Noisy linear imputation (Rong et al. 2022, "A consistent and efficient evaluation strategy for
    attribution methods", section 4): every removed pixel is the weighted mean of its eight
    neighbours, 1/6 for those beside it and 1/12 for those on the diagonal, and normal noise is
    added. Neighbours beyond the scan's border are left out of the mean.

    Args:
      scan: grey.
      mask: the pixels to remove; where that is all of them, they become the scan's mean.
      rng: draws the noise.
    """
    if mask.all():
        filled = np.full(scan.shape, scan.mean())
    else:
        filled = scan.astype(np.float64)
        filled[mask] = _mean_of_neighbours(scan, mask)
    noise = rng.normal(0, NOISE, scan.shape) * mask
    return np.rint(np.clip(filled + noise, 0, 255)).astype(np.uint8)


def _mean_of_neighbours(
    scan: UInt8[np.ndarray, "rows columns"], mask: Bool[np.ndarray, "rows columns"]
) -> Float64[np.ndarray, "removed"]:
    """The removed pixels, in the order of the mask, by a sparse linear system."""
    from scipy.sparse import csc_array  # only reports need it
    from scipy.sparse.linalg import splu

    count = int(mask.sum())
    numbers = np.full(np.add(mask.shape, 2), -1)
    numbers[1:-1, 1:-1][mask] = np.arange(count)
    levels = np.pad(scan.astype(np.float64), 1)
    inside = np.pad(np.ones(mask.shape, bool), 1)
    row, column = np.nonzero(np.pad(mask, 1))
    total, known = np.zeros(count), np.zeros(count)
    entries = []
    for down, right in _NEIGHBOURS:
        rows, columns = row + down, column + right
        weight = _DIAGONAL if down and right else _BESIDE
        there, number = inside[rows, columns], numbers[rows, columns]
        removed = number >= 0
        total += weight * there
        known += weight * levels[rows, columns] * (there & ~removed)
        pixel = np.flatnonzero(removed)
        entries.append((np.full(len(pixel), -weight), pixel, number[removed]))
    entries.append((total, np.arange(count), np.arange(count)))
    values, rows, columns = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    system = csc_array((values, (rows, columns)), shape=(count, count))
    # Symmetric and diagonally dominant: it needs no pivots, and their absence halves the time.
    factors = splu(
        system,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    return factors.solve(known)
