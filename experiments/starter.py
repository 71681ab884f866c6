"""Makes the starter model, `oct_jax/starter/`: trains, calibrates, tests, saves, writes the card.

    OCT_DATA=... OCT_WEIGHTS=... python experiments/starter.py run=runs/starter \
        elsewhere=../shared/data

`OCT_DATA` is the folder of 747 scans, `OCT_WEIGHTS` the ImageNet weights of the minimalistic
network. `elsewhere` holds scans of other origin to measure on, in `noor_dev` and `uncurated_dev`;
without it the card says that they were not measured. Run again with the same words, it goes on
where it was stopped. Every figure of the card is read from the run's own reports.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from starter_card import card

from oct_jax import Classifier, UserError, load
from oct_jax.commands import cli
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.data.folder import open_folder
from oct_jax.data.manifest import write_manifest
from oct_jax.data.split import Fractions
from oct_jax.files import read_json, write_atomic
from oct_jax.runs.verified import fingerprint, read_report
from oct_jax.starter import CARD, MODEL

# The documented recipe: what is not named here is the default of `just train`. More of the scans
# train than there, where a run keeps 15 % to be tested on: the recipe is tested by five folds.
FRACTIONS = Fractions(train=0.8, val=0.05, calibration=0.1, test=0.05)
FROZEN = ("stage=frozen", "seed=0")
FINETUNE = ("stage=finetune", "epochs=8")
# Folders of `elsewhere`, and the words that say what their labels mean.
ELSEWHERE = {"noor_dev": ("labels=AMD:CNV+DRUSEN",), "uncurated_dev": ()}
LARGEST = 6_000_000
"""Bytes that the model file may have."""

ABOUT: dict[str, Any] = {
    "name": "starter",
    "notice": "Research use. Not a medical device.",
    "licence": "Apache-2.0",
    "scans": {
        "source": 'Kermany, Zhang, Goldbaum, "Labeled Optical Coherence Tomography (OCT)", Mendeley'
        " Data, doi:10.17632/rscbjbr9sj.2; Kermany et al., Cell 172:1122-1131, 2018",
        "part": "747 scans of 486 patients of the release's curated test split",
        "licence": "CC BY 4.0",
    },
    "initial_weights": {
        "source": "Google, v3-large-minimalistic_224_1.0_uint8 (tensorflow/models), ImageNet,"
        " dequantised to float32",
        "licence": "Apache-2.0",
    },
}


def main(words: list[str]) -> None:
    """Trains what is not trained yet, tests what is not tested yet, then writes model and card."""
    given = read_words(words)
    data, weights = from_environment("OCT_DATA"), from_environment("OCT_WEIGHTS")
    run = Path(given["run"])
    manifest = run.with_name(f"{run.name}-manifest.csv")
    run.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(open_folder(data, seed=0, fractions=FRACTIONS).records, manifest)
    words = [f"data={data}", f"manifest={manifest}", f"weights={weights}", f"run={run}"]
    cli.train([*FROZEN, *words])
    cli.train([*FINETUNE, f"run={run}"])
    measure(run, Path(given["elsewhere"]) if given["elsewhere"] else None)
    classifier = load(run)
    facts = {**classifier.provenance.facts, **ABOUT}
    classifier = replace(classifier, provenance=replace(classifier.provenance, facts=facts))
    classifier.save(MODEL, half=True)
    size = MODEL.stat().st_size
    if size > LARGEST:
        raise UserError(f"{MODEL}: {size} bytes, more than {LARGEST}")
    price = half_precision_price(classifier, load(MODEL), data)
    write_atomic(CARD, card(load(MODEL), (" ".join(FROZEN), " ".join(FINETUNE)), price, size))
    print(f"{MODEL}: {size / 1e6:.1f} MB\n{CARD}")


def read_words(words: list[str]) -> dict[str, str]:
    """The words with their defaults; UserError for an unknown one."""
    given = split_words(words)
    unknown = given.keys() - {"run", "elsewhere"}
    if unknown:
        raise UserError(f"{min(unknown)}: unknown; the words are run=, elsewhere=")
    return {"run": "runs/starter", "elsewhere": ""} | given


def from_environment(name: str) -> str:
    """What a variable names; UserError where it is not set."""
    if not os.environ.get(name):
        raise UserError(f"{name} is not set: OCT_DATA names the scans, OCT_WEIGHTS the weights")
    return os.environ[name]


def measure(run: Path, elsewhere: Path | None) -> None:
    """Evaluates the run and tests its heatmaps, where that was not done of this very model."""
    model = fingerprint(load(run))
    measured = {
        (Path(report["data"]).name, report["split"])
        for path in (run / "evaluation").glob("**/report.json")
        if (report := read_json(path, dict[str, Any])).get("model") == model
    }
    if (Path(os.environ["OCT_DATA"]).name, "test") not in measured:
        cli.evaluate([f"run={run}"])
    for name, words in ELSEWHERE.items() if elsewhere is not None else ():
        if (name, "all") not in measured:
            cli.evaluate([f"run={run}", f"data={elsewhere / name}", *words])
    report = read_report(run)
    if report is None or report.model != model:
        cli.explain(["report", f"run={run}", "scans=120"])  # all test and calibration scans


def half_precision_price(whole: Classifier, half: Classifier, data: str) -> tuple[int, float]:
    """Labels that float16 storage changes on all scans, and by how much a probability at most."""
    scans = open_folder(data, seed=0)
    pictures = [scans.read(index) for index in range(len(scans))]
    pairs = list(zip(whole.predict(pictures), half.predict(pictures), strict=True))
    changed = sum(first.label != second.label for first, second in pairs)
    moved = [np.abs(first.probabilities - second.probabilities).max() for first, second in pairs]
    return changed, float(np.max(moved))


if __name__ == "__main__":
    sys.exit(command.run(main))
