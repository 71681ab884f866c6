"""From prediction sets to what is done with a patient: Kermany's tiers, and deferral."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from oct_jax.types import CLASSES, Referral

TIERS: dict[str, Referral] = {
    "CNV": "urgent",
    "DME": "urgent",
    "DRUSEN": "routine",
    "NORMAL": "observe",
}
"""Kermany et al. 2018, figure 3: urgent referral, routine referral, observation."""
URGENT = np.array([TIERS[name] == "urgent" for name in CLASSES])

WORDS: dict[Referral, str] = {
    "urgent": "urgent referral",
    "routine": "routine referral",
    "observe": "observation",
    "defer": "deferred to a person",
}


def urgency(probabilities: Float[np.ndarray, "scans classes"]) -> Float[np.ndarray, "scans"]:
    """Probability of an urgent class: of CNV or DME."""
    return probabilities[:, URGENT].sum(1)


def urgent_threshold(
    scores: Float[np.ndarray, "scans"], labels: Int[np.ndarray, "scans"], sensitivity: float
) -> float:
    """The highest urgency at which at least `sensitivity` of the urgent scans are found.

    Args:
      scores: `urgency` of calibration scans.
      labels: indices into the classes.
      sensitivity: asked for, in (0, 1].

    Returns:
      The threshold; 0 where no calibration scan is urgent, which calls every scan urgent: no
      higher one is known to find any.
    """
    urgent = np.sort(scores[URGENT[labels]])[::-1]
    if not len(urgent):
        return 0.0
    needed = max(1, int(np.ceil(sensitivity * len(urgent) - 1e-9)))
    return float(urgent[needed - 1])


def refer(
    sets: Bool[np.ndarray, "scans classes"],
    urgent: Bool[np.ndarray, "scans"],
    outlier: Bool[np.ndarray, "scans"],
) -> list[Referral]:
    """The tier of each scan, or `defer`.

    A scan is deferred where it is an outlier, where its set is empty, and where the classes of
    its set, with `urgent` counted as one of them, belong to several tiers.

    Args:
      sets: conformal sets.
      urgent: whether the urgency is at or above its threshold.
      outlier: whether the scan is unlike the training scans.
    """
    decided: list[Referral] = []
    for row, is_urgent, is_outlier in zip(sets, urgent, outlier, strict=True):
        tiers = {TIERS[name] for name, inside in zip(CLASSES, row, strict=True) if inside}
        if not tiers or is_outlier or len(tiers | ({"urgent"} if is_urgent else set())) > 1:
            decided.append("defer")
        else:
            decided.append(tiers.pop())
    return decided
