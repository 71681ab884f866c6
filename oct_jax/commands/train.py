"""`just train`: opens data and weights, trains a stage in its run folder, calibrates, scores."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from oct_jax.commands.parsing import flatten
from oct_jax.commands.settings import FREE_ON_RESUME, RUN_WIDE, TrainConfig
from oct_jax.commands.train_settings import (
    augmentation_of,
    check_run_wide,
    stage_settings,
    weights_name,
)
from oct_jax.data.datasets import PHANTOM, open_data
from oct_jax.data.loader import check_resized
from oct_jax.data.manifest import summarize
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Scans
from oct_jax.decision.fit import fit_on_scans
from oct_jax.decision.referral import NOT_REFERRED
from oct_jax.decision.storage import read_rule, write_rule
from oct_jax.files import write_json
from oct_jax.model.backbones import config_class, load_backbone
from oct_jax.model.fold import fold
from oct_jax.model.grid import measure_grid, read_grid, write_grid
from oct_jax.model.protocol import Model, Pretrained, Variables, build, fingerprint_of
from oct_jax.runs.best import restore_best
from oct_jax.runs.checkpoints import open_checkpoints
from oct_jax.runs.config import RunConfig, read_run_config
from oct_jax.runs.folder import (
    begin_run,
    begin_stage,
    check_resumable,
    check_startable,
    exclusive,
    has_run,
)
from oct_jax.runs.origin import read_origin, weights_trained_on
from oct_jax.runs.processes import is_writer, write_once
from oct_jax.runs.provenance import provenance
from oct_jax.runs.reporting import Reporter, draw_curves
from oct_jax.task import Task, task_or_folders
from oct_jax.train.feeds import settle_statistics
from oct_jax.train.loop import check_devices, train, trained_form
from oct_jax.train.scoring import score
from oct_jax.train.settings import StageSettings
from oct_jax.transfer import load_pretrained, model_file_of
from oct_jax.types import SPLITS, UserError

SYNTHETIC = "SYNTHETIC DATA: phantom scans made by the package; nothing here speaks of patients."


@dataclass(frozen=True)
class Stage:
    """A stage whose data and weights are open and whose folder is made.

    Attributes:
      config: as typed.
      settings: of the training loop.
      run: what the stages of the run share.
      scans: every scan of the run, with its split.
      variables: that the stage begins with.
      folder: the stage's own.
    """

    config: TrainConfig
    settings: StageSettings
    run: RunConfig
    scans: Scans
    variables: Variables
    folder: Path


def train_stage(config: TrainConfig, console: Console) -> dict[str, Any]:
    """Trains one stage in its run folder, or what is left of it.

    Args:
      config: as `read_settings` gives it.
      console: where rows, progress and warnings go.

    Returns:
      The stage's summary, as in `summary.json`.

    Raises:
      UserError: a mistake in settings, data, weights or run folder, or a loss that is not finite.
    """
    if config.data == PHANTOM:
        console.print(SYNTHETIC, style="bold yellow")
    with contextlib.ExitStack() as stack:
        write_once(lambda: stack.enter_context(exclusive(Path(config.run))))
        return _train_stage(config, console)


def _train_stage(config: TrainConfig, console: Console) -> dict[str, Any]:
    stage = open_stage(config, console)
    if stage.settings.cache_features:
        console.print(
            f"features of {len(stage.scans.select('train'))} training scans, {config.views} views"
            f" each, once: the backbone is frozen (cache_features={config.cache_features})"
        )
    batch_size = stage.settings.batch_size
    with (
        open_checkpoints(stage.folder) as checkpoints,
        Reporter(stage.folder, console, batch_size, writes=is_writer()) as reporter,
    ):
        train(
            stage.run.model,
            stage.variables,
            stage.scans,
            stage.run.preprocess,
            stage.settings,
            augmentation=augmentation_of(config),
            callbacks=[reporter],
            checkpoints=checkpoints,
            cache_folder=stage.folder,
        )
    return finish(stage, reporter.rows, console)


def open_stage(config: TrainConfig, console: Console) -> Stage:
    """Opens data and weights, then writes the run folder: after a mistake nothing is written."""
    folder = Path(config.run)
    typed = flatten(config)
    if not config.restart:
        defaults = flatten(TrainConfig(stage=config.stage))
        check_resumable(folder / config.stage, typed, defaults=defaults, free=FREE_ON_RESUME)
    check_startable(folder, restart=config.restart)
    settings = stage_settings(config)
    check_devices(settings)
    resumed = has_run(folder) and not (config.restart and config.stage == "frozen")
    task = read_run_config(folder).task if resumed else task_or_folders(config.task)
    data = _open_data(config, task, folder / "manifest.csv" if resumed else None, console)
    _check_splits(data)
    if not data.task.refers:
        console.print(f"task={config.task}: {NOT_REFERRED}", markup=False)
    if config.stage == "finetune":
        run = read_run_config(folder)
        check_run_wide(config, run.settings)
        variables, best = restore_best(folder / "frozen", build(run.model).shapes)
        console.print(f"starts from the frozen stage's best checkpoint, epoch {best['epoch']}")
        _check_form(settings, run)
    else:
        pretrained = _load_weights(config, data.task, console)
        run = _describe_run(config, data.task, pretrained)
        variables = pretrained.variables
        _check_form(settings, run)
        if weights_name(config) == "random":
            scans = data.select("train")
            variables = settle_statistics(run.model, variables, run.preprocess, settings, scans)
        if not resumed:
            check_resized(data, run.preprocess)
            origin = provenance(data.report, pretrained.source, config.seed)
            write_once(lambda: _report_aside(begin_run(folder, run, data.records, origin), console))
    write_once(
        lambda: _report_aside(
            begin_stage(folder, config.stage, typed, restart=config.restart), console
        )
    )
    _warn_of_overlap(folder, data, console)
    return Stage(config, settings, run, data, variables, folder / config.stage)


def _warn_of_overlap(folder: Path, data: Scans, console: Console) -> None:
    """Says so where the weights that the run began from have met scans that are to test it."""
    met = weights_trained_on(read_origin(folder))
    test = [record for record in data.records if record.split == "test"]
    known = [record.path for record in test if met.holds(record)]
    if known:
        console.print(
            f"warning: {len(known)} of {len(test)} test scans ({summarize(known)}) are of patients"
            " that the first weights were trained on: this run's figures on them are no evidence",
            markup=False,
        )


def _report_aside(aside: Path | None, console: Console) -> None:
    if aside is not None:
        console.print(f"what this replaces is kept in {aside}", markup=False)


def finish(stage: Stage, rows: Sequence[dict[str, Any]], console: Console) -> dict[str, Any]:
    """Fits the best checkpoint's decision rule, scores it on the test scans, draws the curves."""
    run, threads = stage.run, stage.settings.threads
    variables, best = restore_best(stage.folder, build(run.model).shapes)
    folded, folded_config = fold(variables, run.model)
    _fit_rule(stage, build(folded_config), folded, console)
    _measure_grid(stage, build(folded_config), folded)
    test = stage.scans.select("test")
    summary = {
        "stage": stage.config.stage,
        "synthetic": run.synthetic,
        "best_epoch": best["epoch"],
        "val": {name: best[f"val_{name}"] for name in ("loss", "accuracy", "balanced_accuracy")},
        "test": score(run.model, variables, test, run.preprocess, threads=threads),
        "scans": {split: len(stage.scans.select(split)) for split in SPLITS},
    }
    mark = " (SYNTHETIC DATA)" if run.synthetic else ""
    if is_writer():
        write_json(stage.folder / "summary.json", summary)
        draw_curves(list(rows), stage.folder / "curves.png", title=f"{stage.folder}{mark}")
    console.print(
        f"{stage.config.stage}: best epoch {best['epoch']};"
        f" test accuracy {summary['test']['accuracy']:.4f},"
        f" balanced {summary['test']['balanced_accuracy']:.4f},"
        f" on {len(test)} scans of patients not trained on{mark}; {stage.folder}",
        markup=False,
    )
    return summary


