"""What a split by image is worth: the same model, the same scans, two ways to split them.

    python experiments/leakage.py data=ROOT weights=FILE out=runs/leakage seeds=0,1,2

For each seed the scans are split by patient, as the package does, and by image, as most published
scores on this data are. Test sets have the same size. Only the frozen stage is trained (words with
`frozen.` are its settings), which is enough to see the difference: `stages=both` trains both.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from oct_jax.config import split_words
from oct_jax.data.kermany import OWN_GROUP, list_scans
from oct_jax.data.manifest import Record, write_manifest
from oct_jax.data.split import leaking_patients, split_records
from oct_jax.files import write_json
from oct_jax.train.loop import train
from oct_jax.train.run_folder import read_settings


def main(words: list[str]) -> None:
    """Trains under both splits and prints accuracy side by side."""
    given = {"out": "runs/leakage", "seeds": "0,1,2", "stages": "frozen"} | split_words(words)
    out, root = Path(given["out"]), Path(given["data"]).expanduser()
    extra = {
        stage: [
            f"{name.removeprefix(stage + '.')}={value}"
            for name, value in given.items()
            if name.startswith(f"{stage}.")
        ]
        for stage in ("frozen", "finetune")
    }
    records = list_scans(root).records
    console = Console(soft_wrap=True, highlight=False)
    rows = []
    for seed in map(int, given["seeds"].split(",")):
        by_patient = split_records(records, seed=seed)
        for kind, split in (
            ("patient", by_patient),
            ("image", by_image(records, by_patient, seed)),
        ):
            folder = out / f"{kind}-seed{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            # The package refuses a manifest that leaks: a split by image must not know patients.
            known = [replace(one, patient=OWN_GROUP + one.path) for one in split]
            write_manifest(known if kind == "image" else split, folder / "split.csv")
            trained = {record.patient for record in split if record.split == "train"}
            shared = sum(one.split == "test" and one.patient in trained for one in split)
            accuracy = score(folder, root, given["weights"], seed, given["stages"], extra, console)
            rows.append(
                {
                    "split": kind,
                    "seed": seed,
                    "accuracy": accuracy,
                    "test_scans_of_trained_patients": shared,
                    "leaking_patients": len(leaking_patients(split)),
                }
            )
    write_json(out / "leakage.json", rows)
    print("| split by | seed | test scans of patients trained on | test accuracy |")
    print("|---|---|---|---|")
    for row in rows:
        told = f"{row['test_scans_of_trained_patients']} | {row['accuracy']:.4f}"
        print(f"| {row['split']} | {row['seed']} | {told} |")
    means = {
        kind: np.mean([row["accuracy"] for row in rows if row["split"] == kind])
        for kind in ("patient", "image")
    }
    print(f"\nmean: by patient {means['patient']:.4f}, by image {means['image']:.4f}")


def by_image(
    records: tuple[Record, ...], like: tuple[Record, ...], seed: int
) -> tuple[Record, ...]:
    """Splits of the same sizes in every class, whatever the patients."""
    rng = np.random.default_rng(seed)
    split_of: dict[str, str] = {}
    for label in sorted({record.label for record in records}):
        own = [record.path for record in records if record.label == label]
        splits = [record.split for record in like if record.label == label]
        split_of |= dict(zip(rng.permutation(own).tolist(), splits, strict=True))
    return tuple(replace(record, split=split_of[record.path]) for record in records)


def score(
    folder: Path,
    root: Path,
    weights: str,
    seed: int,
    stages: str,
    extra: dict[str, list[str]],
    console: Console,
) -> float:
    """Test accuracy of the last stage that is trained."""
    run = f"run={folder / 'run'}"
    first = [f"data={root}", f"weights={weights}", f"manifest={folder / 'split.csv'}"]
    words = ["stage=frozen", run, *first, f"seed={seed}", *extra["frozen"]]
    summary = train(read_settings(words), console)
    if stages == "both":
        summary = train(read_settings(["stage=finetune", run, *extra["finetune"]]), console)
    return summary["test"]["accuracy"]


if __name__ == "__main__":
    main(sys.argv[1:])
