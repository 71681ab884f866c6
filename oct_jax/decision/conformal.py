"""Prediction sets with a stated coverage in every class: split conformal prediction.

Class-conditional (Mondrian) conformal prediction (Vovk, Gammerman and Shafer 2005, section 4.5)
with the score 1 - p(class) of Sadinle, Lei and Wasserman 2019. Scans of one patient resemble each
other, so patients are what is drawn: hierarchical conformal prediction (Lee, Barber and Willett
2024, section 3.1). If the patients of calibration and new scans are exchangeable within a class,
the set of a scan of a new patient of that class holds it with at least the asked probability,
whatever the model.

One rule serves few patients everywhere, in sets, urgency and outliers alike: K patients can keep a
promise of K / (K + 1) at most, and where more is asked, that is what is promised
(`promised_share`), and written down with the rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from oct_jax.arrays import SameArray

Patients = Sequence[str] | np.ndarray
"""Of each scan, an id of its patient."""


def patient_ids(patients: Patients | None, scans: int) -> np.ndarray:
    """An id of the patient of each scan; without any, every scan is of a patient of its own."""
    return np.arange(scans) if patients is None else np.asarray(patients)


def promised_share(patients: int, share: float) -> float:
    """What can be promised of a new patient's scans: the share that is asked for, or all but one
    patient's of `patients` + 1, where that is less."""
    return min(share, patients / (patients + 1))


def patient_threshold(
    scores: Float[np.ndarray, "scans"], patients: Patients, share: float
) -> float | None:
    """The highest score that at least `share` of the scans of a new patient are expected to reach.

    Each of the K patients has the weight 1, spread evenly over their scans. One more patient, the
    new one, is counted as if none of their scans reached the threshold: at and above it must lie
    a weight of (K + 1) share. With one scan a patient this is the k-th largest score,
    k = ceil((K + 1) share). Where the patients are too few for the share, `promised_share` takes
    its place, and the threshold is the lowest score.

    Args:
      scores: of calibration scans, where high is usual.
      patients: of each scan.
      share: asked for, in (0, 1].

    Returns:
      One of the scores; None where there are none.
    """
    if not len(scores):
        return None
    _, patient_of, counts = np.unique(patients, return_inverse=True, return_counts=True)
    order = np.argsort(-scores, kind="stable")
    weight = np.cumsum(1 / counts[patient_of[order]])
    needed = (len(counts) + 1) * promised_share(len(counts), share)
    place = int(np.searchsorted(weight, needed - 1e-9))
    return float(scores[order[min(place, len(order) - 1)]])


def set_thresholds(
    probabilities: Float[np.ndarray, "scans classes"],
    labels: Int[np.ndarray, "scans"],
    coverage: float,
    patients: Patients | None = None,
) -> Float[np.ndarray, "classes"]:
    """The smallest probability at which each class is in the set.

    It is the `patient_threshold` of the probabilities that scans of the class give to it. Of a
    class without calibration scans it is 0, and the class is in every set.

    Args:
      probabilities: of calibration scans.
      labels: indices into the classes.
      coverage: asked for, in (0, 1).
      patients: of each scan; without them every scan counts as a patient of its own.
    """
    patient_of = patient_ids(patients, len(labels))
    thresholds = np.zeros(probabilities.shape[1])
    for label in range(len(thresholds)):
        own = labels == label
        lowest = patient_threshold(probabilities[own, label], patient_of[own], coverage)
        thresholds[label] = 0.0 if lowest is None else lowest
    return thresholds


def prediction_sets(
    probabilities: Float[SameArray, "scans classes"], thresholds: Float[SameArray, "classes"]
) -> Bool[SameArray, "scans classes"]:
    """Which classes are in the set of each scan; a set may be empty."""
    return probabilities >= thresholds


def coverage_range(coverage: float, calibration: int, tested: int) -> tuple[float, float]:
    """Between what the share of covered test patients lies in 95 of 100 repetitions.

    With n calibration patients of a class, one scan each, the coverage that a threshold reaches is
    Beta(k, n + 1 - k) distributed (Vovk 2012); of m test patients the covered ones are then
    beta-binomial. Several scans of a patient vary less, so that the range then errs to the wide
    side.

    Args:
      coverage: asked for, in (0, 1).
      calibration: patients with the class that the threshold was fitted on.
      tested: patients with the class that coverage is measured on, each weighing 1.

    Returns:
      (low, high) in [0, 1]; (1, 1) where there are no calibration patients, and so no threshold.
    """
    from scipy.stats import betabinom  # slow to import, and only reports need it

    if not calibration:
        return 1.0, 1.0
    rank = int(np.ceil((calibration + 1) * promised_share(calibration, coverage) - 1e-9))
    patients = max(tested, 1)
    low, high = betabinom(patients, rank, calibration + 1 - rank).interval(0.95)
    return float(low) / patients, float(high) / patients


def patient_mean(values: Float[np.ndarray, "scans"], patients: Patients) -> float:
    """Mean over patients of each one's mean over scans; what coverage promises is of this kind."""
    _, owner, counts = np.unique(patients, return_inverse=True, return_counts=True)
    return float((np.bincount(owner, weights=values) / counts).mean())
