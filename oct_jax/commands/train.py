"""The training loop of one stage, from settings to a finished stage folder."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grain
import jax
import numpy as np
import optax
from jaxtyping import Float32, Int32
from rich.console import Console
from rich.progress import Progress
from sklearn.metrics import balanced_accuracy_score

from oct_jax.commands.settings import RUN_WIDE, TrainConfig
from oct_jax.data.datasets import PHANTOM, Data, open_data
from oct_jax.data.loader import check_source, feature_stream, prefetch, training_stream
from oct_jax.data.preprocess import Preprocess, normalise
from oct_jax.data.source import Source
from oct_jax.decision.fit import fit_on_scans
from oct_jax.decision.storage import read_rule, write_rule
from oct_jax.files import write_json
from oct_jax.model.backbones import DEFAULT, load_backbone
from oct_jax.model.fold import fold
from oct_jax.model.inference import predict_source
from oct_jax.model.protocol import ModelConfig, Pretrained, Variables, build, fingerprint_of
from oct_jax.runs.best import restore_best
from oct_jax.runs.checkpoints import Checkpoints, open_checkpoints
from oct_jax.runs.folder import (
    RunConfig,
    begin_run,
    begin_stage,
    check_resumable,
    has_run,
    provenance,
    read_run_config,
)
from oct_jax.runs.processes import is_writer, write_once
from oct_jax.runs.reporting import Reporter, draw_curves
from oct_jax.train.feature_cache import cached_views
from oct_jax.train.loss import class_weights, weighted_cross_entropy
from oct_jax.train.optimizer import learning_rate_schedule, make_optimizer
from oct_jax.train.precision import Precision, has_failed, resolve_precision
from oct_jax.train.step import (
    StepRules,
    TrainState,
    TrainStep,
    data_mesh,
    distribute,
    empty_totals,
    initial_state,
    jit_step,
    make_train_step,
    replicate,
    run_key,
)
from oct_jax.types import CLASSES, SPLITS, UserError

SYNTHETIC = "SYNTHETIC DATA: phantom scans made by the package; nothing here speaks of patients."
# Steps between two looks at the state: often enough to be live, rare enough not to stall a device.
STEPS_BETWEEN_LOOKS = 10
SETTLING_BATCHES = 40


Validate: TypeAlias = Callable[[Variables], dict[str, float]]


@dataclass(frozen=True)
class Stage:
    """What a stage trains with, all of it fixed before the first step.

    Attributes:
      config: the settings.
      run: what the stages of the run share.
      source: every scan of the run, with its split.
      train: the training scans.
      val: the validation scans.
      folder: the stage's own folder.
    """

    config: TrainConfig
    run: RunConfig
    source: Source
    train: Source
    val: Source
    folder: Path

    def steps_until(self, epoch: int) -> int:
        """Steps after which every training scan has been drawn `epoch` times."""
        return math.ceil(epoch * len(self.train) / self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole stage."""
        return self.steps_until(self.config.total_epochs)


def train(config: TrainConfig, console: Console) -> dict[str, Any]:
    """Trains one stage, or what is left of it.

    An interrupted stage goes on from its last checkpoint, to the same bits as if it had not been
    interrupted: all that changes is in the checkpoint or is a function of (seed, step).

    Args:
      config: as `run_folder.read_settings` gives it.
      console: where rows, progress and warnings go.

    Returns:
      The stage's summary, as in `summary.json`.

    Raises:
      UserError: a mistake in settings, data, weights or run folder, or a loss that is not finite.
    """
    if config.data == PHANTOM:
        console.print(SYNTHETIC, style="bold yellow")
    stage, variables = prepare(config, console)
    with open_checkpoints(stage.folder) as checkpoints:
        rows = run_epochs(stage, variables, checkpoints, console)
    return finish(stage, rows, console)


