"""Prediction sets with a stated coverage in every class: split conformal prediction.

Class-conditional (Mondrian) conformal prediction (Vovk, Gammerman and Shafer 2005, section 4.5)
with the score 1 - p(class) of Sadinle, Lei and Wasserman 2019. Scans of one patient resemble each
other, so patients are what is drawn: hierarchical conformal prediction (Lee, Barber and Willett
2024, section 3.1). If the patients of calibration and new scans are exchangeable within a class,
the set of a scan of a new patient of that class holds it with at least the asked probability,
whatever the model.
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


def patient_threshold(
    scores: Float[np.ndarray, "scans"], patients: Patients, share: float
) -> float | None:
    """The highest score that at least `share` of the scans of a new patient are expected to reach.

    Each of the K patients has the weight 1, spread evenly over their scans. One more patient, the
    new one, is counted as if none of their scans reached the threshold: at and above it must lie
    a weight of (K + 1) share. With one scan a patient this is the k-th largest score,
    k = ceil((K + 1) share).

    Args:
      scores: of calibration scans, where high is usual.
      patients: of each scan.
      share: asked for, in (0, 1].

    Returns:
      One of the scores; None where the patients are too few: fewer than share / (1 - share).
    """
    if not len(scores):
        return None
    _, patient_of, counts = np.unique(patients, return_inverse=True, return_counts=True)
    order = np.argsort(-scores, kind="stable")
    weight = np.cumsum(1 / counts[patient_of[order]])
    place = int(np.searchsorted(weight, (len(counts) + 1) * share - 1e-9))
    return float(scores[order[place]]) if place < len(order) else None


def set_thresholds(
    probabilities: Float[np.ndarray, "scans classes"],
    labels: Int[np.ndarray, "scans"],
    coverage: float,
    patients: Patients | None = None,
) -> Float[np.ndarray, "classes"]:
    """The smallest probability at which each class is in the set.

    It is the `patient_threshold` of the probabilities that scans of the class give to it. Where
    their patients are too few for the coverage it is 0, and the class is in every set: that is the
    only set that keeps the promise.

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
    """Between what the share of covered test scans lies in 95 of 100 repetitions.

    With n calibration scans of a class the coverage that a threshold reaches is
    Beta(k, n + 1 - k) distributed (Vovk 2012); of m test scans the covered ones are then
    beta-binomial.

    Args:
      coverage: asked for, in (0, 1).
      calibration: scans of the class that the threshold was fitted on, one of each patient.
      tested: scans of the class that coverage is measured on.

    Returns:
      (low, high) in [0, 1]; (1, 1) where the calibration scans are too few for a threshold.
    """
    from scipy.stats import betabinom  # slow to import, and only reports need it

    rank = int(np.ceil((calibration + 1) * coverage - 1e-9))
    if rank > calibration:
        return 1.0, 1.0
    scans = max(tested, 1)
    low, high = betabinom(scans, rank, calibration + 1 - rank).interval(0.95)
    return float(low) / scans, float(high) / scans
