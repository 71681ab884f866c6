"""Prediction sets with a stated coverage in every class: split conformal prediction.

Class-conditional (Mondrian) conformal prediction (Vovk, Gammerman and Shafer 2005, section 4.5)
with the score 1 - p(class) of Sadinle, Lei and Wasserman 2019. If calibration and new scans are
exchangeable within a class, the set of a new scan of that class holds it with at least the asked
probability, whatever the model.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from oct_jax.arrays import SameArray


def set_thresholds(
    probabilities: Float[np.ndarray, "scans classes"],
    labels: Int[np.ndarray, "scans"],
    coverage: float,
) -> Float[np.ndarray, "classes"]:
    """The smallest probability at which each class is in the set.

    Of n calibration scans of a class the threshold is the k-th largest probability that they give
    to it, k = ceil((n + 1) coverage). Where k > n (too few scans of the class for the coverage:
    fewer than coverage / (1 - coverage)) it is 0 and the class is in every set: that is the only
    set that keeps the promise.

    Args:
      probabilities: of calibration scans.
      labels: indices into the classes.
      coverage: asked for, in (0, 1).
    """
    thresholds = np.zeros(probabilities.shape[1])
    for label in range(len(thresholds)):
        own = np.sort(probabilities[labels == label, label])[::-1]
        rank = int(np.ceil((len(own) + 1) * coverage - 1e-9))
        if rank <= len(own):
            thresholds[label] = own[rank - 1]
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
      calibration: scans of the class that the threshold was fitted on.
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