def prepare(config: TrainConfig, console: Console) -> tuple[Stage, Variables]:
    """Opens data and weights, then writes the run folder: after a mistake nothing is written."""
    folder = Path(config.run)
    check_resumable(folder, config)
    _check_devices(config)
    resumed = has_run(folder) and not (config.restart and config.stage == "frozen")
    data = _open_data(config, folder / "manifest.csv" if resumed else None, console)
    _check_splits(data.source)
    if config.stage == "finetune":
        run = read_run_config(folder)
        variables, best = restore_best(folder / "frozen", build(run.model).shapes)
        console.print(f"starts from the frozen stage's best checkpoint, epoch {best['epoch']}")
        _check_form(config, run)
    else:
        pretrained = _load_weights(config, console)
        run = _describe_run(config, pretrained)
        variables = pretrained.variables
        _check_form(config, run)
        if _weights_name(config) == "random":
            variables = settle_statistics(run, variables, data.source.select("train"), config)
        if not resumed:
            check_source(data.source, run.preprocess)
            origin = provenance(data.report, pretrained.source, config.seed)
            write_once(lambda: begin_run(folder, run, data.source.records, origin))
    write_once(lambda: begin_stage(folder, config))
    train_scans, val_scans = data.source.select("train"), data.source.select("val")
    stage = Stage(config, run, data.source, train_scans, val_scans, folder / config.stage)
    return stage, variables


def settle_statistics(
    run: RunConfig, variables: Variables, source: Source, config: TrainConfig
) -> Variables:
    """BatchNorm statistics of a fresh network, from its own activations on some training scans.

    They start as mean 0 and variance 1, which the activations of fresh layers are far from: in
    evaluation form, the form of a frozen backbone, every layer would shrink the signal until the
    features of all scans were the same.
    """
    if not jax.tree.leaves(variables.stats):
        return variables
    model = build(run.model)
    stream = training_stream(
        source, run.preprocess, config.augmentation, batch_size=config.batch_size, seed=config.seed
    )

    @jax.jit
    def settle(stats, scans):
        images = normalise(scans, run.preprocess)
        return model.features(Variables(variables.params, stats), images, train=True)[1]

    stats = variables.stats
    # Each keeps the momentum's share of the old: after 40 batches at 0.9, 1.5 % of the start.
    for batch in itertools.islice(prefetch(stream, threads=config.threads), SETTLING_BATCHES):
        stats = settle(stats, batch["image"])
    return Variables(variables.params, stats)


def run_epochs(
    stage: Stage, variables: Variables, checkpoints: Checkpoints, console: Console
) -> list[dict[str, Any]]:
    """Trains from the last checkpoint, or from `variables`, to the stage's end.

    The order in which things are restored and saved is what makes a killed run resume to the same
    bits. Restored: state, then position in the data, then the best score so far. Saved at an
    epoch's end: the best variables, then the last state that says they are best, then the row;
    a kill between any two repeats work that gives the same files again.

    Returns:
      A row of metrics for every epoch.
    """
    config = stage.config
    precision = resolve_precision(config.precision, jax.default_backend())
    schedule = learning_rate_schedule(config, len(stage.train) / config.batch_size)
    optimizer = make_optimizer(config, schedule)
    step_function = _compile_step(stage, optimizer, precision)
    mesh = data_mesh()
    key = run_key(config.seed, mesh)
    batches, validate = _feed(stage, variables, console)

    state = replicate(initial_state(variables, optimizer, precision), mesh)
    meta: dict[str, Any] = {"epoch": 0, "highest": 0.0}
    restored = checkpoints.restore_last(state, batches)
    if restored is not None:
        state, meta = restored.state, restored.meta
        for line in restored.damaged:
            console.print(f"warning: damaged checkpoint set aside: {line}", markup=False)
        console.print(f"resumes after step {int(state.step)} of {stage.total_steps}")

    reporter = Reporter(stage.folder, console, first_step=int(state.step), writes=is_writer())
    with reporter.progress(stage.total_steps, int(state.step)) as progress:
        while meta["epoch"] < config.total_epochs:
            epoch = meta["epoch"] + 1
            began, first = time.monotonic(), int(state.step)
            for step in range(first + 1, stage.steps_until(epoch) + 1):
                state = step_function(state, distribute(next(batches), mesh), key)
                if step % STEPS_BETWEEN_LOOKS == 0:
                    _look(state, stage, precision, progress)
                if step % config.checkpoint_steps == 0 and step < stage.steps_until(epoch):
                    checkpoints.save_last(step, state, batches, meta)
            step = int(state.step)
            _look(state, stage, precision, progress)
            scans = (step - first) * config.batch_size
            row = {
                "epoch": epoch,
                "step": step,
                **_mean_totals(state),
                **validate(Variables(state.params, state.stats)),
                "learning_rate": float(np.asarray(schedule(step - 1))),
                "skipped": int(state.loss_scale.skipped),
                "images_per_second": scans / (time.monotonic() - began),
            }
            state = state._replace(totals=replicate(empty_totals(), mesh))
            meta = {"epoch": epoch, "highest": max(meta["highest"], row["val_balanced_accuracy"])}
            if is_best(row["val_balanced_accuracy"], meta["highest"], len(stage.val)):
                checkpoints.save_best(step, Variables(state.params, state.stats), row)
            checkpoints.save_last(step, state, batches, meta)
            reporter.epoch(row)
    reporter.close()
    return reporter.rows


