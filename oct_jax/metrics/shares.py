"""Intervals of shares where scans come in patients."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool

from oct_jax.decision.conformal import Patients

_Z = 1.959964
"""Of the normal distribution, two-sided, 95 %."""


def patient_share(
    holds: Bool[np.ndarray, "scans"], patients: Patients
) -> tuple[float, float, float]:
    """The share of scans for which something holds, with its 95 % interval over patients.

    Wilson's interval (1927) at the effective number of scans: as many independent scans as would
    have the share's variance over patients (a ratio of sums; Cochran 1977, section 11.5; Dean and
    Pagano 2015 compare such intervals). Where it holds for all or none that variance is not to be
    seen, and each patient counts as one scan. Unlike a percentile interval of few resampled
    patients it never has a length of 0.

    Args:
      holds: of each scan.
      patients: of each scan.

    Returns:
      (share, low, high); (0, 0, 1) where there are no scans.
    """
    scans = len(holds)
    if not scans:
        return 0.0, 0.0, 1.0
    _, owner, counts = np.unique(patients, return_inverse=True, return_counts=True)
    known, share = len(counts), float(np.mean(holds))
    size = float(known)
    if 0 < share < 1 and known > 1:
        away = np.bincount(owner, weights=holds) - share * counts
        variance = known / (known - 1) * float((away**2).sum()) / scans**2
        size = min(share * (1 - share) / variance, float(scans)) if variance else float(scans)
    return share, *_wilson(share, size)


def _wilson(share: float, size: float) -> tuple[float, float]:
    middle = (share + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = math.sqrt(share * (1 - share) / size + _Z**2 / (4 * size**2)) / (1 + _Z**2 / size)
    # Rounding may put an end on the wrong side of the share itself, at 0 and at 1.
    return min(max(middle - _Z * half, 0.0), share), max(min(middle + _Z * half, 1.0), share)
