"""Golden scans: phantoms, and what the run itself, in JAX, makes of them at every stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from oct_jax.arrays import ScanArray
from oct_jax.classifier import Classifier
from oct_jax.data.phantom import phantom_scan
from oct_jax.data.preprocess import resize_scan
from oct_jax.explain.gradcam import make_explain
from oct_jax.task import KERMANY

_SEED = 20


@dataclass(frozen=True)
class Golden:
    """Golden scans and the answers to them.

    Attributes:
      scans: by name, uint8 grey.
      resized: by name, (size, size), by Pillow.
      answers: for each, what `golden.json` says.
    """

    scans: dict[str, ScanArray]
    resized: dict[str, UInt8[np.ndarray, "size size"]]
    answers: list[dict[str, Any]]


def make_golden(classifier: Classifier) -> Golden:
    """A phantom of each of Kermany's classes, whatever the task, and the classifier's answers."""
    scans = {
        name.lower(): phantom_scan(name, np.random.default_rng(_SEED + index)).image
        for index, name in enumerate(KERMANY.classes)
    }
    resized = {name: resize_scan(scan, classifier.preprocess) for name, scan in scans.items()}
    predictions = classifier.predict(list(scans.values()))
    explain = make_explain(classifier.model, classifier.preprocess)
    answers = []
    for (name, scan), prediction in zip(scans.items(), predictions, strict=True):
        targets = np.arange(len(classifier.task.classes), dtype=np.int32)
        batch = np.repeat(resized[name][None], len(targets), axis=0)
        maps = np.asarray(explain(classifier.variables, batch, targets)[1])
        decision = prediction.decision
        answers.append(
            {
                "scan": f"{name}.pgm",
                "made_as": name.upper(),
                "height": scan.shape[0],
                "width": scan.shape[1],
                "resized": f"{name}.resized.pgm",
                "logits": prediction.logits.tolist(),
                "probabilities": prediction.probabilities.tolist(),
                "label": prediction.label,
                "heatmaps": np.round(maps, 6).astype(float).tolist(),
                "outlier_score": None if decision is None else decision.outlier_score,
                "prediction_set": None if decision is None else list(decision.classes),
                "referral": None if decision is None else decision.referral,
            }
        )
    return Golden(scans, resized, answers)


def encode_pgm(pixels: UInt8[np.ndarray, "height width"]) -> bytes:
    """A binary PGM file: three lines of text, then the pixels; read by a few lines of any code."""
    height, width = pixels.shape
    return f"P5\n{width} {height}\n255\n".encode() + pixels.tobytes()
