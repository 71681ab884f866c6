"""Patient-grouped k-fold cross-validation of the whole training, every scan tested once.

    python experiments/crossvalidate.py data=ROOT weights=FILE out=runs/cv folds=5 seeds=0 \
        frozen.epochs=30 finetune.learning_rate=1e-3 finetune.epochs=16

For each seed and fold it writes a manifest whose test split is the fold, trains both stages on it
as `just train` does, and predicts the fold with its calibration. Words with `frozen.` or
`finetune.` are settings of that stage. Run again with the same words, it goes on where it was
stopped. The figures are
over the predictions of all folds together, which come from as many models; intervals draw patients.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from oct_jax import command, load
from oct_jax.config import EvaluateConfig, split_words
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import write_manifest
from oct_jax.data.source import FolderSource
from oct_jax.data.split import grouped_folds
from oct_jax.decision.calibration import (
    brier_score,
    expected_calibration_error,
    softmax,
)
from oct_jax.decision.referral import URGENT
from oct_jax.decision.rule import decide
from oct_jax.evaluate.metrics import bootstrap, confusion, figures
from oct_jax.evaluate.run import outputs_of
from oct_jax.evaluate.scans import open_labelled
from oct_jax.files import read_json, write_json
from oct_jax.train.loop import train
from oct_jax.train.run_folder import STAGES, read_settings
from oct_jax.types import CLASSES, UserError


def main(words: list[str]) -> None:
    """Trains and predicts all folds, then writes and prints the figures."""
    given = read_words(words)
    out, root = Path(given["out"]), Path(given["data"]).expanduser()
    seeds = [int(seed) for seed in given["seeds"].split(",")]
    stages = stage_words(given)
    console = Console(soft_wrap=True, highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    same_words(out / "words.json", {n: v for n, v in given.items() if n != "resamples"})
    records = list_scans(root).records
    rows = []
    for seed in seeds:
        for number, fold in enumerate(grouped_folds(records, int(given["folds"]), seed=seed)):
            folder = out / f"seed{seed}-fold{number}"
            if not (folder / "fold.npz").exists():
                folder.mkdir(parents=True, exist_ok=True)
                write_manifest(fold, folder / "fold.csv")
                run_fold(folder, root, given["weights"], seed, stages, console)
            rows.append(dict(np.load(folder / "fold.npz")) | {"seed": seed, "fold": number})
            console.print(f"{folder}: accuracy {fold_accuracy(rows[-1]):.4f}")
    found = summarize_folds(rows, int(given["resamples"]))
    write_json(out / "crossvalidation.json", found | {"command": words})
    print("\n".join(to_markdown(found)))


def read_words(words: list[str]) -> dict[str, str]:
    """The settings; those of stages are checked by the stages."""
    defaults = {"out": "runs/cv", "folds": "5", "seeds": "0", "resamples": "1000"}
    given = defaults | split_words(words)
    known = (*defaults, "data", "weights")
    for name in given:
        if name not in known and not name.startswith(("frozen.", "finetune.")):
            raise UserError(f"{name}: not a setting; {', '.join(known)}, frozen.*, finetune.*")
    for name in ("data", "weights"):
        if name not in given:
            raise UserError(f"{name}=: is missing")
    return given


def stage_words(given: dict[str, str]) -> dict[str, list[str]]:
    """The settings `frozen.x=y` and `finetune.x=y` as words `x=y` of each stage."""
    return {
        stage: [
            f"{name.removeprefix(f'{stage}.')}={value}"
            for name, value in given.items()
            if name.startswith(f"{stage}.")
        ]
        for stage in STAGES
    }


def same_words(path: Path, words: dict[str, str]) -> None:
    """Refuses to mix folds that were trained with other settings."""
    if path.exists() and read_json(path) != words:
        raise UserError(f"{path.parent}: was begun with other settings; say another out=")
    write_json(path, words)


def run_fold(
    folder: Path,
    root: Path,
    weights: str,
    seed: int,
    stages: dict[str, list[str]],
    console: Console,
) -> None:
    """Trains both stages on a fold's manifest and stores what they say of its test scans."""
    run = folder / "run"
    common = [f"run={run}"]
    first = [f"data={root}", f"weights={weights}", f"manifest={folder / 'fold.csv'}"]
    train(
        read_settings(["stage=frozen", *common, *first, f"seed={seed}", *stages["frozen"]]),
        console,
    )
    train(read_settings(["stage=finetune", *common, *stages["finetune"]]), console)
    classifier = load(run)
    labelled = open_labelled(run, EvaluateConfig(run=str(run)))
    assert isinstance(labelled.source, FolderSource)
    outputs = outputs_of(classifier, labelled, threads=2)
    if classifier.rule is None:
        raise UserError(f"{run}: has no calibration scans")
    said = decide(classifier.rule, outputs)
    beside = folder / "fold.part.npz"
    np.savez(
        beside,
        paths=[record.path for record in labelled.source.records],
        patients=[record.patient for record in labelled.source.records],
        truth=labelled.truth,
        logits=outputs.logits,
        probabilities=said.probabilities,
        sets=said.sets,
        referrals=said.referrals,
        outlier_scores=said.outlier_scores,
        urgent_threshold=classifier.rule.urgent_threshold,
        coverage=classifier.rule.coverage,
        sensitivity=classifier.rule.sensitivity,
        calibration_scans=[classifier.rule.fitted_on["scans"].get(name, 0) for name in CLASSES],
    )
    beside.rename(folder / "fold.npz")


