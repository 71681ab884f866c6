"""From prediction sets to what is done with a patient: Kermany's tiers, and deferral."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from oct_jax.arrays import SameArray, namespace_of
from oct_jax.decision.conformal import Patients, patient_ids, patient_threshold
from oct_jax.task import Task
from oct_jax.types import Referral

WORDS: dict[Referral, str] = {
    "urgent": "urgent referral",
    "routine": "routine referral",
    "observe": "observation",
    "defer": "deferred to a person",
}
REFERRALS: tuple[Referral, ...] = tuple(WORDS)
"""In the order of `tier_codes`: tiers from the most urgent, then `defer`."""


NOT_REFERRED = "classified only: this task has no referral tiers"


def urgency(
    probabilities: Float[SameArray, "scans classes"], task: Task
) -> Float[SameArray, "scans"]:
    """Probability of the urgent classes together; 0 where the task has none."""
    return probabilities[:, np.array(task.urgent)].sum(1)


def urgent_threshold(
    scores: Float[np.ndarray, "scans"],
    labels: Int[np.ndarray, "scans"],
    sensitivity: float,
    task: Task,
    patients: Patients | None = None,
) -> float:
    """The highest urgency that `sensitivity` of a new patient's urgent scans should reach.

    Args:
      scores: `urgency` of calibration scans.
      labels: indices into the classes.
      sensitivity: asked for, in (0, 1].
      task: that the classes are of.
      patients: of each scan; without them every scan counts as a patient of its own.

    Returns:
      The `patient_threshold` of the urgent scans; 0, which calls every scan urgent, where no
      calibration scan is urgent; 1, which calls none, where the task has no urgent class.
    """
    if not any(task.urgent):
        return 1.0
    urgent = np.array(task.urgent)[labels]
    patient_of = patient_ids(patients, len(labels))
    threshold = patient_threshold(scores[urgent], patient_of[urgent], sensitivity)
    return 0.0 if threshold is None else threshold


def tier_codes(
    sets: Bool[SameArray, "scans classes"],
    urgent: Bool[SameArray, "scans"],
    outlier: Bool[SameArray, "scans"],
    task: Task,
) -> Int8[SameArray, "scans"]:
    """The referral of each scan as an index into `REFERRALS`; -1 in a task without tiers.

    A scan is deferred where it is an outlier, where its set is empty or holds a class without a
    tier, and where the classes of its set, with `urgent` counted as one of them, belong to several
    tiers. Pure, of NumPy arrays or JAX's, for which it may be traced.

    Args:
      sets: conformal sets.
      urgent: whether the urgency is at or above its threshold.
      outlier: whether the scan is unlike the training scans.
      task: that the classes are of.
    """
    numpy = namespace_of(sets)
    if not task.refers:
        return numpy.full(sets.shape[:1], -1, numpy.int8)
    defer = REFERRALS.index("defer")
    of_tier = np.array([[tier == name for name in REFERRALS[:defer]] for tier in task.tiers])
    present = (sets[:, :, None] & of_tier).any(1)
    present = present | (
        urgent[:, None] & np.array([name == "urgent" for name in REFERRALS[:defer]])
    )
    untiered = sets[:, ~of_tier.any(1)].any(1)
    answered = (present.sum(1) == 1) & sets.any(1) & ~untiered & ~outlier
    return numpy.where(answered, present.argmax(1), defer).astype(numpy.int8)


def refer(
    sets: Bool[np.ndarray, "scans classes"],
    urgent: Bool[np.ndarray, "scans"],
    outlier: Bool[np.ndarray, "scans"],
    task: Task,
) -> list[Referral | None]:
    """The tier of each scan, or `defer`; None for every scan of a task without tiers.

    See `tier_codes`.
    """
    return to_referrals(tier_codes(sets, urgent, outlier, task))


def to_referrals(codes: Int8[np.ndarray, "scans"]) -> list[Referral | None]:
    """The words of `tier_codes`."""
    return [REFERRALS[code] if code >= 0 else None for code in codes]
