"""A disease that the model has never seen: is it deferred, and by which outlier score?

    python experiments/unseen.py data=OCT2017_SUBSET weights=FILE foreign=../shared/data \
        out=runs/unseen finetune.epochs=8 size=160

Each class in turn is left out: the other three are a task of their own, both stages are trained and
calibrated on them as `just train` does, and the scans of the class left out are then evaluated
beside the test scans of the known classes. A patient with a scan of the class left out trains
nothing. `run=RUN`, a run of all four classes, is evaluated too: on it a score must not defer more
of the known scans elsewhere (`noor_dev` and `uncurated_dev` in `foreign`), and must defer pictures
that show no retina. Features are kept in `out`; run again with the same words, it goes on where it
was stopped. Scores are in unseen_scores.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from elsewhere import foreign_scans
from folds import (
    THREADS,
    Fold,
    calibrated,
    read_stage,
    same_words,
    scans_of,
    stage_values,
    train_stage,
)
from rich.console import Console
from unseen_pictures import pictures_without_retina
from unseen_scores import report_of, to_markdown

from oct_jax import Classifier, Scans, UserError, load, load_backbone
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import Record
from oct_jax.data.preprocess import resize_scan
from oct_jax.data.readers import read_scan
from oct_jax.data.split import split_records
from oct_jax.data.strengths import Augment
from oct_jax.decision.fit import VIEWS
from oct_jax.files import write_json
from oct_jax.model.inference import (
    Outputs,
    batch_slices,
    make_forward,
    predict_all,
    predict_source,
    predict_views,
)
from oct_jax.runs.scans import open_run_scans
from oct_jax.task import KERMANY, Task
from oct_jax.train.settings import STAGES

Arrays = dict[str, Any]


def main(words: list[str]) -> None:
    """Trains what is not trained yet, then writes and prints the figures."""
    given = read_words(words)
    out = Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True, highlight=False)
    lasting = {name: value for name, value in given.items() if name not in ("run", "classes")}
    same_words(out / "words.json", lasting)
    for left in given["classes"].split(",") if given["classes"] else ():
        path = out / f"{left}.npz"
        if not path.exists():
            classifier, scans, unseen = train_without(left, given, out / left, console)
            store(path, features(classifier, scans, unseen, Path(given["foreign"])))
            console.print(f"{path}: {len(unseen)} unseen scans")
    if given["run"] and not (out / "all.npz").exists():
        scans = open_run_scans(Path(given["run"]))
        store(
            out / "all.npz",
            features(load(given["run"]), scans, scans.take([]), Path(given["foreign"])),
        )
    reports = {path.stem: report_of(dict(np.load(path))) for path in sorted(out.glob("*.npz"))}
    write_json(out / "unseen.json", reports)
    print("\n".join(to_markdown(reports)))


def read_words(words: list[str]) -> dict[str, str]:
    """The settings with their defaults; those of stages are checked by the stages."""
    classes = ",".join(KERMANY.classes)
    defaults = {"out": "runs/unseen", "run": "", "seed": "0", "size": "224", "classes": classes}
    given = defaults | split_words(words)
    known = (*defaults, "data", "weights", "foreign")
    for name in given:
        if name not in known and not name.startswith(("frozen.", "finetune.")):
            raise UserError(f"{name}: not a setting; {', '.join(known)}, frozen.*, finetune.*")
    for name in ("data", "weights", "foreign"):
        if name not in given:
            raise UserError(f"{name}=: is missing")
    return given


def without(left: str) -> Task:
    """Kermany's task without one of its classes."""
    infos = tuple(info for info in KERMANY.infos if info.name != left)
    return replace(KERMANY, name=f"kermany without {left}", infos=infos)


def train_without(
    left: str, given: dict[str, str], folder: Path, console: Console
) -> tuple[Classifier, Scans, Scans]:
    """A calibrated classifier of three classes, its scans, and those of the class left out."""
    root, seed = Path(given["data"]).expanduser(), int(given["seed"])
    records = list_scans(root).records
    unseen = [record for record in records if record.label == left]
    met = {record.patient for record in unseen}
    known = [record for record in records if record.patient not in met]
    start = load_backbone(weights=given["weights"], num_classes=3, seed=seed)
    scans = scans_of(split_records(known, seed=seed), root, without(left))
    shared = Fold(scans, start, start.preprocess(size=int(given["size"])))
    variables = start.variables
    for stage in STAGES:
        settings = read_stage(stage, stage_values(given)[stage], seed=seed)
        variables = train_stage(shared, variables, settings, folder / stage, console)
    return calibrated(shared, variables, settings), scans, scans_of(unseen, root)


def features(classifier: Classifier, scans: Scans, unseen: Scans, foreign: Path) -> Arrays:
    """Logits and pooled features of every set of scans, with labels and patients."""
    parts: Arrays = {"classes": classifier.task.classes}
    rule = classifier.rule
    assert rule is not None, "not calibrated"
    parts |= {
        "tiers": [tier or "" for tier in classifier.task.tiers],
        "temperature": rule.temperature,
        "set_thresholds": rule.set_thresholds,
        "urgent_threshold": rule.urgent_threshold,
        "no_retina": rule.outliers.no_retina / rule.outliers.threshold if rule.outliers else np.inf,
    }
    for split in ("train", "calibration", "test"):
        part = scans.select(split)
        parts |= _described(split, _outputs(classifier, part), part.records)
    calibration = scans.select("calibration")
    views = predict_views(
        classifier.model,
        classifier.variables,
        calibration,
        classifier.preprocess,
        Augment(),
        views=VIEWS,
        threads=THREADS,
    )
    parts |= _described("views", views, calibration.records * VIEWS)
    if len(unseen):
        parts |= _described("unseen", _outputs(classifier, unseen), unseen.records)
    for name, those in foreign_scans(foreign).items():
        outputs = _of_images(classifier, [read_scan(path) for path in those.paths])
        parts |= _with_names(name, outputs, those.labels, those.blocks)
    test = [scans.select("test").read(index) for index in range(len(scans.select("test")))]
    pictures = pictures_without_retina(test, np.random.default_rng(0))
    outputs = _of_images(classifier, [picture for _, picture in pictures])
    names = [name for name, _ in pictures]
    return parts | _with_names("pictures", outputs, names, names)


def store(path: Path, arrays: Arrays) -> None:
    """Writes arrays, whole or not at all."""
    beside = path.with_suffix(".part.npz")
    np.savez(beside, **arrays)
    beside.rename(path)


def _outputs(classifier: Classifier, scans: Scans) -> Outputs:
    return predict_source(
        classifier.model, classifier.variables, scans, classifier.preprocess, threads=THREADS
    )


def _of_images(classifier: Classifier, images: Sequence[np.ndarray]) -> Outputs:
    preprocess = classifier.preprocess
    batches = (
        np.stack([resize_scan(image, preprocess) for image in images[rows]])
        for rows in batch_slices(len(images))
    )
    forward = make_forward(classifier.model, preprocess)
    return predict_all(forward, classifier.variables, batches)


def _described(name: str, outputs: Outputs, records: Sequence[Record]) -> Arrays:
    labels = [record.label for record in records]
    return _with_names(name, outputs, labels, [record.patient for record in records])


def _with_names(
    name: str, outputs: Outputs, labels: Sequence[str], patients: Sequence[str]
) -> Arrays:
    return {
        f"{name}/logits": np.asarray(outputs.logits),
        f"{name}/pooled": np.asarray(outputs.pooled),
        f"{name}/labels": list(labels),
        f"{name}/patients": list(patients),
    }


if __name__ == "__main__":
    sys.exit(command.run(main))
