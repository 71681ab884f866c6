"""The training loop of one stage: a function of values, without a folder or a console.

from oct_jax.train import finetune, frozen, train

result = train(model, variables, scans, preprocess, frozen())
result = train(model, result.variables, scans, preprocess, finetune(epochs=5))
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from oct_jax.data.augment import Augmentation
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Scans
from oct_jax.files import convert
from oct_jax.model.protocol import ModelConfig, Variables, build
from oct_jax.train.averaging import with_average
from oct_jax.train.callbacks import Callback, EpochMetrics, StepReport
from oct_jax.train.checkpointing import Checkpoints, InMemory
from oct_jax.train.feeds import Feed, feature_feed, image_feed
from oct_jax.train.loss import Loss, class_weighted_loss, class_weights
from oct_jax.train.optimizer import (
    describe_learning_rate,
    learning_rate_schedule,
    make_optimizer,
    of_trained_leaves,
    peak_learning_rate,
)
from oct_jax.train.precision import has_failed
from oct_jax.train.scoring import at_chance, is_best
from oct_jax.train.settings import StageSettings
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
from oct_jax.types import UserError

# Steps between two looks at the state: often enough to be live, rare enough not to stall a device.
STEPS_BETWEEN_LOOKS = 10


@dataclass(frozen=True)
class Trained:
    """What a stage ended with.

    Attributes:
      variables: of the best epoch, NumPy arrays in the unfolded form that a next stage begins from.
      best: metrics of that epoch.
      history: metrics of all epochs of the stage, those before it was resumed too.
    """

    variables: Variables
    best: EpochMetrics
    history: tuple[EpochMetrics, ...]


def train(
    model: ModelConfig,
    variables: Variables,
    scans: Scans,
    preprocess: Preprocess,
    settings: StageSettings,
    *,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss | None = None,
    augmentation: Augmentation | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: Checkpoints | None = None,
    cache_folder: Path | None = None,
) -> Trained:
    """Trains one stage, or what its checkpoints say is left of it.

    All that changes is in the checkpoint or is a function of (seed, step), so an interrupted stage
    resumes to the same bits.

    Args:
      model: of the variables; its dropout, dtype and remat are set from `settings`.
      variables: that the stage begins with, float32.
      scans: with splits `train` and `val`.
      preprocess: from a scan to the model's input.
      settings: of the stage.
      optimizer: any optax transformation in place of `oct_jax.train.optimizer.make_optimizer`:
        AdamW with the settings' learning rate, schedule, decay and clipping, which are then not
        used. It is given the leaves that the stage trains; the others keep every bit.
      loss: of every scan, in place of the class-weighted, smoothed cross-entropy; see
        `oct_jax.train.loss.Loss`. Validation always scores by cross-entropy.
      augmentation: in place of the random changes of `settings.augment`; see
        `oct_jax.data.augment.Augmentation`.
      callbacks: called at steps and epochs, and may end the stage early.
      checkpoints: None keeps the best variables in memory.
      cache_folder: where features of a frozen backbone are kept; None: a temporary folder.

    Raises:
      UserError: a class without training scans, no validation scans, a batch that the devices
        cannot share, or a loss that is not finite.
    """
    train_scans, val_scans = scans.select("train"), scans.select("val")
    check_scans(train_scans, val_scans, num_classes=build(model).num_classes)
    check_devices(settings)
    if checkpoints is None:
        checkpoints = InMemory()
    changes = settings.augment if augmentation is None else augmentation
    with contextlib.ExitStack() as stack:
        if settings.cache_features:
            folder = cache_folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            feed = feature_feed(
                model,
                variables,
                preprocess,
                settings,
                train=train_scans,
                val=val_scans,
                augmentation=changes,
                folder=folder,
            )
        else:
            feed = image_feed(
                model,
                preprocess,
                settings,
                train=train_scans,
                val=val_scans,
                augmentation=changes,
            )
        stage = _Stage(
            model,
            preprocess,
            settings,
            train_scans.labels,
            len(set(val_scans.patients)),
            feed,
            loss,
            optimizer,
        )
        history = _run_epochs(stage, variables, callbacks, checkpoints)
    best_variables, best = checkpoints.restore_best(build(model).shapes)
    return Trained(best_variables, convert(best, EpochMetrics, "best checkpoint"), history)


def check_scans(train_scans: Scans, val_scans: Scans, *, num_classes: int) -> None:
    """Raises UserError where a class has no training scan, or there is none to validate on."""
    counts = np.bincount(train_scans.labels, minlength=num_classes)
    if not counts.all():
        raise UserError(
            f"{int((counts == 0).sum())} of {num_classes} classes have no training scans: add some,"
            " or change the splits"
        )
    if not len(val_scans):
        raise UserError("no scans in the val split: add some, or change the splits")


def check_devices(settings: StageSettings) -> None:
    """Raises UserError where the devices cannot share a batch, or the processes a cache."""
    if settings.cache_features and jax.process_count() > 1:
        raise UserError("cache_features=on: must be auto or off where several processes train")
    parts = jax.device_count() * settings.accumulate
    if settings.batch_size % parts:
        raise UserError(
            f"batch_size={settings.batch_size}: must be a multiple of {parts},"
            f" devices ({jax.device_count()}) times accumulate ({settings.accumulate})"
        )


def trained_form(model: ModelConfig, settings: StageSettings) -> ModelConfig:
    """The form of a model that a stage trains; the variables fit all forms."""
    return dataclasses.replace(
        model, dropout=settings.dropout, dtype=settings.precision, remat=settings.remat
    )


@dataclass(frozen=True)
class _Stage:
    """What a stage trains with, all of it fixed before the first step."""

    model: ModelConfig
    preprocess: Preprocess
    settings: StageSettings
    labels: np.ndarray
    val_patients: int
    feed: Feed
    own_loss: Loss | None
    own_optimizer: optax.GradientTransformation | None

    def steps_until(self, epoch: int) -> int:
        """Steps after which all training scans were drawn `epoch` times; at least one an epoch.

        Where a batch has more scans than there are, an epoch draws some of them again.
        """
        return max(epoch, math.ceil(epoch * len(self.labels) / self.settings.batch_size))

    @property
    def total_steps(self) -> int:
        return self.steps_until(self.settings.epochs)

    @property
    def schedule(self) -> optax.Schedule | None:
        """Of the learning rate; None where only an optimizer of one's own knows it."""
        if self.own_optimizer is not None:
            return None
        return learning_rate_schedule(self.settings, self.total_steps)

    def learning_rate_line(self) -> str:
        """One line for a person: the peak learning rate, and why."""
        if self.own_optimizer is not None:
            return "learning rate: of an optimizer that was given"
        return describe_learning_rate(self.settings, self.total_steps)

    def optimizer(self) -> optax.GradientTransformation:
        """The default, or the one that was given, over what the stage trains."""
        if self.own_optimizer is not None:
            return of_trained_leaves(self.own_optimizer, self.settings.stage)
        return make_optimizer(
            self.settings, learning_rate_schedule(self.settings, self.total_steps)
        )

    def loss(self, num_classes: int) -> Loss:
        """The default, or the one that was given."""
        if self.own_loss is not None:
            return self.own_loss
        settings = self.settings
        weights = class_weights(self.labels, classes=num_classes, mode=settings.class_weights)
        return class_weighted_loss(weights, label_smoothing=settings.label_smoothing)