def is_best(balanced_accuracy: float, highest: float, scans: int) -> bool:
    """Whether an epoch replaces the best one: it is within a standard error of the highest.

    On some hundred validation scans the highest score is mostly luck, and often an early epoch's;
    of the epochs that cannot be told from it, the latest has the most annealed weights. This is
    the one-standard-error rule (Breiman et al. 1984, section 3.4.3), with later for simpler; the
    error is Agresti and Coull's (1998), which is not 0 where all scans were right. On thousands of
    scans it is the highest score itself.

    Args:
      balanced_accuracy: of this epoch, in [0, 1].
      highest: of the epochs so far, this one included.
      scans: that both were measured on.
    """
    likely = (highest * scans + 2) / (scans + 4)
    return balanced_accuracy >= highest - math.sqrt(likely * (1 - likely) / (scans + 4))


def score(
    run: RunConfig, variables: Variables, source: Source, *, threads: int
) -> dict[str, float]:
    """Scores of the folded model on every scan of a source; see `scores_of`.

    Every process scores all scans by itself, on its own first device.
    """
    folded, config = fold(jax.tree.map(np.asarray, variables), run.model)
    outputs = predict_source(build(config), folded, source, run.preprocess, threads=threads)
    return scores_of(np.asarray(outputs.logits), source.labels)


def scores_of(
    logits: Float32[np.ndarray, "scans classes"], labels: Int32[np.ndarray, "scans"]
) -> dict[str, float]:
    """Unweighted cross-entropy, accuracy, and balanced accuracy (the mean recall of classes)."""
    ones, predicted = np.ones(logits.shape[-1], np.float32), logits.argmax(-1)
    return {
        "loss": float(weighted_cross_entropy(logits, labels, ones, label_smoothing=0.0)),
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
    }


def finish(stage: Stage, rows: list[dict[str, Any]], console: Console) -> dict[str, Any]:
    """Fits the best checkpoint's decision rule, scores it on the test scans, draws the curves."""
    variables, best = restore_best(stage.folder, build(stage.run.model).shapes)
    _fit_rule(stage, variables, console)
    test = stage.source.select("test")
    summary = {
        "stage": stage.config.stage,
        "synthetic": stage.run.synthetic,
        "best_epoch": best["epoch"],
        "val": {name: best[f"val_{name}"] for name in ("loss", "accuracy", "balanced_accuracy")},
        "test": score(stage.run, variables, test, threads=stage.config.threads),
        "scans": {split: len(stage.source.select(split)) for split in SPLITS},
    }
    mark = " (SYNTHETIC DATA)" if stage.run.synthetic else ""
    if is_writer():
        write_json(stage.folder / "summary.json", summary)
        draw_curves(rows, stage.folder / "curves.png", title=f"{stage.folder}{mark}")
    console.print(
        f"{stage.config.stage}: best epoch {best['epoch']};"
        f" test accuracy {summary['test']['accuracy']:.4f},"
        f" balanced {summary['test']['balanced_accuracy']:.4f},"
        f" on {len(test)} scans of patients not trained on{mark}; {stage.folder}"
    )
    return summary


