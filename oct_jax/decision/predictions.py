"""From a model's outputs to predictions: one value for each scan."""

from __future__ import annotations

import numpy as np

from oct_jax.decision.calibration import softmax
from oct_jax.decision.rule import DecisionRule, Decisions, decide
from oct_jax.model.inference import Outputs
from oct_jax.prediction import Decision, Prediction
from oct_jax.task import KERMANY, Task


def to_predictions(
    outputs: Outputs, rule: DecisionRule | None, task: Task = KERMANY
) -> list[Prediction]:
    """Predictions from a model's outputs; calibrated and with a decision where there is a rule."""
    logits = np.asarray(outputs.logits, np.float32)
    labels = [task.classes[index] for index in logits.argmax(1)]
    if rule is None:
        probabilities, decided = softmax(logits), [None] * len(labels)
    else:
        decisions = decide(rule, outputs)
        probabilities = decisions.probabilities
        decided = _decisions(decisions, task, adapted="adapted" in rule.fitted_on)
    rows = zip(labels, probabilities.astype(np.float32), logits, decided, strict=True)
    return [Prediction(*row, task) for row in rows]


def _decisions(decisions: Decisions, task: Task, *, adapted: bool) -> list[Decision]:
    columns = (decisions.referrals, decisions.sets, decisions.outlier_scores, decisions.no_retina)
    return [
        Decision(
            referral,
            tuple(name for name, member in zip(task.classes, members, strict=True) if member),
            None if np.isnan(score) else float(score),
            bool(no_retina),
            adapted,
        )
        for referral, members, score, no_retina in zip(*columns, strict=True)
    ]
