"""What a split by image is worth: the same model on the same test scans, with and without a leak.

    python experiments/leakage.py data=ROOT weights=FILE out=runs/leakage seeds=0,1,2

For each seed the scans are split by patient, as the package does. The leaking run has the same test
scans; its training set is as large and has as many scans of every class, but some of them are other
scans of test patients, as in a split by image. So that there are such scans, half of the scans of
each test patient with several are given up by the test set first. Only the frozen stage is trained,
which is enough to see a difference; `stages=both` trains both. Words with `frozen.` or `finetune.`
are settings of that stage.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from folds import Fold, read_stage, scans_of, stage_values, train_stage
from rich.console import Console

from oct_jax import KERMANY, Scans, UserError, classifier_of, load_backbone
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import Record
from oct_jax.data.split import split_records
from oct_jax.files import write_json
from oct_jax.metrics.classification import bootstrap
from oct_jax.train.settings import STAGES


def main(words: list[str]) -> None:
    """Trains under both splits and prints accuracy side by side."""
    given = {"out": "runs/leakage", "seeds": "0,1,2", "stages": "frozen"} | split_words(words)
    if not {"data", "weights"} <= given.keys():
        raise UserError("data= and weights=: are needed")
    out, root = Path(given["out"]), Path(given["data"]).expanduser()
    records = list_scans(root).records
    console = Console(soft_wrap=True, highlight=False)
    rows, right, patients = [], {"patient": [], "image": []}, []
    for seed in map(int, given["seeds"].split(",")):
        clean, leaking, tested = two_splits(split_records(records, seed=seed), seed)
        for kind, split in (("patient", clean), ("image", leaking)):
            folder = out / f"{kind}-seed{seed}"
            labels = predict(folder, scans_of(split, root), given, seed, console)
            right[kind] += [
                label == record.label for label, record in zip(labels, tested, strict=True)
            ]
        patients += [record.patient for record in tested]
        half = {kind: float(np.mean(hits[-len(tested) :])) for kind, hits in right.items()}
        rows.append({"seed": seed, "test_scans": len(tested)} | half)
    hits = {kind: np.array(values, float) for kind, values in right.items()}

    def of(drawn: np.ndarray) -> dict[str, float | None]:
        means = {kind: float(values[drawn].mean()) for kind, values in hits.items()}
        return means | {"difference": means["image"] - means["patient"]}

    ends = bootstrap(patients, of, resamples=2000, seed=0)
    values = of(np.arange(len(patients)))
    write_json(out / "leakage.json", {"seeds": rows, "values": values, "intervals": ends})
    print("| seed | test scans | trained on other patients | trained on some of these patients |")
    print("|---|---|---|---|")
    for row in rows:
        told = f"{row['patient']:.4f} | {row['image']:.4f}"
        print(f"| {row['seed']} | {row['test_scans']} | {told} |")
    low, high = ends["difference"] or (0.0, 0.0)
    print(f"\ndifference {values['difference']:+.4f} ({low:+.4f} to {high:+.4f}, over patients)")


def two_splits(
    by_patient: tuple[Record, ...], seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...], tuple[Record, ...]]:
    """A clean and a leaking split with the same test scans, and these scans.

    Returns:
      (clean, leaking, tested). The leaking one trains on the scans that test patients gave up, in
      place of as many training scans of the same class.
    """
    rng = np.random.default_rng(seed)
    scans_of = defaultdict(list)
    for record in by_patient:
        if record.split == "test":
            scans_of[record.patient].append(record)
    given_up = [record for scans in scans_of.values() for record in scans[: len(scans) // 2]]
    paths = {record.path for record in given_up}
    clean = tuple(record for record in by_patient if record.path not in paths)
    dropped = set()
    for label in KERMANY.classes:
        own = [one.path for one in clean if one.split == "train" and one.label == label]
        count = sum(record.label == label for record in given_up)
        dropped |= set(rng.permutation(own)[:count].tolist())
    moved = [replace(record, split="train") for record in given_up]
    leaking = tuple([record for record in clean if record.path not in dropped] + moved)
    return clean, leaking, tuple(record for record in clean if record.split == "test")


def predict(
    folder: Path, scans: Scans, given: dict[str, str], seed: int, console: Console
) -> list[str]:
    """Trains on a split and names the class of every test scan."""
    start = load_backbone(weights=given["weights"], seed=seed)
    shared = Fold(scans, start, start.preprocess())
    variables, values = start.variables, stage_values(given)
    for stage in STAGES if given["stages"] == "both" else STAGES[:1]:
        settings = read_stage(stage, values[stage], seed=seed)
        variables = train_stage(shared, variables, settings, folder / stage, console)
    classifier = classifier_of(start.config, variables, shared.preprocess)
    test = scans.select("test")
    return [prediction.label for prediction in classifier.predict(map(test.read, range(len(test))))]


if __name__ == "__main__":
    sys.exit(command.run(main))