def _fit_rule(stage: Stage, variables: Variables, console: Console) -> None:
    """Calibrates the stage where there are calibration scans, and says so where there are none."""
    calibration = stage.source.select("calibration")
    if not len(calibration):
        console.print(
            "no calibration scans: probabilities stay uncalibrated, without referral;"
            " `just recalibrate data=FOLDER` fits them on scans of your own"
        )
        return
    folded, config = fold(jax.tree.map(np.asarray, variables), stage.run.model)
    earlier = read_rule(stage.folder)
    if earlier is not None and earlier.model == fingerprint_of(folded):
        return  # this very model's: perhaps fitted to scans of the user's own since
    rule = fit_on_scans(
        build(config),
        folded,
        stage.run.preprocess,
        train=stage.train,
        calibration=calibration,
        data=stage.config.data,
        threads=stage.config.threads,
    )
    if is_writer():
        write_rule(stage.folder, rule)


def _check_devices(config: TrainConfig) -> None:
    if config.cache_features == "on" and jax.process_count() > 1:
        raise UserError("cache_features=on: must be auto or off where several processes train")
    parts = jax.device_count() * config.accumulate
    if config.batch_size % parts:
        raise UserError(
            f"batch_size={config.batch_size}: must be a multiple of {parts},"
            f" devices ({jax.device_count()}) times accumulate ({config.accumulate})"
        )


def _check_splits(source: Source) -> None:
    """Training needs scans of every class to learn from, and some to choose the best epoch by."""
    counts = np.bincount(source.select("train").labels, minlength=len(CLASSES))
    absent = [name for name, count in zip(CLASSES, counts, strict=True) if not count]
    if absent:
        raise UserError(f"no training scans of {', '.join(absent)}: add some, or change the splits")
    for split in ("val", "test"):
        if not len(source.select(split)):
            raise UserError(f"no scans in the {split} split: add some, or change the splits")


def _open_data(config: TrainConfig, manifest: Path | None, console: Console) -> Data:
    data = open_data(
        config.data,
        manifest=manifest or (Path(config.manifest) if config.manifest else None),
        on_bad_scan=config.on_bad_scan,
        seed=config.seed,
        phantom_patients=config.phantom_patients,
    )
    for line in data.lines:
        console.print(line)
    return data


def _load_weights(config: TrainConfig, console: Console) -> Pretrained:
    name = _weights_name(config)
    pretrained = load_backbone(
        config.backbone,
        name,
        num_classes=len(CLASSES),
        seed=config.seed,
        variant=config.variant,
        width=config.width,
    )
    console.print(f"weights={name}: {pretrained.note}")
    return pretrained


def _describe_run(config: TrainConfig, pretrained: Pretrained) -> RunConfig:
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
    )


def _compile_step(
    stage: Stage, optimizer: optax.GradientTransformation, precision: Precision
) -> TrainStep:
    config, finetune = stage.config, stage.config.stage == "finetune"
    model = _trained_form(config, stage.run, precision)
    weights = class_weights(stage.train.labels, classes=len(CLASSES), mode=config.class_weights)
    rules = StepRules(
        train_backbone=finetune,
        update_statistics=finetune and _updates_statistics(config),
        label_smoothing=config.label_smoothing,
        precision=precision,
        accumulate=config.accumulate,
        cached_features=_caches_features(config),
    )
    step = make_train_step(build(model), stage.run.preprocess, optimizer, weights, rules)
    return jit_step(step, data_mesh())


def _trained_form(config: TrainConfig, run: RunConfig, precision: Precision) -> ModelConfig:
    return dataclasses.replace(
        run.model, dropout=config.dropout, dtype=precision, remat=config.remat
    )