def fold_accuracy(row: dict[str, Any]) -> float:
    """Of one fold."""
    return float((row["probabilities"].argmax(1) == row["truth"]).mean())


def summarize_folds(rows: list[dict[str, Any]], resamples: int) -> dict[str, Any]:
    """Figures over all folds of all seeds, with intervals over patients."""
    joined = {
        name: np.concatenate([row[name] for row in rows])
        for name in ("truth", "logits", "probabilities", "sets", "referrals", "outlier_scores")
    }
    patients = np.concatenate([row["patients"] for row in rows])
    truth, said = joined["truth"], joined["probabilities"]
    alarm = np.concatenate(
        [row["probabilities"][:, URGENT].sum(1) >= row["urgent_threshold"] for row in rows]
    )
    covered = joined["sets"][np.arange(len(truth)), truth]
    deferred = joined["referrals"] == "defer"
    urgent = URGENT[truth]

    def of(drawn: np.ndarray) -> dict[str, float | None]:
        part, labels = said[drawn], truth[drawn]
        found = figures(part, labels, CLASSES)
        found["ECE, uncalibrated"] = expected_calibration_error(
            softmax(joined["logits"][drawn]), labels
        )
        found["ECE, calibrated"] = expected_calibration_error(part, labels)
        found["Brier, calibrated"] = brier_score(part, labels)
        found["coverage of prediction sets"] = float(covered[drawn].mean())
        for number, name in enumerate(CLASSES):
            own = labels == number
            found[f"{name} coverage"] = float(covered[drawn][own].mean()) if own.any() else None
        is_urgent = urgent[drawn]
        found["urgent sensitivity"] = float(alarm[drawn][is_urgent].mean())
        found["urgent specificity"] = float(1 - alarm[drawn][~is_urgent].mean())
        missed = ~deferred[drawn] & (joined["referrals"][drawn] != "urgent")
        found["urgent missed (answered, not urgent)"] = float(missed[is_urgent].mean())
        found["deferred"] = float(deferred[drawn].mean())
        found["called outliers"] = float((joined["outlier_scores"][drawn] > 1).mean())
        return found

    values = of(np.arange(len(truth)))
    intervals = bootstrap(patients.tolist(), of, resamples=resamples, seed=0)
    return {
        "scans": len(truth),
        "patients": len(set(patients.tolist())),
        "folds": [
            {"seed": row["seed"], "fold": row["fold"], "accuracy": fold_accuracy(row)}
            for row in rows
        ],
        "asked": {
            "coverage": float(rows[0]["coverage"]),
            "sensitivity": float(rows[0]["sensitivity"]),
        },
        "calibration_scans": [row["calibration_scans"].tolist() for row in rows],
        "confusion": confusion(said, truth, len(CLASSES)).tolist(),
        "figures": {
            name: {"value": value, "interval": intervals[name]} for name, value in values.items()
        },
    }


def to_markdown(found: dict[str, Any]) -> list[str]:
    """The figures as a table."""
    folds = [fold["accuracy"] for fold in found["folds"]]
    lines = [
        f"{found['scans']} predictions for scans of {found['patients']} patients in"
        f" {len(folds)} folds; accuracy of folds {np.mean(folds):.4f} +- {np.std(folds):.4f}"
        f" ({min(folds):.4f} to {max(folds):.4f})",
        "",
        f"coverage asked {found['asked']['coverage']:g},"
        f" urgent sensitivity asked {found['asked']['sensitivity']:g}",
        "",
        "| figure | value | 95 % interval over patients |",
        "|---|---|---|",
    ]
    for name, figure in found["figures"].items():
        ends = figure["interval"]
        told = "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
        value = "-" if figure["value"] is None else f"{figure['value']:.4f}"
        lines.append(f"| {name} | {value} | {told} |")
    lines += ["", "| label \\ prediction | " + " | ".join(CLASSES) + " |", "|---" * 5 + "|"]
    for name, row in zip(CLASSES, found["confusion"], strict=True):
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(command.run(main))
