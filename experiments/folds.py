"""What experiments on folds share: train stages on a split, keep what they say of its test scans.

Training goes through the library: values in, a classifier out. Each stage has its checkpoints in a
folder, so that an experiment that was stopped goes on where it was; a fold that ended is one file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
from rich.console import Console

from oct_jax import Augment, Classifier, Preprocess, Scans, UserError, classifier_of
from oct_jax.data.manifest import Record
from oct_jax.data.scans import FileReader
from oct_jax.decision.fit import fit_on_scans
from oct_jax.decision.rule import decide
from oct_jax.files import read_json, write_json
from oct_jax.model.inference import predict_source
from oct_jax.model.protocol import Pretrained, Variables, build
from oct_jax.runs.best import restore_best
from oct_jax.runs.checkpoints import open_checkpoints
from oct_jax.task import KERMANY, Task
from oct_jax.train import Callback, EpochMetrics, StageSettings, finetune, frozen, train
from oct_jax.train.precision import resolve_precision
from oct_jax.train.settings import STAGES, StageName

ENDED = "ended.json"
THREADS = 2


@dataclass(frozen=True)
class Fold:
    """What the stages of a fold share.

    Attributes:
      scans: with their splits.
      start: the first variables, and their model.
      preprocess: from a scan to the model's input.
    """

    scans: Scans
    start: Pretrained
    preprocess: Preprocess


class Log(Callback):
    """Prints a row for each epoch, and every message."""

    def __init__(self, console: Console, stage: str) -> None:
        self.console, self.stage = console, stage

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self.console.print(
            f"{self.stage} {metrics.epoch}: loss {metrics.loss:.4f},"
            f" validation accuracy {metrics.val_accuracy:.4f}"
        )

    def on_message(self, line: str) -> None:
        self.console.print(line, markup=False)


def scans_of(records: Sequence[Record], root: Path, task: Task = KERMANY) -> Scans:
    """Image files under a folder, with the labels, patients and splits of their records."""
    reader = FileReader(root, tuple(record.path for record in records))
    return Scans(tuple(records), task, reader)


def stage_values(given: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The settings `frozen.x=y` and `finetune.x=y` as values x: y of each stage."""
    return {
        stage: {
            name.removeprefix(f"{stage}."): value
            for name, value in given.items()
            if name.startswith(f"{stage}.")
        }
        for stage in STAGES
    }


def read_stage(stage: StageName, values: Mapping[str, str], *, seed: int) -> StageSettings:
    """Settings of a stage from text: fields of `StageSettings`, and `augment.x` of `Augment`.

    Raises:
      UserError: no such setting, or a value that is not of its kind.
    """
    plain = {name: value for name, value in values.items() if "." not in name}
    strengths = {n.removeprefix("augment."): v for n, v in values.items() if "." in n}
    for names, kind in ((plain, StageSettings), (strengths, Augment)):
        known = {field.name for field in fields(kind)}
        if unknown := sorted(set(names) - known):
            raise UserError(f"{stage}: {unknown[0]}: not a setting of {kind.__name__}")
    precision = resolve_precision("auto", jax.default_backend())
    make = frozen if stage == "frozen" else finetune
    defaults = asdict(make(precision=precision, threads=THREADS, seed=seed))
    changed = defaults | plain | {"augment": defaults["augment"] | strengths}
    try:
        return msgspec.convert(changed, StageSettings, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{stage}: {error}") from error


def same_words(path: Path, words: dict[str, str]) -> None:
    """Refuses to mix folds that were trained with other settings."""
    if path.exists() and read_json(path) != words:
        raise UserError(f"{path.parent}: was begun with other settings; say another out=")
    write_json(path, words)


def train_stage(
    fold: Fold, variables: Variables, settings: StageSettings, folder: Path, console: Console
) -> Variables:
    """Trains a stage, or what is left of it, with its checkpoints in a folder.

    Returns:
      Variables of the best epoch.
    """
    config = fold.start.config
    if not (folder / ENDED).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with open_checkpoints(folder) as checkpoints:
            train(
                config,
                variables,
                fold.scans,
                fold.preprocess,
                settings,
                callbacks=[Log(console, settings.stage)],
                checkpoints=checkpoints,
                cache_folder=folder,
            )
        write_json(folder / ENDED, {})
    best, _ = restore_best(folder, build(config).shapes)
    return best


def calibrated(fold: Fold, variables: Variables, settings: StageSettings) -> Classifier:
    """The classifier of trained variables, its rule fitted on the calibration scans.

    Args:
      fold: that the variables were trained on.
      variables: of its last stage.
      settings: of that stage.
    """
    task = fold.scans.task
    classifier = classifier_of(fold.start.config, variables, fold.preprocess, task=task)
    rule = fit_on_scans(
        classifier.model,
        classifier.variables,
        fold.preprocess,
        train=fold.scans.select("train"),
        calibration=fold.scans.select("calibration"),
        augment=settings.augment,
        data="fold",
        threads=THREADS,
        task=task,
    )
    return classifier_of(fold.start.config, variables, fold.preprocess, task=task, rule=rule)


def store_test(classifier: Classifier, scans: Scans, path: Path) -> None:
    """Stores what a calibrated classifier says of the test scans."""
    test, rule = scans.select("test"), classifier.rule
    assert rule is not None, "not calibrated"
    outputs = predict_source(
        classifier.model, classifier.variables, test, classifier.preprocess, threads=THREADS
    )
    decisions = decide(rule, outputs)
    values: dict[str, Any] = {
        "paths": [record.path for record in test.records],
        "patients": test.patients,
        "truth": test.labels,
        "logits": outputs.logits,
        "probabilities": decisions.probabilities,
        "sets": decisions.sets,
        "referrals": decisions.referrals,
        "outlier_scores": decisions.outlier_scores,
        "urgent_threshold": rule.urgent_threshold,
        "coverage": rule.coverage,
        "sensitivity": rule.sensitivity,
        "calibration_scans": [rule.fitted_on["scans"].get(n, 0) for n in KERMANY.classes],
    }
    beside = path.with_suffix(".part.npz")
    np.savez(beside, **values)
    beside.rename(path)
