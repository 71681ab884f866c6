"""Scores of variables on validation scans, and which epoch is the best."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, Int32

from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Scans
from oct_jax.model.fold import fold
from oct_jax.model.inference import predict_source
from oct_jax.model.protocol import ModelConfig, Variables, build
from oct_jax.train.loss import weighted_cross_entropy


def is_best(balanced_accuracy: float, highest: float, patients: int) -> bool:
    """Whether an epoch replaces the best one: it is within a standard error of the highest.

    On some hundred validation scans the highest score is mostly luck, and often an early epoch's;
    of the epochs without a significant difference to it, the latest has the most annealed weights.
    This is the one-standard-error rule (Breiman et al. 1984, section 3.4.3), with later for
    simpler; the error is Agresti and Coull's (1998), which is not 0 where all scans were right.
    On scans of n patients and accuracy p the margin is about sqrt(p (1 - p) / n): a patient's scans
    resemble each other, and count as one.

    Args:
      balanced_accuracy: of this epoch, in [0, 1].
      highest: of the epochs so far, this one included.
      patients: of the scans that both were measured on.
    """
    likely = (highest * patients + 2) / (patients + 4)
    return balanced_accuracy >= highest - math.sqrt(likely * (1 - likely) / (patients + 4))


def at_chance(balanced_accuracy: float, *, classes: int, patients: int) -> bool:
    """Whether a network is no better than a guess: within a standard error of 1 / classes.

    Args:
      balanced_accuracy: in [0, 1].
      classes: number of classes.
      patients: of the scans that the accuracy was measured on.
    """
    chance = 1 / classes
    return balanced_accuracy <= chance + math.sqrt(chance * (1 - chance) / patients)


def score(
    model: ModelConfig,
    variables: Variables,
    source: Scans,
    preprocess: Preprocess,
    *,
    threads: int,
) -> dict[str, float]:
    """Scores of the folded model on every scan of a source; see `scores_of`.

    Every process scores all scans by itself, on its own first device.
    """
    folded, config = fold(variables, model)
    outputs = predict_source(build(config), folded, source, preprocess, threads=threads)
    return scores_of(np.asarray(outputs.logits), source.labels)


def scores_of(
    logits: Float32[np.ndarray, "scans classes"], labels: Int32[np.ndarray, "scans"]
) -> dict[str, float]:
    """Unweighted cross-entropy, accuracy, and balanced accuracy (the mean recall of classes)."""
    ones, predicted = np.ones(logits.shape[-1], np.float32), logits.argmax(-1)
    recalls = [np.mean(predicted[labels == label] == label) for label in np.unique(labels)]
    return {
        "loss": float(weighted_cross_entropy(logits, labels, ones, label_smoothing=0.0).mean()),
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": float(np.mean(recalls)),
    }
