"""A volume in, one answer for its eye out.

    volume = open_volume("eye.vol")
    eye = predict_eye(classifier, volume)
    eye.label, eye.referral, eye.reason, eye.calibrated
    explain_eye(classifier, volume).telling          # heatmaps of the most telling B-scans

B-scans are read a batch at a time, so that memory does not grow with a volume's length.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32

from oct_jax.arrays import ScanArray
from oct_jax.classifier import Classifier
from oct_jax.data.manifest import Record
from oct_jax.data.preprocess import geometry, resize_scan, to_scan_coordinates
from oct_jax.data.readers import UnreadableScan, map_threads
from oct_jax.data.volumes import Volume
from oct_jax.decision.calibration import softmax
from oct_jax.decision.eye import (
    ALARM,
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
from oct_jax.explanation import Explanation
from oct_jax.model.inference import BATCH_SIZES, Outputs, first_rows, join_rows, pad_batch
from oct_jax.model.protocol import Model
from oct_jax.prediction import Prediction, to_predictions
from oct_jax.task import Task
from oct_jax.types import Referral

TELLING = 3
"""B-scans that are shown with heatmaps."""
PROFILE = 64
"""Places along a B-scan at which its evidence is kept."""

Progress = Callable[[int, int], None]


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


@dataclass(frozen=True)
class EyeExplanation:
    """Where in an eye the evidence lies.

    Attributes:
      prediction: what the classifier says of the eye.
      target: the class that is explained: the eye's, or of a healthy one its likeliest disease.
      evidence: float32 (readable B-scans, `PROFILE`): the heatmap's highest value at each place
        along a B-scan, times the target's probability in that B-scan.
      telling: of up to `TELLING` B-scans, the index in the volume and the heatmap.
    """

    prediction: EyePrediction
    target: str
    evidence: Float32[np.ndarray, "bscans places"]
    telling: tuple[tuple[int, Explanation], ...]


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
      rule: fitted on eyes by `fit_eyes`; None leaves the eye's certainty uncalibrated.
      progress: called with (B-scans done, all).

    Raises:
      UnreadableScan: no B-scan can be read.
    """
    return _predict(classifier, volume, "gradcam", rule, progress)


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


def explain_eye(
    classifier: Classifier,
    volume: Volume,
    *,
    rule: DecisionRule | None = None,
    target: str | None = None,
    method: Method = "gradcam",
    flip: bool = False,
    progress: Progress | None = None,
) -> EyeExplanation:
    """Classifies an eye and shows where it looks so.

    Args:
      classifier: trained on B-scans.
      volume: of the eye.
      rule: as for `predict_eye`.
      target: a class of the task; None for the eye's own, or of a healthy eye its likeliest
        disease.
      method: a name of `oct_jax.explain.gradcam.METHODS`.
      flip: average with the maps of the mirrored B-scans.
      progress: called with (B-scans done, all); each is read twice.

    Raises:
      UnreadableScan: no B-scan can be read.
      UserError: `target` is no class of the task.
    """
    prediction = _predict(classifier, volume, method, rule, progress)
    target = target or _target_of(prediction)
    index = classifier.task.index(target)
    probabilities = np.array([scan.probabilities[index] for scan in prediction.scans])
    central = prediction.field.central[list(prediction.indices)]
    chosen = {prediction.indices[row] for row in _most_telling(probabilities, central)}
    evidence, telling = [], []
    rows = iter(prediction.scans)
    program = make_explain(classifier.model, classifier.preprocess, method, flip=flip)
    grid = classifier.grid_of(method, flip=flip)
    for indices, scans in _batches(volume, prediction.indices, progress):
        _, maps = _run(program, classifier, volume, scans, index)
        for place, scan, cells in zip(indices, scans, maps, strict=True):
            one = next(rows)
            where = geometry(scan, classifier.preprocess, volume.spacing)
            explanation = Explanation(
                one, target, method, cells, where, classifier.preprocess, grid
            )
            heatmap = to_scan_coordinates(cells, grid, where)
            evidence.append(_profile(heatmap) * one.probabilities[index])
            if place in chosen:
                telling.append((place, explanation))
    return EyeExplanation(prediction, target, np.stack(evidence), tuple(telling))


