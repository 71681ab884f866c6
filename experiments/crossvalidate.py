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
from oct_jax.files import write_json
from oct_jax.metrics.folds import fold_accuracy, summarize_folds, to_markdown
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
    summary = summarize_folds(rows, KERMANY, int(given["resamples"]))
    write_json(out / "crossvalidation.json", summary | {"command": words})
    print("\n".join(to_markdown(summary, KERMANY)))


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


if __name__ == "__main__":
    sys.exit(command.run(main))
