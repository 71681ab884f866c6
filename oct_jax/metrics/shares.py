"""Intervals of shares where scans come in patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

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


def scans_behind(
    predicted: Int[np.ndarray, "scans"], truth: Int[np.ndarray, "scans"], names: Sequence[str]
) -> dict[str, Bool[np.ndarray, "scans"]]:
    """Which scans a share is over, by the names of `oct_jax.metrics.classification.figures`."""
    masks = {"accuracy": np.ones(len(truth), bool)}
    for group, name in enumerate(names):
        masks |= {
            f"{name} precision": predicted == group,
            f"{name} recall": truth == group,
            f"{name} specificity": truth != group,
        }
    return masks


def widen_certain(
    values: Mapping[str, float | None],
    intervals: Mapping[str, tuple[float, float] | None],
    behind: Mapping[str, Bool[np.ndarray, "scans"]],
    patients: Patients,
) -> dict[str, tuple[float, float] | None]:
    """Intervals in which shares of exactly 0 or 1 have those of `patient_share`.

    Where every scan is right, or wrong, each draw of patients says the same, and their percentiles
    claim certainty: of 10 patients as of 1,000.

    Args:
      values: of figures by name.
      intervals: of the same, from drawing patients.
      behind: the scans that a share is over, for the figures that are shares.
      patients: of each scan.
    """
    owners = np.asarray(patients)
    widened = dict(intervals)
    for name, mask in behind.items():
        value, interval = values.get(name), intervals.get(name)
        if value in (0.0, 1.0) and interval is not None and interval[0] == interval[1]:
            _, *ends = patient_share(np.full(int(mask.sum()), bool(value)), owners[mask])
            widened[name] = (ends[0], ends[1])
    return widened


def _wilson(share: float, size: float) -> tuple[float, float]:
    middle = (share + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = math.sqrt(share * (1 - share) / size + _Z**2 / (4 * size**2)) / (1 + _Z**2 / size)
    # Rounding may put an end on the wrong side of the share itself, at 0 and at 1.
    return min(max(middle - _Z * half, 0.0), share), max(min(middle + _Z * half, 1.0), share)