def _measure_grid(stage: Stage, model: Model, folded: Variables) -> None:
    """Stores where the trained network's heatmaps are to be drawn, unless that is known already."""
    if not is_writer() or read_grid(stage.folder, folded) is not None:
        return
    grid = measure_grid(model, folded, stage.run.preprocess)
    write_grid(stage.folder, grid, folded)


def _fit_rule(stage: Stage, model: Model, folded: Variables, console: Console) -> None:
    """Calibrates the stage where there are calibration scans, and says so where there are none."""
    calibration = stage.scans.select("calibration")
    if not len(calibration):
        console.print(
            "no calibration scans: probabilities stay uncalibrated, without referral;"
            " `just recalibrate data=FOLDER` fits them on scans of your own"
        )
        return
    earlier = read_rule(stage.folder)
    if earlier is not None and earlier.model == fingerprint_of(folded):
        return  # this very model's: perhaps fitted to scans of the user's own since
    rule = fit_on_scans(
        model,
        folded,
        stage.run.preprocess,
        train=stage.scans.select("train"),
        calibration=calibration,
        augment=augmentation_of(stage.config) or stage.settings.augment,
        data=stage.config.data,
        threads=stage.settings.threads,
        task=stage.run.task,
    )
    if is_writer():
        write_rule(stage.folder, rule)


