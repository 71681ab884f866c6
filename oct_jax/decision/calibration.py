"""Temperature scaling, and how far probabilities are from frequencies."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from oct_jax.arrays import SameArray, namespace_of, widest
from oct_jax.decision.conformal import Patients, patient_ids

Logits = Float[SameArray, "scans classes"]
Probabilities = Float[SameArray, "scans classes"]
Labels = Int[np.ndarray, "scans"]

BINS = 15
"""Of the expected calibration error (Guo et al. 2017)."""
_FEWEST_PATIENTS = 10
"""In a bin of the calibration error, where each has one scan; and altogether."""
COLDEST, HOTTEST = 0.02, 50.0


def log_softmax(logits: Logits, temperature: Any = 1.0) -> Logits:
    """Logarithms of the probabilities of logits divided by a temperature.

    Returns:
      float64 of NumPy logits; float32 of JAX's, for which it may be traced.
    """
    numpy = namespace_of(logits)
    scaled = widest(logits) / temperature
    shifted = scaled - scaled.max(-1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(-1, keepdims=True))


def softmax(logits: Logits, temperature: Any = 1.0) -> Probabilities:
    """Probabilities of logits divided by a temperature; rows that sum to 1. See `log_softmax`."""
    return namespace_of(logits).exp(log_softmax(logits, temperature))


def fit_temperature(logits: Logits, labels: Labels, patients: Patients | None = None) -> float:
    """The temperature of the smallest negative log-likelihood (Guo et al. 2017, section 4.2).

    One patient of whom nothing is known, spread over all scans and classes, is added to the labels:
    without it a model that is right on all calibration scans would be given a temperature of 0,
    and be certain of everything. (Platt 1999 does the same for two classes.)

    Args:
      logits: of calibration scans, which the model was not trained on; at least one.
      labels: indices into the classes.
      patients: of each scan; all of a patient's scans together weigh 1. Without them every scan
        counts as a patient of its own.

    Returns:
      Between 0.02 and 50.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and only fitting needs it

    scans, classes = logits.shape
    ids = patient_ids(patients, scans)
    _, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    weights = 1 / counts[place]
    known = len(counts)
    targets = (known * np.eye(classes)[labels] + 1 / classes) / (known + 1)

    def loss(log_temperature: float) -> float:
        surprise = -(targets * log_softmax(logits, np.exp(log_temperature))).sum(1)
        return float(weights @ surprise)

    bounds = (float(np.log(COLDEST)), float(np.log(HOTTEST)))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def negative_log_likelihood(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Mean of -log p(true class), in nats."""
    return -float(log_softmax(logits, temperature)[np.arange(len(labels)), labels].mean())


def brier_score(probabilities: Probabilities, labels: Labels) -> float:
    """Mean squared distance to the one-hot label, in [0, 2] (Brier 1950)."""
    wanted = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - wanted) ** 2).sum(1).mean())


def reliability(
    probabilities: Probabilities, labels: Labels
) -> tuple[Int[np.ndarray, "bins"], Float[np.ndarray, "bins"], Float[np.ndarray, "bins"]]:
    """Of the predictions in each of 15 equal bins of confidence: number, confidence, accuracy.

    Bins are (low, high], as in Guo et al. 2017, section 2; means of empty bins are 0.
    """
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == labels).astype(float)
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    safe = np.maximum(count, 1)
    sums = [np.bincount(place, weights=values, minlength=BINS) for values in (confidence, right)]
    return count, sums[0] / safe, sums[1] / safe


def expected_calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Mean gap between confidence and accuracy over the bins of `reliability`, in [0, 1].

    The figure that is published most, and biased upwards; see `calibration_error`.
    """
    count, confidence, accuracy = reliability(probabilities, labels)
    return float((count * np.abs(confidence - accuracy)).sum() / max(count.sum(), 1))


def calibration_error(
    probabilities: Probabilities, labels: Labels, patients: Patients | None = None
) -> float | None:
    """Root mean square gap between confidence and accuracy, without what chance adds to it.

    The squared gap of each bin, less its variance, averaged over the bins; 0 where that is
    negative, which it is half of the time for a model that is calibrated. The debiased estimator of
    Kumar, Liang and Ma 2019 (section 5), with their bins of equal numbers of scans; the variance is
    that of a mean over patients, whose scans resemble each other, in place of independent scans.
    The expected calibration error of a perfectly calibrated model is far above 0 on some hundred
    scans; this is not.

    Args:
      probabilities: of the scans.
      labels: indices into the classes.
      patients: of each scan; without them every scan counts as a patient of its own.

    Returns:
      In [0, 1]; None for fewer than 10 patients.
    """
    _, owner = np.unique(patient_ids(patients, len(labels)), return_inverse=True)
    known = len(np.unique(owner))
    if known < _FEWEST_PATIENTS:
        return None
    confidence = probabilities.max(1)
    gap = confidence - (probabilities.argmax(1) == labels)
    squared = 0.0
    bins = np.clip(known // _FEWEST_PATIENTS, 1, BINS)
    # Scans of equal confidence in an order of their own: the order of files must not matter.
    for inside in np.array_split(np.lexsort((owner, gap, confidence)), bins):
        _, of, counts = np.unique(owner[inside], return_inverse=True, return_counts=True)
        groups = len(counts)
        if groups > 1:
            mean = gap[inside].mean()
            away = np.bincount(of, weights=gap[inside] - mean)
            variance = groups / (groups - 1) * (away**2).sum() / len(inside) ** 2
            squared += len(inside) * (mean**2 - variance)
    return float(np.sqrt(max(squared / len(labels), 0)))


def calibration_figures(
    logits: Logits, labels: Labels, temperature: float, patients: Patients | None = None
) -> dict[str, dict]:
    """`calibration_error`, Brier score and negative log-likelihood, before and after scaling."""
    figures = {}
    for when, heat in (("before", 1.0), ("after", temperature)):
        probabilities = softmax(logits, heat)
        figures[when] = {
            "calibration_error": calibration_error(probabilities, labels, patients),
            "brier": brier_score(probabilities, labels),
            "nll": negative_log_likelihood(logits, labels, heat),
        }
    return figures
