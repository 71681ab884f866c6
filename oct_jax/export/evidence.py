"""What an exported model says of a split of the run's own scans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from jaxtyping import Float, Int

from oct_jax.arrays import LabelBatch, ScanBatch
from oct_jax.decision.conformal import prediction_sets
from oct_jax.decision.referral import refer, urgency
from oct_jax.decision.rule import DecisionRule
from oct_jax.export.verify import run
from oct_jax.metrics.shares import patient_share
from oct_jax.task import KERMANY, Task


class Answers(NamedTuple):
    """Outputs of a mobile model; a row for each scan.

    Attributes:
      probabilities: (scans, classes), calibrated where the run is.
      heatmaps: of the predicted class, (scans, rows, columns).
      outlier_scores: nan where the run has no outlier model.
    """

    probabilities: Float[np.ndarray, "scans classes"]
    heatmaps: Float[np.ndarray, "scans rows columns"]
    outlier_scores: Float[np.ndarray, "scans"]

    @property
    def labels(self) -> Int[np.ndarray, "scans"]:
        """Indices of the most probable classes."""
        return self.probabilities.argmax(1)


def answer(model: bytes, scans: ScanBatch) -> Answers:
    """Runs a mobile model over resized scans, one after the other."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = []
    for scan in scans:
        outputs = run(session, {"scan": scan[None, None].astype(np.float32)})
        probabilities = outputs["probabilities"][0]
        score = outputs.get("outlier_score", np.full(1, np.nan, np.float32))[0]
        rows.append((probabilities, outputs["heatmaps"][0, probabilities.argmax()], score))
    return Answers(*(np.stack(column) for column in zip(*rows, strict=True)))


def referrals(answers: Answers, rule: DecisionRule | None, task: Task) -> list[str]:
    """What the answers come to: a tier or `defer`; without a rule, the predicted class's tier."""
    if not task.refers:
        return ["none"] * len(answers.labels)
    if rule is None:
        return [task.tiers[label] or "defer" for label in answers.labels]
    probabilities = answers.probabilities.astype(np.float64)
    sets = prediction_sets(probabilities, rule.set_thresholds.astype(np.float64))
    urgent = urgency(probabilities, rule.task) >= rule.urgent_threshold
    decided = refer(sets, urgent, answers.outlier_scores > 1, rule.task)
    return [referral or "none" for referral in decided]


def agreement(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of equal entries."""
    return float(np.mean([a == b for a, b in zip(first, second, strict=True)]))


def accuracy(answers: Answers, labels: LabelBatch) -> float:
    """Share of scans whose most probable class is the right one."""
    return float((answers.labels == labels).mean())


def figures(
    answers: Answers,
    labels: LabelBatch,
    patients: Sequence[str],
    rule: DecisionRule | None,
    task: Task = KERMANY,
) -> dict[str, Any]:
    """Accuracy, sensitivity and specificity, each as [value, low, high, scans], and referrals.

    Intervals are `patient_share`'s at 95 %, over the `patients` of the scans.
    """
    owners = np.asarray(patients)

    def share(holds: np.ndarray, among: np.ndarray) -> list[float]:
        return [*patient_share(holds[among], owners[among]), int(among.sum())]

    right = answers.labels == labels
    result: dict[str, Any] = {
        "scans": len(labels),
        "patients": len(set(patients)),
        "accuracy": share(right, np.ones(len(right), bool)),
    }
    for part, chosen in (("sensitivity", True), ("specificity", False)):
        result[part] = {}
        for index, name in enumerate(task.classes):
            own = (labels == index) == chosen
            result[part][name] = share((answers.labels == index) == chosen, own)
    counts = Counter(referrals(answers, rule, task))
    result["referrals"] = {name: counts[name] for name in ("urgent", "routine", "observe", "defer")}
    return result
