"""Whether anything but the retina tells the class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from oct_jax.data.audit.measuring import SHORTCUT_FEATURES, Measured

_FOLDS = 5
SHORTCUT_MARGIN = 0.15
"""Balanced accuracy above chance from which the trivial classifier's score is a warning."""


@dataclass(frozen=True)
class Shortcut:
    """How well size, border and brightness alone tell the class; patients never straddle folds.

    Attributes:
      accuracy: cross-validated, of a small decision tree on all of `SHORTCUT_FEATURES`.
      balanced_accuracy: the mean over classes.
      by_feature: balanced accuracy of a tree on one feature alone.
      chance: balanced accuracy of guessing.
      majority: accuracy of always naming the largest class.
    """

    accuracy: float
    balanced_accuracy: float
    by_feature: dict[str, float]
    chance: float
    majority: float

    @property
    def warns(self) -> bool:
        """Whether the score is too far above chance to be ignored."""
        return self.balanced_accuracy > self.chance + SHORTCUT_MARGIN


def shortcut_test(measured: Sequence[Measured]) -> Shortcut | None:
    """Cross-validates a small tree on what should not tell the class, grouped by patient."""
    patients = [m.record.patient for m in measured]
    labels = np.array([m.record.label for m in measured])
    classes = Counter(labels.tolist())
    if len(set(patients)) < _FOLDS or len(classes) < 2:
        return None
    features = np.array([m.features for m in measured])
    together = _cross_validated(features, labels, patients)
    alone = {
        name: _cross_validated(features[:, [column]], labels, patients)
        for column, name in enumerate(SHORTCUT_FEATURES)
    }
    return Shortcut(
        accuracy=float(np.mean(together == labels)),
        balanced_accuracy=_balanced(labels, together),
        by_feature={name: _balanced(labels, predicted) for name, predicted in alone.items()},
        chance=1 / len(classes),
        majority=max(classes.values()) / len(labels),
    )


def _cross_validated(
    features: Float[np.ndarray, "scans features"], labels: np.ndarray, patients: Sequence[str]
) -> np.ndarray:
    tree = DecisionTreeClassifier(
        max_depth=5, min_samples_leaf=5, class_weight="balanced", random_state=0
    )
    folds = GroupKFold(_FOLDS, shuffle=True, random_state=0)
    return cross_val_predict(tree, features, labels, groups=patients, cv=folds)


def _balanced(labels: np.ndarray, predicted: np.ndarray) -> float:
    return float(balanced_accuracy_score(labels, predicted))