def _run_epochs(
    stage: _Stage,
    variables: Variables,
    callbacks: Sequence[Callback],
    checkpoints: Checkpoints,
) -> tuple[EpochMetrics, ...]:
    """Trains from the last checkpoint, or from `variables`, to the stage's end.

    The order in which things are restored and saved is what makes a killed run resume to the same
    bits. Restored: state, then position in the data, then the history. Saved at an epoch's end: the
    best variables, then the last state, whose history says they are best; then callbacks hear of
    it. A kill between any two repeats work that gives the same files again.

    Returns:
      Metrics of all epochs of the stage.
    """
    settings, batches = stage.settings, stage.feed.batches
    schedule, optimizer = stage.schedule, stage.optimizer()
    _tell(callbacks, stage.learning_rate_line())
    if settings.average_weights:
        optimizer = with_average(optimizer)
    step_function = _compile_step(stage, optimizer)
    mesh = data_mesh()
    key = run_key(settings.seed, mesh)

    state = replicate(initial_state(variables, optimizer, settings.precision), mesh)
    history: list[EpochMetrics] = []
    restored = checkpoints.restore_last(state, batches)
    if restored is not None:
        state, history = restored.state, _read_history(restored.meta)
        for line in restored.damaged:
            _tell(callbacks, f"warning: damaged checkpoint set aside: {line}")
        _tell(callbacks, f"resumes after step {int(state.step)} of {stage.total_steps}")
    for callback in callbacks:
        callback.on_start(int(state.step), stage.total_steps, tuple(history))

    while len(history) < settings.epochs:
        epoch = len(history) + 1
        began, first, last = time.monotonic(), int(state.step), stage.steps_until(epoch)
        for step in range(first + 1, last + 1):
            state = step_function(state, distribute(next(batches), mesh), key)
            if step % STEPS_BETWEEN_LOOKS == 0:
                _look(state, stage, callbacks)
            if step % settings.checkpoint_steps == 0 and step < last:
                checkpoints.save_last(step, state, batches, _stored(history))
        _look(state, stage, callbacks)
        step = int(state.step)
        loss, accuracy = _means(state)
        current = _current_variables(state, settings)
        validation = stage.feed.validate(current)
        metrics = EpochMetrics(
            epoch=epoch,
            step=step,
            loss=loss,
            accuracy=accuracy,
            val_loss=validation["loss"],
            val_accuracy=validation["accuracy"],
            val_balanced_accuracy=validation["balanced_accuracy"],
            learning_rate=float(np.asarray(schedule(step - 1))) if schedule else math.nan,
            skipped=int(state.loss_scale.skipped),
            images_per_second=(step - first) * settings.batch_size / (time.monotonic() - began),
        )
        state = state._replace(totals=replicate(empty_totals(), mesh))
        history.append(metrics)
        highest = max(row.val_balanced_accuracy for row in history)
        if is_best(metrics.val_balanced_accuracy, highest, stage.val_patients):
            checkpoints.save_best(step, current, dataclasses.asdict(metrics))
        checkpoints.save_last(step, state, batches, _stored(history))
        earlier = history[:-1]
        if _has_collapsed(metrics, stage) and not any(_has_collapsed(m, stage) for m in earlier):
            _tell(callbacks, _describe_collapse(metrics, stage))
        # A list: all are called, also where the first already wants to stop.
        wishes = [callback.on_epoch(metrics) for callback in callbacks]
        if any(wishes):
            break
    return tuple(history)