def _described(labels: Sequence[str], patients: Sequence[str]) -> dict[str, Any]:
    """Numbers of eyes and patients, under the names that `decision.fit.describe` uses of scans."""
    pairs = set(zip(labels, patients, strict=True))
    return {
        "eyes": len(labels),
        "scans": dict(Counter(labels)),
        "patients": len(set(patients)),
        "patients_of": dict(Counter(label for label, _ in sorted(pairs))),
    }


def _predict(
    classifier: Classifier,
    volume: Volume,
    method: Method,
    rule: DecisionRule | None,
    progress: Progress | None,
) -> EyePrediction:
    program = make_explain(classifier.model, classifier.preprocess, method)
    parts, indices, unreadable = [], [], {}
    for places, scans in _batches(volume, range(len(volume)), progress, unreadable):
        outputs, _ = _run(program, classifier, volume, scans, 0)
        parts.append(outputs)
        indices += places
    if not indices:
        raise UnreadableScan(volume.name, f"none of its B-scans: {next(iter(unreadable.values()))}")
    outputs = join_rows(parts)
    field = field_of(volume)
    scans = to_predictions(outputs, classifier.rule, classifier.task)
    readable = np.zeros(len(volume), bool)
    readable[indices] = True
    unlike = np.zeros(len(volume), bool)
    unlike[indices] = [
        scan.decision is not None and (scan.decision.is_outlier or scan.decision.no_retina)
        for scan in scans
    ]
    # Where no B-scan of the middle is readable, the eye is deferred whatever the others say.
    central = (
        field.central[indices] if field.central[indices].any() else np.ones(len(indices), bool)
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
        unreadable=tuple(unreadable.values()),
        outputs=eye,
        task=classifier.task,
        synthetic=classifier.synthetic,
    )


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


def _batches(
    volume: Volume,
    indices: Sequence[int],
    progress: Progress | None,
    unreadable: dict[int, str] | None = None,
) -> Iterator[tuple[list[int], list[ScanArray]]]:
    """Readable B-scans in batches; the others are noted, and none is left out unnoted."""
    size = BATCH_SIZES[-1]

    def read(index: int) -> ScanArray | UnreadableScan:
        try:
            return volume.read(index)
        except UnreadableScan as error:
            return error

    for start in range(0, len(indices), size):
        wanted = indices[start : start + size]
        batch = list(zip(wanted, map_threads(read, wanted), strict=True))
        for index, scan in batch:
            if isinstance(scan, UnreadableScan):
                if unreadable is None:
                    raise scan
                unreadable[index] = f"B-scan {volume.numbers[index]}: {scan.reason}"
        good = [(index, scan) for index, scan in batch if not isinstance(scan, UnreadableScan)]
        if progress is not None:
            progress(start + len(wanted), len(indices))
        if good:
            yield [index for index, _ in good], [scan for _, scan in good]


def _run(program, classifier: Classifier, volume: Volume, scans: list[ScanArray], target: int):
    resized = np.stack(
        list(
            map_threads(
                lambda scan: resize_scan(scan, classifier.preprocess, volume.spacing), scans
            )
        )
    )
    padded = pad_batch(resized)
    explained = program(classifier.variables, padded, np.full(len(padded), target, np.int32))
    return first_rows(explained, len(scans))


def _target_of(prediction: EyePrediction) -> str:
    task = prediction.task
    disease = [name for name in task.classes if task.tier_of(name) != "observe"]
    if prediction.label in disease or not disease:
        return prediction.label
    return max(disease, key=lambda name: prediction.probabilities[task.index(name)])


def _most_telling(probabilities: np.ndarray, central: Bool[np.ndarray, "bscans"]) -> list[int]:
    """The B-scans of the highest values, no two of them closer than a sixteenth of the volume.

    Of the middle, and elsewhere those that look like disease: the edge of a healthy macula always
    looks a little less healthy than its middle.
    """
    gap = max(1, len(probabilities) // 16)
    allowed = central | (probabilities >= ALARM) if central.any() else np.ones_like(central)
    chosen: list[int] = []
    for row in np.argsort(-probabilities, kind="stable"):
        if allowed[row] and all(abs(row - other) > gap for other in chosen):
            chosen.append(int(row))
        if len(chosen) == TELLING:
            break
    return sorted(chosen)


def _profile(heatmap: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "places"]:
    """The highest value of every column, at `PROFILE` places along the B-scan."""
    columns = heatmap.max(0)
    places = np.linspace(0, len(columns) - 1, PROFILE)
    return np.interp(places, np.arange(len(columns)), columns).astype(np.float32)
