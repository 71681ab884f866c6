"""What adaptation without labels is worth: adapted on one half, measured on the other.

    python experiments/adaptation.py run=RUN foreign=../shared/data

Halves of `noor_dev` and `uncurated_dev` are blocks of 40 neighbouring file numbers in turns, so
that an eye is in one half. From one half 20, 50, 100 and 200 scans are drawn without their labels,
the classifier is adapted to them, and the other half is predicted; then the halves change places.
`run` is a run or a model file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from elsewhere import RIGHT, Scans, foreign_scans, number_of

import oct_jax
from oct_jax import UserError
from oct_jax.adaptation import adapt
from oct_jax.classifier import Classifier
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.data.readers import read_scan
from oct_jax.metrics.classification import bootstrap

SIZES = (20, 50, 100, 200)
BLOCK = 40
HEAD = "| scans | adapted to | right | NORMAL right | deferred | right when answered |"


def main(words: list[str]) -> None:
    """Prints the table."""
    given = split_words(words)
    if set(given) != {"run", "foreign"}:
        raise UserError("needs run= and foreign=")
    classifier = oct_jax.load(given["run"])
    sets = foreign_scans(Path(given["foreign"]).expanduser())
    print(HEAD + "\n" + "|---" * HEAD.count(" | ") + "|---|")
    for name in ("noor", "uncurated"):
        for size in (0, *SIZES):
            print(row_of(name, size, measure(classifier, sets[name], size)), flush=True)


def measure(classifier: Classifier, scans: Scans, size: int) -> dict[str, np.ndarray]:
    """Of every scan, under the classifier that is adapted to scans of the other half."""
    half = np.array([number_of(path) // BLOCK % 2 for path in scans.paths])
    right, deferred = np.zeros(len(half), bool), np.zeros(len(half), bool)
    for number in (0, 1):
        fitted = classifier
        if size:
            others = np.flatnonzero(half != number)
            drawn = np.random.default_rng(0).permutation(others)[:size]
            fitted = adapt(classifier, [scans.paths[i] for i in drawn]).classifier
        own = np.flatnonzero(half == number)
        for index, prediction in zip(own, fitted.predict(images(scans.paths, own)), strict=True):
            right[index] = prediction.label in RIGHT[scans.labels[index]]
            deferred[index] = prediction.decision.referral == "defer"
    return {"right": right, "deferred": deferred, "labels": np.array(scans.labels)} | {
        "blocks": np.array(scans.blocks)
    }


def images(paths: Sequence[Path], indices: np.ndarray) -> list[np.ndarray]:
    """The scans of these indices."""
    return [read_scan(paths[index]) for index in indices]


def row_of(name: str, size: int, measured: dict[str, np.ndarray]) -> str:
    """A row of the table; intervals draw blocks of neighbouring numbers."""
    right, deferred, labels = (measured[key] for key in ("right", "deferred", "labels"))

    def figures(drawn: np.ndarray) -> dict[str, float | None]:
        answered = drawn[~deferred[drawn]]
        normal = drawn[labels[drawn] == "NORMAL"]
        return {
            "right": float(right[drawn].mean()),
            "NORMAL": float(right[normal].mean()) if len(normal) else None,
            "deferred": float(deferred[drawn].mean()),
            "answered": float(right[answered].mean()) if len(answered) else None,
        }

    values = figures(np.arange(len(right)))
    intervals = bootstrap(measured["blocks"].tolist(), figures, resamples=500, seed=0)
    cells = [
        f"{values[key]:.3f} ({intervals[key][0]:.2f} to {intervals[key][1]:.2f})" for key in values
    ]
    return f"| `{name}` | {size or 'nothing'} | {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(command.run(main))
