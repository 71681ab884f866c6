"""From prediction sets to what is done with a patient: Kermany's tiers, and deferral."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from oct_jax.task import Task
from oct_jax.types import Referral

WORDS: dict[Referral, str] = {
    "urgent": "urgent referral",
    "routine": "routine referral",
    "observe": "observation",
    "defer": "deferred to a person",
}


NOT_REFERRED = "classified only: this task has no referral tiers"


def urgency(
    probabilities: Float[np.ndarray, "scans classes"], task: Task
) -> Float[np.ndarray, "scans"]:
    """Probability of the urgent classes together; 0 where the task has none."""
    return probabilities[:, np.array(task.urgent)].sum(1)


def urgent_threshold(
    scores: Float[np.ndarray, "scans"],
    labels: Int[np.ndarray, "scans"],
    sensitivity: float,
    task: Task,
) -> float:
    """The highest urgency at which at least `sensitivity` of the urgent scans are found.

    Args:
      scores: `urgency` of calibration scans.
      labels: indices into the classes.
      sensitivity: asked for, in (0, 1].
      task: that the classes are of.

    Returns:
      The threshold; 0 where no calibration scan is urgent, which calls every scan urgent: no
      higher one is known to find any. 1 where the task has no urgent class, which calls none.
    """
    if not any(task.urgent):
        return 1.0
    urgent = np.sort(scores[np.array(task.urgent)[labels]])[::-1]
    if not len(urgent):
        return 0.0
    needed = max(1, int(np.ceil(sensitivity * len(urgent) - 1e-9)))
    return float(urgent[needed - 1])


def refer(
    sets: Bool[np.ndarray, "scans classes"],
    urgent: Bool[np.ndarray, "scans"],
    outlier: Bool[np.ndarray, "scans"],
    task: Task,
) -> list[Referral | None]:
    """The tier of each scan, or `defer`; None for every scan of a task without tiers.

    A scan is deferred where it is an outlier, where its set is empty or holds a class without a
    tier, and where the classes of its set, with `urgent` counted as one of them, belong to several
    tiers.

    Args:
      sets: conformal sets.
      urgent: whether the urgency is at or above its threshold.
      outlier: whether the scan is unlike the training scans.
      task: that the classes are of.
    """
    if not task.refers:
        return [None] * len(sets)
    referrals: list[Referral | None] = []
    for row, is_urgent, is_outlier in zip(sets, urgent, outlier, strict=True):
        tiers = {tier for tier, inside in zip(task.tiers, row, strict=True) if inside}
        if is_urgent:
            tiers.add("urgent")
        one_tier = len(tiers) == 1 and row.any() and not is_outlier
        referrals.append((tiers.pop() if one_tier else None) or "defer")
    return referrals
