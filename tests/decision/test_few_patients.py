"""Promises on clustered patients: simulated calibration sets, and new patients to keep them for."""

import numpy as np
import pytest

from oct_jax.decision.calibration import (
    calibration_error,
    expected_calibration_error,
    softmax,
)
from oct_jax.decision.conformal import prediction_sets, promised_share
from oct_jax.decision.outliers import OutlierModel, squared_distance
from oct_jax.decision.referral import urgency
from oct_jax.decision.rule import fit_rule
from oct_jax.model.inference import Outputs
from oct_jax.task import ClassInfo, Task

TASK = Task("two", (ClassInfo("ILL", "urgent"), ClassInfo("WELL", "observe")))
OUTLIERS = OutlierModel(
    mean=np.array([1, 0], np.float32),
    directions=np.array([[0.0], [1.0]], np.float32),
    precisions=np.ones(1, np.float32),
    rest_precision=1.0,
    threshold=float("inf"),
)
ASKED = {"coverage": 0.8, "sensitivity": 0.9, "outlier_rate": 0.1}


def simulate(rng, patients):
    """Outputs, labels and patients: the easy patients are scanned eight times, the others once."""
    ease = rng.normal(size=patients)
    owner = np.repeat(np.arange(patients), np.where(ease > 0, 8, 1))
    labels = (np.arange(patients) % 2)[owner]
    margin = 1.5 + 2 * ease[owner] + 0.3 * rng.normal(size=len(owner))
    logits = np.stack([np.where(labels == 0, margin, -margin), np.zeros(len(owner))], 1)
    angle = 0.3 * np.exp(-ease[owner]) + 0.02 * rng.random(len(owner))
    pooled = np.stack([np.cos(angle), np.sin(angle)], 1)
    return Outputs(logits.astype(np.float32), pooled.astype(np.float32)), labels, owner


def kept_by(rule, outputs, labels, owner):
    """Shares over patients of what `ASKED` asks for, by name."""
    probabilities = softmax(outputs.logits, rule.temperature)
    covered = prediction_sets(probabilities, rule.set_thresholds)[np.arange(len(labels)), labels]
    alarm = urgency(probabilities, TASK) >= rule.urgent_threshold
    usual = squared_distance(rule.outliers, outputs.pooled) <= rule.outliers.threshold
    weights = 1 / np.bincount(owner)[owner]

    def share(holds, among):
        return float(weights[among] @ holds[among] / weights[among].sum())

    return {
        "coverage": np.mean([share(covered, labels == label) for label in (0, 1)]),
        "sensitivity": share(alarm, labels == 0),
        "outlier_rate": 1 - share(usual, labels >= 0),
    }


def mean_kept(patients, *, by_patient):
    rng, kept = np.random.default_rng(0), []
    new = simulate(rng, 1500)
    for _ in range(60):
        outputs, labels, owner = simulate(rng, patients)
        rule = fit_rule(
            outputs,
            labels,
            OUTLIERS,
            patients=owner if by_patient else None,
            fitted_on={},
            task=TASK,
            **ASKED,
        )
        kept.append(kept_by(rule, *new))
    return {name: float(np.mean([each[name] for each in kept])) for name in ASKED}


@pytest.mark.parametrize("patients", [6, 40])
def test_promises_are_kept_for_new_patients(patients):
    kept = mean_kept(patients, by_patient=True)
    half, noise = patients // 2, 0.025
    bounds = {
        "coverage": promised_share(half, 0.8),
        "sensitivity": promised_share(half, 0.9),
        "outlier_rate": 1 - promised_share(patients, 0.9),
    }
    for name in ("coverage", "sensitivity"):
        assert bounds[name] - noise <= kept[name] <= bounds[name] + 1 / (half + 1) + noise
    low = bounds["outlier_rate"] - 1 / (patients + 1) - noise
    assert low <= kept["outlier_rate"] <= bounds["outlier_rate"] + noise


def test_thresholds_over_scans_would_break_every_promise():
    kept = mean_kept(40, by_patient=False)
    assert kept["coverage"] < 0.8 - 0.05
    assert kept["sensitivity"] < 0.9 - 0.05
    assert kept["outlier_rate"] > 0.1 + 0.05


def test_what_few_patients_can_promise_is_written_down():
    outputs, labels, owner = simulate(np.random.default_rng(0), 6)
    rule = fit_rule(outputs, labels, OUTLIERS, patients=owner, fitted_on={}, task=TASK, **ASKED)
    assert rule.fitted_on["promised"] == {
        "coverage": {"ILL": 0.75, "WELL": 0.75},
        "sensitivity": 0.75,
    }
    assert promised_share(9, 0.9) == 0.9
    assert promised_share(0, 0.9) == 0


def calibrated_scans(rng, gap, patients=60):
    """Probabilities that are right as often as they say, but for a gap, and their patients."""
    owner = np.repeat(np.arange(patients), 4)
    confidence = rng.uniform(0.6, 0.95, patients)[owner]
    right = np.repeat(rng.random(patients), 4) < confidence - gap
    return np.stack([confidence, 1 - confidence], 1), np.where(right, 0, 1), owner


@pytest.mark.parametrize("gap", [0.0, 0.15])
def test_the_calibration_error_has_no_bias_of_chance(gap):
    rng = np.random.default_rng(0)
    draws = [calibrated_scans(rng, gap) for _ in range(300)]
    squared = np.mean([calibration_error(*scans) ** 2 for scans in draws])
    biased = np.mean([expected_calibration_error(*scans[:2]) for scans in draws])
    # Cut off at 0, so a little above the truth; the usual estimate is far above.
    assert abs(np.sqrt(squared) - gap) < 0.07
    if not gap:
        assert np.median([calibration_error(*scans) for scans in draws]) < 0.05
        assert biased > 0.08


def test_few_patients_have_no_calibration_error():
    scans = calibrated_scans(np.random.default_rng(0), 0.0, patients=9)
    assert calibration_error(*scans) is None
