"""One fold of an experiment: both stages on its split, calibration, answers to its test scans.

Each stage has its checkpoints in a folder, so that a fold that was stopped goes on where it was; a
fold that ended is one file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oct_jax.classifier import Classifier, classifier_of
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Scans
from oct_jax.decision.fit import fit_on_scans
from oct_jax.decision.rule import decide
from oct_jax.files import write_json
from oct_jax.model.inference import predict_source
from oct_jax.model.protocol import Pretrained, Variables, build, fingerprint_of
from oct_jax.runs.best import restore_best
from oct_jax.runs.checkpoints import open_checkpoints
from oct_jax.train import Callback, StageSettings, train
from oct_jax.train.settings import StageName

ENDED = "ended.json"
ANSWERS = "fold.npz"
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


def train_fold(
    fold: Fold,
    stages: Sequence[StageSettings],
    folder: Path,
    callbacks_of: Callable[[StageName], Sequence[Callback]] = lambda stage: (),
) -> dict[str, Any]:
    """Trains the stages one after the other, calibrates, and answers the test scans; once.

    Args:
      fold: with splits train, val, calibration and test.
      stages: in their order.
      folder: of the fold; what is in it already is not done again.
      callbacks_of: from the name of a stage to its callbacks.

    Returns:
      What `store_test` stores.
    """
    path = folder / ANSWERS
    if not path.exists():
        variables = fold.start.variables
        for settings in stages:
            callbacks = callbacks_of(settings.stage)
            variables = train_stage(fold, variables, settings, folder / settings.stage, callbacks)
        store_test(calibrated(fold, variables, stages[-1]), fold.scans, path)
    with np.load(path) as stored:
        return dict(stored)


def train_stage(
    fold: Fold,
    variables: Variables,
    settings: StageSettings,
    folder: Path,
    callbacks: Sequence[Callback] = (),
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
                callbacks=callbacks,
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
    config, task = fold.start.config, fold.scans.task
    classifier = classifier_of(config, variables, fold.preprocess, task=task)
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
    return classifier_of(config, variables, fold.preprocess, task=task, rule=rule)


def store_test(classifier: Classifier, scans: Scans, path: Path) -> None:
    """Stores what a calibrated classifier says of the test scans, as arrays by name.

    Of each scan: `paths`, `patients`, `truth`, `logits`, `probabilities`, `sets`, `referrals` (""
    in a task without tiers) and `outlier_scores`; of the fold: `urgent_threshold`, `coverage`,
    `sensitivity`, `calibration_scans` by class, `model`.
    """
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
        "referrals": [referral or "" for referral in decisions.referrals],
        "outlier_scores": decisions.outlier_scores,
        "urgent_threshold": rule.urgent_threshold,
        "coverage": rule.coverage,
        "sensitivity": rule.sensitivity,
        "calibration_scans": [rule.fitted_on["scans"].get(n, 0) for n in scans.task.classes],
        "model": fingerprint_of(classifier.variables),
    }
    beside = path.with_suffix(".part.npz")
    np.savez(beside, **values)
    beside.rename(path)
