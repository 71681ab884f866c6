"""Patient-grouped k-fold cross-validation of the whole training, every scan tested once.

    python experiments/crossvalidate.py data=ROOT weights=FILE out=runs/cv folds=5 seeds=0 \
        frozen.epochs=30 finetune.learning_rate=1e-3 finetune.epochs=16

For each seed and fold it trains both stages on the split whose test scans are the fold, with the
library's defaults, and predicts the fold with its calibration. Words with `frozen.` or `finetune.`
are settings of that stage (fields of `StageSettings`). Run again with the same words, it goes on
where it was stopped. The figures are
over the predictions of all folds together, which come from as many models; intervals draw patients.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from folds import (
    Fold,
    calibrated,
    read_stage,
    same_words,
    scans_of,
    stage_values,
    store_test,
    train_stage,
)
from rich.console import Console

from oct_jax import UserError, load_backbone
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.data.kermany import list_scans
from oct_jax.data.split import grouped_folds
from oct_jax.decision.calibration import (
    brier_score,
    expected_calibration_error,
    softmax,
)
from oct_jax.files import write_json
from oct_jax.metrics.classification import bootstrap, confusion, figures
from oct_jax.task import KERMANY
from oct_jax.train.settings import STAGES


def main(words: list[str]) -> None:
    """Trains and predicts all folds, then writes and prints the figures."""
    given = read_words(words)
    out, root = Path(given["out"]), Path(given["data"]).expanduser()
    seeds = [int(seed) for seed in given["seeds"].split(",")]
    values = stage_values(given)
    console = Console(soft_wrap=True, highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    same_words(out / "words.json", {n: v for n, v in given.items() if n != "resamples"})
    records = list_scans(root).records
    rows = []
    for seed in seeds:
        for number, fold in enumerate(grouped_folds(records, int(given["folds"]), seed=seed)):
            folder = out / f"seed{seed}-fold{number}"
            if not (folder / "fold.npz").exists():
                start = load_backbone(weights=given["weights"], seed=seed)
                shared = Fold(scans_of(fold, root), start, start.preprocess())
                variables = start.variables
                for stage in STAGES:
                    settings = read_stage(stage, values[stage], seed=seed)
                    variables = train_stage(shared, variables, settings, folder / stage, console)
                classifier = calibrated(shared, variables, settings)
                store_test(classifier, shared.scans, folder / "fold.npz")
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
        [
            row["probabilities"][:, np.array(KERMANY.urgent)].sum(1) >= row["urgent_threshold"]
            for row in rows
        ]
    )
    covered = joined["sets"][np.arange(len(truth)), truth]
    deferred = joined["referrals"] == "defer"
    urgent = np.array(KERMANY.urgent)[truth]

    def of(drawn: np.ndarray) -> dict[str, float | None]:
        part, labels = said[drawn], truth[drawn]
        found = figures(part, labels, KERMANY.classes)
        found["ECE, uncalibrated"] = expected_calibration_error(
            softmax(joined["logits"][drawn]), labels
        )
        found["ECE, calibrated"] = expected_calibration_error(part, labels)
        found["Brier, calibrated"] = brier_score(part, labels)
        found["coverage of prediction sets"] = float(covered[drawn].mean())
        for number, name in enumerate(KERMANY.classes):
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
        "confusion": confusion(said, truth, len(KERMANY.classes)).tolist(),
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
    lines += ["", "| label \\ prediction | " + " | ".join(KERMANY.classes) + " |", "|---" * 5 + "|"]
    for name, row in zip(KERMANY.classes, found["confusion"], strict=True):
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(command.run(main))
