"""What a model says of its calibration scans, kept with its rule: later scans are compared to it.

A few numbers for each scan, of at most `MOST` scans; see `oct_jax.decision.monitoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from oct_jax.decision.conformal import Patients, patient_ids

MOST = 800
"""Scans that are kept; of more, whole patients are left out, evenly."""
_DIGITS = 6


class Reference(NamedTuple):
    """Calibration scans as they are, not augmented, under the rule that was fitted to them.

    Attributes:
      scores: outlier score of each scan, as `Decisions.outlier_scores`.
      patients: a number of each scan's patient, from 0.
      labels: index of the most probable class.
      sizes: number of classes in the prediction set.
      tiers: index into `oct_jax.decision.referral.REFERRALS`; -1 in a task without tiers.
    """

    scores: Float[np.ndarray, "scans"]
    patients: Int[np.ndarray, "scans"]
    labels: Int[np.ndarray, "scans"]
    sizes: Int[np.ndarray, "scans"]
    tiers: Int[np.ndarray, "scans"]


def make_reference(
    scores: Float[np.ndarray, "scans"],
    labels: Int[np.ndarray, "scans"],
    sizes: Int[np.ndarray, "scans"],
    tiers: Int[np.ndarray, "scans"],
    patients: Patients | None,
) -> Reference:
    """A reference of at most `MOST` scans, its scores rounded to what JSON keeps of them."""
    _, owner = np.unique(patient_ids(patients, len(scores)), return_inverse=True)
    kept = np.flatnonzero(owner % max(-(-len(scores) // MOST), 1) == 0)
    _, owner = np.unique(owner[kept], return_inverse=True)
    rounded = np.array([float(f"{score:.{_DIGITS}g}") for score in scores[kept]])
    return Reference(rounded, owner, labels[kept], sizes[kept], tiers[kept])


def columns(reference: Reference) -> dict[str, list]:
    """The reference as JSON values, a list for each attribute."""
    return {name: values.tolist() for name, values in reference._asdict().items()}


def from_columns(stored: Sequence[Sequence[float]], classes: int) -> Reference:
    """The reference of `columns`, in the order of its attributes.

    Raises:
      ValueError: lists of different lengths, or numbers that cannot be.
    """
    scores = np.array(stored[0], np.float64)
    patients, labels, sizes, tiers = (np.array(column, np.int64) for column in stored[1:])
    reference = Reference(scores, patients, labels, sizes, tiers)
    if len({len(column) for column in reference}) != 1:
        raise ValueError("columns of different lengths")
    limits = ((labels, 0, classes - 1), (sizes, 0, classes), (tiers, -1, 3), (patients, 0, MOST))
    if any(((column < low) | (column > high)).any() for column, low, high in limits):
        raise ValueError("a number out of range")
    if (scores < 0).any():
        raise ValueError("a score below 0")
    return reference