def _check_splits(source: Scans) -> None:
    """Training needs scans of every class to learn from, and some to choose the best epoch by."""
    classes = source.task.classes
    counts = np.bincount(source.select("train").labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if absent:
        raise UserError(f"no training scans of {', '.join(absent)}: add some, or change the splits")
    for split in ("val", "test"):
        if not len(source.select(split)):
            raise UserError(f"no scans in the {split} split: add some, or change the splits")


def _open_data(
    config: TrainConfig, task: Task | None, manifest: Path | None, console: Console
) -> Scans:
    data = open_data(
        config.data,
        task=task,
        manifest=manifest or (Path(config.manifest) if config.manifest else None),
        on_bad_scan=config.on_bad_scan,
        seed=config.seed,
        phantom_patients=config.phantom_patients,
    )
    for line in data.lines:
        console.print(line)
    return data


def _load_weights(config: TrainConfig, task: Task, console: Console) -> Pretrained:
    name = weights_name(config)
    path = model_file_of(name)
    if path is not None:
        pretrained = load_pretrained(path, task, seed=config.seed)
        if not isinstance(pretrained.config, config_class(config.backbone)):
            raise UserError(f"weights={name}: not of backbone={config.backbone}; name its own")
    else:
        pretrained = load_backbone(
            config.backbone,
            name,
            num_classes=len(task.classes),
            seed=config.seed,
            variant=config.variant,
            width=config.width,
        )
    console.print(f"weights={name}: {pretrained.note}")
    return pretrained


def _describe_run(config: TrainConfig, task: Task, pretrained: Pretrained) -> RunConfig:
    return RunConfig(
        settings={name: getattr(config, name) for name in RUN_WIDE},
        model=dataclasses.replace(pretrained.config, dropout=config.dropout),
        preprocess=Preprocess(
            size=config.image_size,
            resize=config.resize,
            mean=pretrained.mean,
            std=pretrained.std,
        ),
        synthetic=config.data == PHANTOM,
        task=task,
    )


def _check_form(settings: StageSettings, run: RunConfig) -> None:
    """Raises UserError where the model has no such form, or takes no such images."""
    if settings.update_statistics and getattr(run.model, "folded", False):
        raise UserError(
            "batchnorm=update: the weights are a model file's, whose BatchNorm is folded into its"
            " convolutions; leave batchnorm=auto"
        )
    size = run.preprocess.size
    build(trained_form(run.model, settings)).features_shape(size, size)
