"""Where in an eye the evidence lies: along every B-scan, and heatmaps of the most telling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import geometry, to_scan_coordinates
from oct_jax.data.volumes import Volume
from oct_jax.decision.eye import ALARM
from oct_jax.decision.rule import DecisionRule
from oct_jax.explain.gradcam import Method, make_explain
from oct_jax.explanation import Explanation
from oct_jax.eye.batches import Progress, explain_batch, read_batches
from oct_jax.eye.prediction import EyePrediction, outputs_of_eye, pool_eye

TELLING = 3
"""B-scans that are shown with heatmaps."""
PROFILE = 64
"""Places along a B-scan at which its evidence is kept."""


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
    outputs, indices, unreadable = outputs_of_eye(classifier, volume, method, progress)
    prediction = pool_eye(classifier, volume, outputs, indices, rule=rule, unreadable=unreadable)
    target = target or _target_of(prediction)
    index = classifier.task.index(target)
    probabilities = np.array([scan.probabilities[index] for scan in prediction.scans])
    central = prediction.field.central[list(prediction.indices)]
    chosen = {prediction.indices[row] for row in _most_telling(probabilities, central)}
    evidence, telling = [], []
    rows = iter(prediction.scans)
    program = make_explain(classifier.model, classifier.preprocess, method, flip=flip)
    grid = classifier.grid_of(method, flip=flip)
    for indices, scans in read_batches(volume, prediction.indices, progress):
        _, maps = explain_batch(program, classifier, volume, scans, index)
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
