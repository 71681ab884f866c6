"""How often each class comes up in scans without labels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_ITERATIONS = 500


def estimate_priors(
    probabilities: Float[np.ndarray, "scans classes"],
    assumed: Float[np.ndarray, "classes"],
) -> Float[np.ndarray, "classes"]:
    """Class frequencies that the probabilities of unlabelled scans fit best.

    Expectation maximisation of Saerens, Latinne and Decaestecker 2002 (section 2.3), with one scan
    of every class added, so that few scans do not rule a class out. It holds where classes look as
    they did in training and only come up more or less often (label shift).

    Args:
      probabilities: calibrated, of unlabelled scans.
      assumed: frequencies that they were calibrated for, above 0, summing to 1.

    Returns:
      Frequencies above 0 that sum to 1.
    """
    scans, classes = probabilities.shape
    priors = assumed.astype(np.float64)
    for _ in range(_ITERATIONS):
        posterior = reweigh(probabilities, priors / assumed)
        priors = (posterior.sum(0) + 1) / (scans + classes)
    return priors


def reweigh(
    probabilities: Float[np.ndarray, "scans classes"], ratios: Float[np.ndarray, "classes"]
) -> Float[np.ndarray, "scans classes"]:
    """Probabilities where each class comes up `ratios` times as often as was assumed."""
    weighed = probabilities * ratios
    return weighed / weighed.sum(1, keepdims=True)
