"""One answer for an eye, from all its B-scans, pooled as `oct_jax.decision.eye` says."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32

from oct_jax.classifier import Classifier
from oct_jax.data.manifest import Record
from oct_jax.data.readers import UnreadableScan
from oct_jax.data.volumes import Volume
from oct_jax.decision.calibration import softmax
from oct_jax.decision.eye import (
    Field,
    field_of,
    obstacle_of,
    pool,
    refer_uncalibrated,
    weights_of,
)
from oct_jax.decision.referral import NOT_REFERRED
from oct_jax.decision.rule import COVERAGE, SENSITIVITY, DecisionRule, decide, fit_rule
from oct_jax.explain.gradcam import Method, make_explain
from oct_jax.eye.batches import Progress, explain_batch, read_batches
from oct_jax.model.inference import Outputs, join_rows
from oct_jax.model.protocol import Model
from oct_jax.prediction import Prediction, to_predictions
from oct_jax.task import Task
from oct_jax.types import Referral


@dataclass(frozen=True)
class EyePrediction:
    """What a classifier says of an eye.

    Attributes:
      label: the most probable class.
      probabilities: float32 (classes,), of the middle of the volume; calibrated by eye only where
        `calibrated`.
      referral: a tier, or `defer` to a person; None in a task without tiers.
      reason: of the referral, one line.
      calibrated: whether the rule behind the referral was fitted on eyes.
      scans: what the classifier says of each readable B-scan.
      indices: of each of those, its index in the volume.
      field: the middle of the volume, for all its B-scans.
      unreadable: B-scans that could not be read, a line each.
      outputs: logits and pooled features of the eye, for `fit_rule`.
      task: the classes.
      synthetic: whether the classifier was trained on phantoms.
    """

    label: str
    probabilities: Float32[np.ndarray, "classes"]
    referral: Referral | None
    reason: str
    calibrated: bool
    scans: tuple[Prediction, ...]
    indices: tuple[int, ...]
    field: Field
    unreadable: tuple[str, ...]
    outputs: Outputs
    task: Task
    synthetic: bool


def predict_eye(
    classifier: Classifier,
    volume: Volume,
    *,
    rule: DecisionRule | None = None,
    progress: Progress | None = None,
) -> EyePrediction:
    """Classifies an eye.

    Args:
      classifier: trained on B-scans.
      volume: of the eye.
      rule: fitted on eyes by `fit_eyes`; None for the classifier's own `eye_rule`. Without either
        the eye's certainty is not calibrated.
      progress: called with (B-scans done, all).

    Raises:
      UnreadableScan: no B-scan can be read.
    """
    outputs, indices, unreadable = outputs_of_eye(classifier, volume, "gradcam", progress)
    return pool_eye(classifier, volume, outputs, indices, rule=rule, unreadable=unreadable)


def fit_eyes(
    eyes: Sequence[EyePrediction],
    labels: Sequence[str],
    patients: Sequence[str],
    *,
    coverage: float = COVERAGE,
    sensitivity: float = SENSITIVITY,
    model: str = "",
    records: Sequence[Record] = (),
    fitted_on: Mapping[str, Any] | None = None,
) -> DecisionRule:
    """A decision rule for eyes: temperature, prediction sets and urgency, from labelled eyes.

    Args:
      eyes: what the classifier says of eyes that it was not trained on; at least one.
      labels: classes of the task, one for each.
      patients: of each eye; the two eyes of a patient count as one.
      coverage: asked of the prediction sets, in every class.
      sensitivity: asked of the urgent threshold.
      model: fingerprint of the weights.
      records: of the eyes, to be written down.
      fitted_on: what else to write down.
    """
    task = eyes[0].task
    outputs = join_rows([eye.outputs for eye in eyes])
    return fit_rule(
        Outputs(np.asarray(outputs.logits, np.float32), np.asarray(outputs.pooled)),
        np.array([task.index(label) for label in labels], np.int32),
        None,
        patients=patients,
        coverage=coverage,
        sensitivity=sensitivity,
        fitted_on={**_described(labels, patients), **(fitted_on or {})},
        model=model,
        records=tuple(records),
        task=task,
    )


def outputs_of_eye(
    classifier: Classifier, volume: Volume, method: Method, progress: Progress | None
) -> tuple[Outputs, list[int], tuple[str, ...]]:
    """Outputs of the readable B-scans, their indices, and a line for each of the others.

    Raises:
      UnreadableScan: no B-scan can be read.
    """
    program = make_explain(classifier.model, classifier.preprocess, method)
    parts, indices, unreadable = [], [], {}
    for places, scans in read_batches(volume, range(len(volume)), progress, unreadable):
        parts.append(explain_batch(program, classifier, volume, scans, 0).outputs)
        indices += places
    if not indices:
        raise UnreadableScan(volume.name, f"none of its B-scans: {next(iter(unreadable.values()))}")
    return join_rows(parts), indices, tuple(unreadable.values())


def pool_eye(
    classifier: Classifier,
    volume: Volume,
    outputs: Outputs,
    indices: Sequence[int],
    *,
    rule: DecisionRule | None = None,
    unreadable: tuple[str, ...] = (),
) -> EyePrediction:
    """What a classifier says of an eye, from what it makes of the B-scans.

    Args:
      classifier: that the outputs are of.
      volume: of the eye.
      outputs: a row for each readable B-scan, in order.
      indices: of those B-scans, their indices in the volume.
      rule: as for `predict_eye`.
      unreadable: a line for each of the others.
    """
    rule = rule or classifier.eye_rule
    field = field_of(volume)
    scans = to_predictions(outputs, classifier.rule, classifier.task)
    readable = np.zeros(len(volume), bool)
    readable[list(indices)] = True
    unlike = np.zeros(len(volume), bool)
    unlike[list(indices)] = [
        scan.decision is not None and (scan.decision.is_outlier or scan.decision.no_retina)
        for scan in scans
    ]
    # Where no B-scan of the middle is readable, the eye is deferred whatever the others say.
    central = (
        field.central[list(indices)]
        if field.central[list(indices)].any()
        else np.ones(len(indices), bool)
    )
    of_scans = np.stack([scan.probabilities for scan in scans]).astype(np.float64)
    weights = weights_of(of_scans, central, classifier.task)
    eye = _pooled(classifier, outputs, weights)
    obstacle = obstacle_of(field, readable, unlike)
    if rule is not None:
        probabilities, referral, reason = _by_rule(rule, eye, obstacle)
    else:
        temperature = classifier.rule.temperature if classifier.rule else 1.0
        probabilities = softmax(eye.logits, temperature)[0]
        referral, reason = _referral(
            probabilities,
            of_scans,
            Field(central, field.words, field.obstacle),
            obstacle,
            [volume.numbers[index] for index in indices],
            classifier.task,
        )
    return EyePrediction(
        label=classifier.task.classes[int(probabilities.argmax())],
        probabilities=probabilities.astype(np.float32),
        referral=referral,
        reason=reason,
        calibrated=rule is not None,
        scans=tuple(scans),
        indices=tuple(indices),
        field=field,
        unreadable=unreadable,
        outputs=eye,
        task=classifier.task,
        synthetic=classifier.synthetic,
    )


def _described(labels: Sequence[str], patients: Sequence[str]) -> dict[str, Any]:
    """Numbers of eyes and patients, under the names that `decision.fit.describe` uses of scans."""
    pairs = set(zip(labels, patients, strict=True))
    return {
        "eyes": len(labels),
        "scans": dict(Counter(labels)),
        "patients": len(set(patients)),
        "patients_of": dict(Counter(label for label, _ in sorted(pairs))),
    }


def _by_rule(
    rule: DecisionRule, eye: Outputs, obstacle: str
) -> tuple[np.ndarray, Referral | None, str]:
    """Probabilities, referral and reason of a rule that was fitted on eyes."""
    decided = decide(rule, eye)
    referral = decided.referrals[0]
    inside = [n for n, held in zip(rule.task.classes, decided.sets[0], strict=True) if held]
    reason = f"possible: {', '.join(inside) or 'no class'}"
    if not rule.task.refers:
        reason = NOT_REFERRED
    elif obstacle:
        referral, reason = "defer", obstacle
    return decided.probabilities[0], referral, reason


def _referral(
    probabilities: np.ndarray,
    of_scans: np.ndarray,
    field: Field,
    obstacle: str,
    numbers: Sequence[int],
    task: Task,
) -> tuple[Referral | None, str]:
    if not task.refers:
        return None, NOT_REFERRED
    if obstacle:
        return "defer", obstacle
    return refer_uncalibrated(probabilities, of_scans, field, numbers, task)


def _pooled(
    classifier: Classifier, outputs: Outputs, weights: Float[np.ndarray, "bscans"]
) -> Outputs:
    features = pool(np.asarray(outputs.pooled), weights)
    logits = _head(classifier.model)(classifier.variables, features)
    return Outputs(np.asarray(logits), features)


@functools.lru_cache(maxsize=8)
def _head(model: Model) -> Callable[[Any, np.ndarray], Any]:
    """Logits of pooled features: a feature map of one position is its own pool."""
    return jax.jit(lambda variables, pooled: model.head(variables, pooled[:, None, None, :]))
