"""False alarms of `just monitor`, and after how many scans of another kind it raises a true one.

    python experiments/monitoring.py run=RUN foreign=../shared/data resamples=100

Held-out scans of the same release are the run's calibration and test scans: their patients are
parted anew at random, as many as calibrated the rule on one side, the others taken for new; every
alarm is false. Scans of other origin (`noor_dev`, `uncurated_dev`) come in a random order against
the calibration scans; neighbouring file numbers are probably of one eye, so blocks of ten count as
a patient.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from elsewhere import foreign_scans

import oct_jax
from oct_jax import UserError
from oct_jax.classifier import Classifier
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.data.preprocess import resize_scan
from oct_jax.data.readers import read_scan
from oct_jax.decision.monitoring import ALARM, watch
from oct_jax.decision.rule import decide
from oct_jax.model.inference import batch_slices, make_forward, predict_all, predict_source
from oct_jax.runs.scans import open_run_scans

THREADS = 2


def main(words: list[str]) -> None:
    """Prints a table."""
    given = {"resamples": "100"} | split_words(words)
    if set(given) != {"run", "foreign", "resamples"}:
        raise UserError("needs run= and foreign=; may have resamples=")
    run, resamples = Path(given["run"]), int(given["resamples"])
    classifier = oct_jax.load(run)
    scans = open_run_scans(run)
    parts = {name: scans.select(name) for name in ("calibration", "test")}
    scores = {
        name: decided_scores(
            classifier,
            predict_source(
                classifier.model, classifier.variables, part, classifier.preprocess, threads=THREADS
            ),
        )
        for name, part in parts.items()
    }
    known, patients = scores["calibration"], list(parts["calibration"].patients)
    print("| scans | order | alarms | after patients: median (5 to 95 %) | after scans |")
    print("|---|---|---|---|---|")
    held_out = np.concatenate([known, scores["test"]])
    owners = np.array([*patients, *parts["test"].patients])
    print(same_release(held_out, owners, len(set(patients)), resamples), flush=True)
    for name, those in foreign_scans(Path(given["foreign"]).expanduser()).items():
        if name == "duke":  # five patients
            continue
        new = decided_scores(classifier, outputs_of_files(classifier, those.paths))
        for how, owner in (("scan by scan", list(map(str, those.paths))), ("blocks", those.blocks)):
            row = elsewhere(known, patients, new, np.array(owner), resamples)
            print(f"| `{name}`, {len(new)} | random, {how} | {row} |", flush=True)


def same_release(scores: np.ndarray, owners: np.ndarray, calibration: int, resamples: int) -> str:
    """A row: alarms among random partings of patients who are all alike."""
    names = np.unique(owners)
    rng, alarms = np.random.default_rng(0), 0
    for seed in range(resamples):
        first = set(rng.permutation(names)[:calibration].tolist())
        is_known = np.array([owner in first for owner in owners])
        new = rng.permutation(np.flatnonzero(~is_known))
        capital = watch(scores[is_known], owners[is_known], scores[new], owners[new], seed=seed)
        alarms += capital.max() >= ALARM
    return f"| same release, {len(scores)} | parted anew | {alarms} of {resamples} | | |"


def elsewhere(
    known: np.ndarray,
    patients: Sequence[str],
    scores: np.ndarray,
    owners: np.ndarray,
    resamples: int,
) -> str:
    """Alarms, and after how many patients and scans, in random orders of the patients."""
    rng, after, scans = np.random.default_rng(0), [], []
    for seed in range(resamples):
        names = rng.permutation(np.unique(owners))
        order = np.concatenate([np.flatnonzero(owners == name) for name in names])
        capital = watch(known, patients, scores[order], owners[order], seed=seed)
        beyond = np.flatnonzero(capital >= ALARM)
        if len(beyond):
            after.append(int(beyond[0]) + 1)
            scans.append(int(np.isin(owners, names[: beyond[0] + 1]).sum()))
    if not after:
        return f"0 of {resamples} | | "
    return f"{len(after)} of {resamples} | {spread(after)} | {spread(scans)}"


def spread(values: Sequence[int]) -> str:
    """Median and the middle 90 %."""
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def decided_scores(classifier: Classifier, outputs: oct_jax.Outputs) -> np.ndarray:
    """Outlier scores of the classifier's rule."""
    if classifier.rule is None:
        raise UserError("the run has no decision rule")
    return decide(classifier.rule, outputs).outlier_scores


def outputs_of_files(classifier: Classifier, paths: Sequence[Path]) -> oct_jax.Outputs:
    """What a classifier makes of scans in files."""
    batches = (
        np.stack([resize_scan(read_scan(path), classifier.preprocess) for path in paths[rows]])
        for rows in batch_slices(len(paths))
    )
    forward = make_forward(classifier.model, classifier.preprocess)
    return predict_all(forward, classifier.variables, batches)


if __name__ == "__main__":
    sys.exit(command.run(main))
