"""How to pool an eye's B-scans: composed eyes, and whole eyes of a device.

    python experiments/eyes.py model=runs/default data=OCT2017_SUBSET eyes=../shared/data/eyes_dev

Composed eyes: 25 real B-scans each, of patients that the run was not trained on, some neighbouring
ones of one diseased class and the rest NORMAL. That is easier than a volume: each B-scan is a clean
scan through a fovea. Whole eyes: folders of exports, called `AMD_*` (CNV or DRUSEN counts as right)
and `NORMAL_*`; they compare methods, nothing is tuned on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from oct_jax import UserError, load
from oct_jax.classifier import Classifier
from oct_jax.commands.parsing import split_words
from oct_jax.data.folder import scans_in_files
from oct_jax.data.manifest import read_manifest
from oct_jax.data.volumes import open_volume
from oct_jax.decision.calibration import softmax
from oct_jax.decision.eye import neighbourhoods, pool, weights_of
from oct_jax.eye import predict_eye
from oct_jax.model.inference import Outputs, predict_source

BSCANS, EYES = 25, 100
DISEASED = (1, 3, 5, 10, 25)
Pooling = Callable[[Classifier, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def main(words: list[str]) -> None:
    """Prints a table of composed eyes, then a line for each whole eye."""
    given = {"model": "runs/default", "eyes": "", "seed": "0"} | split_words(words)
    if "data" not in given:
        raise UserError("data=: is needed")
    classifier = load(given["model"])
    records = read_manifest(Path(given["model"]) / "manifest.csv")
    scans = scans_in_files(Path(given["data"]), [r for r in records if r.split != "train"])
    outputs = predict_source(
        classifier.model, classifier.variables, scans, classifier.preprocess, threads=2
    )
    print(f"{len(scans)} B-scans of {len(set(scans.patients))} patients")
    _composed(classifier, outputs, scans.labels, np.random.default_rng(int(given["seed"])))
    for folder in sorted(Path(given["eyes"]).glob("*_*")) if given["eyes"] else ():
        _whole(classifier, folder)


def _composed(
    classifier: Classifier, outputs: Outputs, labels: np.ndarray, rng: np.random.Generator
) -> None:
    task = classifier.task
    healthy = task.index("NORMAL")
    print(f"| diseased of {BSCANS} | {' | '.join(POOLINGS)} | healthy eyes |")
    print("|---" * (len(POOLINGS) + 2) + "|")
    for count in DISEASED:
        right = {name: [] for name in POOLINGS}
        for label in (index for index in range(len(task.classes)) if index != healthy):
            for _ in range(EYES):
                rows = _compose(labels, label, healthy, count, rng)
                for name, probabilities in _pooled(classifier, outputs, rows).items():
                    right[name].append(int(probabilities.argmax()) == label)
        clear = [
            _pooled(classifier, outputs, _compose(labels, healthy, healthy, count, rng))
            for _ in range(EYES)
        ]
        kept = " / ".join(
            f"{np.mean([int(eye[name].argmax()) == healthy for eye in clear]):.0%}"
            for name in POOLINGS
        )
        cells = " | ".join(f"{np.mean(values):.0%}" for values in right.values())
        print(f"| {count} | {cells} | {kept} |")


def _compose(
    labels: np.ndarray, label: int, healthy: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    rows = rng.choice(np.flatnonzero(labels == healthy), BSCANS)
    start = rng.integers(0, BSCANS - count + 1)
    rows[start : start + count] = rng.choice(np.flatnonzero(labels == label), count)
    return rows


def _pooled(classifier: Classifier, outputs: Outputs, rows: np.ndarray) -> dict[str, np.ndarray]:
    temperature = classifier.rule.temperature if classifier.rule else 1.0
    logits, features = np.asarray(outputs.logits)[rows], np.asarray(outputs.pooled)[rows]
    probabilities = softmax(logits, temperature)
    return {
        name: pooling(classifier, logits, features, probabilities)
        for name, pooling in POOLINGS.items()
    }


def _head(classifier: Classifier, pooled: np.ndarray) -> np.ndarray:
    temperature = classifier.rule.temperature if classifier.rule else 1.0
    logits = classifier.model.head(classifier.variables, pooled[:, None, None, :])
    return softmax(np.asarray(logits), temperature)[0]


def _weighted(classifier: Classifier, _: np.ndarray, features: np.ndarray, probabilities):
    central = np.ones(len(features), bool)
    return _head(classifier, pool(features, weights_of(probabilities, central, classifier.task)))


def _worst(classifier: Classifier, _: np.ndarray, features: np.ndarray, probabilities):
    healthy = classifier.task.index("NORMAL")
    start = int(neighbourhoods(1 - probabilities[:, healthy]).argmax())
    return _head(classifier, features[start : start + 3].mean(0, keepdims=True))


POOLINGS: dict[str, Pooling] = {
    "mean of features": lambda c, _l, features, _p: _head(c, features.mean(0, keepdims=True)),
    "mean of logits": lambda _c, logits, _f, _p: softmax(logits.mean(0, keepdims=True))[0],
    "mean of probabilities": lambda _c, _l, _f, probabilities: probabilities.mean(0),
    "worst three": _worst,
    "weighted mean of features": _weighted,
}


def _whole(classifier: Classifier, folder: Path) -> None:
    eye = predict_eye(classifier, open_volume(folder))
    right = eye.label in (("CNV", "DRUSEN") if folder.name.startswith("AMD") else ("NORMAL",))
    shares = ", ".join(
        f"{name} {share:.1%}"
        for name, share in zip(eye.task.classes, eye.probabilities, strict=True)
    )
    print(f"{folder.name}: {shares}; {eye.referral}; {'right' if right else 'wrong'}")


if __name__ == "__main__":
    main(sys.argv[1:])