def _check_form(config: TrainConfig, run: RunConfig) -> None:
    """Raises UserError where the model has no such form, or eats no such images."""
    precision = resolve_precision(config.precision, jax.default_backend())
    size = run.preprocess.size
    build(_trained_form(config, run, precision)).features_shape(size, size)


def _weights_name(config: TrainConfig) -> str:
    if config.weights != "auto":
        return config.weights
    if config.data == PHANTOM:
        return "random"
    return "timm" if config.backbone == DEFAULT else "keras"


def _updates_statistics(config: TrainConfig) -> bool:
    if config.batchnorm == "auto":
        return _weights_name(config) == "random"
    return config.batchnorm == "update"


def _feed(
    stage: Stage, variables: Variables, console: Console
) -> tuple[grain.DatasetIterator, Validate]:
    """The stage's training batches, and the function that scores variables for validation."""
    if _caches_features(stage.config):
        return _feature_feed(stage, variables, console)
    return _image_feed(stage)


def _caches_features(config: TrainConfig) -> bool:
    if config.stage == "finetune" or config.cache_features == "off":
        return False
    return config.cache_features == "on" or jax.process_count() == 1


def _image_feed(stage: Stage) -> tuple[grain.DatasetIterator, Validate]:
    config = stage.config
    stream = training_stream(
        stage.train,
        stage.run.preprocess,
        config.augmentation,
        batch_size=config.batch_size,
        seed=config.seed,
        shard=jax.process_index(),
        shards=jax.process_count(),
    )

    def validate(variables: Variables) -> dict[str, float]:
        return _as_validation(score(stage.run, variables, stage.val, threads=config.threads))

    return prefetch(stream, threads=config.threads), validate


def _feature_feed(
    stage: Stage, variables: Variables, console: Console
) -> tuple[grain.DatasetIterator, Validate]:
    """The same two over cached features; `variables` are of the backbone that stays frozen."""
    config, preprocess = stage.config, stage.run.preprocess
    folded, folded_config = fold(variables, stage.run.model)
    model = build(folded_config)
    console.print(
        f"features of {len(stage.train)} training scans, {config.views} views each, once:"
        f" the backbone is frozen (cache_features={config.cache_features})",
    )
    features = cached_views(
        stage.folder,
        model,
        folded,
        stage.train,
        preprocess,
        config.augmentation,
        views=config.views,
        seed=config.seed,
        threads=config.threads,
    )
    val = predict_source(model, folded, stage.val, preprocess, threads=config.threads).pooled
    head = jax.jit(lambda variables, pooled: model.head(variables, pooled[:, None, None]))

    def validate(variables: Variables) -> dict[str, float]:
        return _as_validation(scores_of(np.asarray(head(variables, val)), stage.val.labels))

    stream = feature_stream(
        features, stage.train.labels, batch_size=config.batch_size, seed=config.seed
    )
    return prefetch(stream, threads=1), validate


def _as_validation(scores: Mapping[str, float]) -> dict[str, float]:
    return {f"val_{name}": value for name, value in scores.items()}


def _look(state: TrainState, stage: Stage, precision: Precision, progress: Progress) -> None:
    """Shows how training stands; stops a run whose loss is no longer finite."""
    step = int(state.step)
    if has_failed(state.loss_scale, precision):
        raise UserError(
            f"{stage.folder}: the loss is not finite near step {step} ({precision},"
            f" {int(state.loss_scale.skipped)} steps skipped); lower learning_rate"
            f" ({stage.config.peak_learning_rate:g}) or use precision=float32"
        )
    means = _mean_totals(state)
    speed = progress.tasks[0].speed or 0
    progress.update(
        progress.task_ids[0],
        completed=step,
        state=f"loss {means['loss']:.3f}  accuracy {means['accuracy']:.3f}"
        f"  {speed * stage.config.batch_size:.0f} images/s",
    )


def _mean_totals(state: TrainState) -> dict[str, float]:
    totals = state.totals
    scans = max(int(totals.scans), 1)
    return {"loss": float(totals.loss) / scans, "accuracy": int(totals.correct) / scans}