def _current_variables(state: TrainState, settings: StageSettings) -> Variables:
    """What the stage would end with now."""
    params = state.opt_state.average if settings.average_weights else state.params
    return Variables(params, state.stats)


def _stored(history: Sequence[EpochMetrics]) -> dict[str, Any]:
    """The history as JSON values, saved with the state that it led to."""
    return {"history": [dataclasses.asdict(metrics) for metrics in history]}


def _read_history(meta: dict[str, Any]) -> list[EpochMetrics]:
    remedy = "begin this stage anew with restart=true"
    rows = meta.get("history")
    return convert(rows, list[EpochMetrics], "history in the last checkpoint", remedy=remedy)


def _compile_step(stage: _Stage, optimizer: optax.GradientTransformation) -> TrainStep:
    settings, model = stage.settings, build(trained_form(stage.model, stage.settings))
    rules = StepRules(
        train_backbone=settings.stage == "finetune",
        update_statistics=settings.update_statistics,
        precision=settings.precision,
        accumulate=settings.accumulate,
        cached_features=settings.cache_features,
    )
    step = make_train_step(model, stage.preprocess, optimizer, stage.loss(model.num_classes), rules)
    return jit_step(step, data_mesh())


def _look(state: TrainState, stage: _Stage, callbacks: Sequence[Callback]) -> None:
    """Reports how training stands; stops a stage whose loss is no longer finite."""
    step, settings = int(state.step), stage.settings
    if has_failed(state.loss_scale, settings.precision):
        raise UserError(
            f"{settings.stage}: the loss is not finite near step {step} ({settings.precision},"
            f" {int(state.loss_scale.skipped)} steps skipped); lower the learning rate"
            f"{_peak_in_words(stage)} or use precision=float32"
        )
    report = StepReport(step, stage.total_steps, *_means(state))
    for callback in callbacks:
        callback.on_step(report)


def _has_collapsed(metrics: EpochMetrics, stage: _Stage) -> bool:
    """Whether the network is still, or again, at chance after a third of the epochs."""
    if metrics.epoch <= stage.settings.epochs / 3:
        return False
    classes = build(stage.model).num_classes
    return at_chance(metrics.val_balanced_accuracy, classes=classes, patients=stage.val_patients)


def _describe_collapse(metrics: EpochMetrics, stage: _Stage) -> str:
    settings = stage.settings
    return (
        f"warning: {settings.stage}: validation is at chance (balanced accuracy"
        f" {metrics.val_balanced_accuracy:.2f}) after epoch {metrics.epoch} of {settings.epochs}:"
        f" the network collapsed or has learnt nothing; train this stage anew with a lower"
        f" learning rate{_peak_in_words(stage)} or more warmup_epochs, and if the training loss"
        " never fell, check the labels"
    )


def _peak_in_words(stage: _Stage) -> str:
    if stage.own_optimizer is not None:
        return ""
    return f" (learning_rate={peak_learning_rate(stage.settings, stage.total_steps):.2g})"


def _tell(callbacks: Sequence[Callback], line: str) -> None:
    for callback in callbacks:
        callback.on_message(line)


def _means(state: TrainState) -> tuple[float, float]:
    """Mean loss and accuracy of the epoch so far; nan where all of its steps were skipped."""
    scans = int(state.totals.scans) or math.nan
    return float(state.totals.loss) / scans, int(state.totals.correct) / scans
