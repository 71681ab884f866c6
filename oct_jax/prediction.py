"""The result of classifying one B-scan, and how it reads: in words, and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8

from oct_jax.arrays import ScanArray
from oct_jax.data.inputs import grey_levels
from oct_jax.decision.calibration import softmax
from oct_jax.decision.referral import NOT_REFERRED, WORDS
from oct_jax.decision.rule import DecisionRule, Decisions, decide
from oct_jax.model.inference import Outputs
from oct_jax.notebook import card
from oct_jax.task import KERMANY, Task
from oct_jax.types import Referral, UserError

RESEARCH_USE = "Research use; not a medical device"
SYNTHETIC_MODEL = "SYNTHETIC MODEL: trained on phantoms, it knows nothing of patients"


@dataclass(frozen=True)
class Decision:
    """What a calibrated run advises for one B-scan.

    Attributes:
      referral: the tier of the task, or `defer` to a person where the classes of the set belong
        to several tiers, where there is none, and where the scan is an outlier; None in a task
        without tiers.
      classes: the conformal prediction set, in the order of the task; may be empty.
      outlier_score: distance from the training scans over its threshold; above 1 the scan is
        unlike them. None where the run has no outlier model.
      no_retina: whether the picture is so far from them that it shows no retina at all; a scan of
        another device is unlike them, but nearer.
      adapted: whether the model was adapted without labels since its rule was fitted; what was
        promised for coverage and sensitivity is then not valid.
    """

    referral: Referral | None
    classes: tuple[str, ...]
    outlier_score: float | None
    no_retina: bool = False
    adapted: bool = False

    @property
    def is_outlier(self) -> bool:
        """Whether the scan is unlike those that the model was trained on."""
        return self.outlier_score is not None and self.outlier_score > 1


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of one B-scan.

    Attributes:
      label: the most probable class of the task.
      probabilities: float32 of shape (classes,), in the order of the task, summing to 1;
        calibrated where there is a decision.
      logits: float32 of shape (classes,), before temperature and softmax.
      decision: of the classifier's decision rule; None where it has none.
      task: whose classes these are.
      synthetic: whether the classifier was trained on phantoms.
      scan: as it was given: a path, a picture or an array, not copied; a notebook shows it.
    """

    label: str
    probabilities: Float32[np.ndarray, "classes"]
    logits: Float32[np.ndarray, "classes"]
    decision: Decision | None = None
    task: Task = KERMANY
    synthetic: bool = False
    scan: object = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """The scan beside label, referral, certainty and probabilities, for a notebook."""
        return prediction_card(self, scan_pixels(self), [])


def scan_pixels(prediction: Prediction) -> ScanArray | None:
    """The scan of a prediction, grey uint8; None where it was not kept, or is gone."""
    try:
        return grey_levels(prediction.scan)
    except (TypeError, UserError):
        return None


def prediction_card(
    prediction: Prediction, picture: UInt8[np.ndarray, "..."] | None, lines: Sequence[str]
) -> str:
    """A prediction as HTML for a notebook.

    Args:
      prediction: what the classifier says.
      picture: of the scan, uint8 grey or RGB; None for none.
      lines: to be added below.
    """
    marks = [SYNTHETIC_MODEL] if prediction.synthetic else []
    return card(
        f"{prediction.label} {prediction.probabilities.max():.1%}",
        [*marks, advice(prediction), certainty(prediction), *lines, RESEARCH_USE],
        dict(zip(prediction.task.classes, map(float, prediction.probabilities), strict=True)),
        picture,
    )


def advice(prediction: Prediction) -> str:
    """The referral in words: the decision's, or for an uncalibrated model the label's own tier."""
    if not prediction.task.refers:
        return NOT_REFERRED
    if prediction.decision is None:
        return WORDS[prediction.task.tier_of(prediction.label) or "defer"]
    return WORDS[prediction.decision.referral or "defer"]


def certainty(prediction: Prediction) -> str:
    """How sure the model is, in one line: whether calibrated, which classes stay possible."""
    decision = prediction.decision
    if decision is None:
        return "the model's own score, not calibrated"
    if decision.no_retina:
        return "shows no retina: scores mean nothing"
    if decision.is_outlier:
        return "unlike the training scans (another device?): scores mean little"
    state = "adapted without labels, not recalibrated" if decision.adapted else "calibrated"
    return f"{state}; possible: {', '.join(decision.classes) or 'no class'}"


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
