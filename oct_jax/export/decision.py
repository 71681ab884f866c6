"""The decision rule as JSON values: what every program outside of Python decides by."""

from __future__ import annotations

from typing import Any

import numpy as np

from oct_jax.classifier import Classifier
from oct_jax.export import documents


def describe_decision(classifier: Classifier) -> dict[str, Any]:
    """Temperature, thresholds and tiers; see `HOW_TO_DECIDE` for how they are applied."""
    rule = classifier.rule
    decision: dict[str, Any] = {
        "calibrated": rule is not None,
        "temperature": 1.0 if rule is None else rule.temperature,
        "tiers": dict(zip(classifier.task.classes, classifier.task.tiers, strict=True)),
    }
    if rule is None:
        return decision
    return decision | {
        "set_thresholds": [float(value) for value in rule.set_thresholds],
        "coverage": rule.coverage,
        "urgent_threshold": rule.urgent_threshold,
        "sensitivity": rule.sensitivity,
        "outlier_threshold": None if rule.outliers is None else 1.0,
        "no_retina_threshold": None
        if rule.outliers is None or np.isinf(rule.outliers.no_retina)
        else rule.outliers.no_retina / rule.outliers.threshold,
        "fitted_on": rule.fitted_on,
        "how": documents.HOW_TO_DECIDE,
    }
