"""Training as a function of values: no folder, no console, callbacks, an optimizer of one's own."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_model import ToyConfig

from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import from_arrays
from oct_jax.data.strengths import Augment
from oct_jax.model.inference import predict_views
from oct_jax.model.protocol import Variables
from oct_jax.train import precision
from oct_jax.train.callbacks import Callback
from oct_jax.train.checkpointing import InMemory, Restored
from oct_jax.train.loop import train
from oct_jax.train.settings import finetune, frozen
from oct_jax.types import UserError

PREPROCESS = Preprocess(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
SMALL: dict[str, Any] = {"batch_size": 8, "threads": 1, "augment": Augment(amount=0)}


def scans(count=64):
    """Scans whose class is their brightness; every fourth is for validation."""
    rng = np.random.default_rng(0)
    labels = [number % 4 for number in range(count)]
    images = [(rng.integers(0, 20, (20, 20)) + 60 * label).astype(np.uint8) for label in labels]
    splits = ["val" if number % 16 < 4 else "train" for number in range(count)]
    return from_arrays(images, labels, splits=splits)


class Listener(Callback):
    def __init__(self, stop_after=None):
        self.started, self.steps, self.epochs, self.lines = [], [], [], []
        self.stop_after, self.history = stop_after, ()

    def on_start(self, step, total_steps, history):
        self.started.append((step, total_steps))
        self.history = history

    def on_step(self, report):
        self.steps.append(report)

    def on_epoch(self, metrics):
        self.epochs.append(metrics.epoch)
        return metrics.epoch == self.stop_after

    def on_message(self, line):
        self.lines.append((len(self.epochs), line))


def train_toy(settings, variables=None, count=64, **functions):
    """A toy trained from its start, and what a callback was told."""
    config, listener = ToyConfig(), Listener()
    variables = variables or config.build().init(0)
    result = train(
        config, variables, scans(count), PREPROCESS, settings, callbacks=[listener], **functions
    )
    return variables, result, listener


@pytest.fixture(scope="module")
def stages():
    """Both stages of a toy, the second from the first."""
    config, listener = ToyConfig(), Listener()
    variables = config.build().init(0)
    first = train(
        config, variables, scans(), PREPROCESS, frozen(epochs=4, learning_rate=0.05, **SMALL)
    )
    second = train(
        config,
        first.variables,
        scans(),
        PREPROCESS,
        finetune(epochs=3, learning_rate=0.02, **SMALL),
        callbacks=[listener],
    )
    return variables, first, second, listener


def test_the_frozen_stage_leaves_every_bit_of_the_backbone(stages):
    variables, first, second, _ = stages
    for tree in ("params", "stats"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(first.variables, tree)["backbone"],
            getattr(variables, tree)["backbone"],
        )
    before, after = first.variables.params["backbone"], second.variables.params["backbone"]
    assert not np.array_equal(before["kernel"], after["kernel"])


def test_it_learns_and_returns_the_history(stages):
    _, first, second, _ = stages
    assert [metrics.epoch for metrics in first.history] == [1, 2, 3, 4]
    assert second.best.val_accuracy > 0.5  # chance is 0.25
    assert second.best in second.history


def test_callbacks_hear_of_the_start_steps_and_epochs(stages):
    listener = stages[3]
    assert listener.started == [(0, 18)]
    assert listener.epochs == [1, 2, 3]
    assert listener.steps[-1].step == listener.steps[-1].total_steps == 18
    assert 0 <= listener.steps[-1].accuracy <= 1


def test_a_callback_ends_the_stage_early_and_all_are_told():
    listeners = [Listener(stop_after=1), Listener()]
    config = ToyConfig()
    result = train(
        config,
        config.build().init(0),
        scans(),
        PREPROCESS,
        frozen(epochs=4, **SMALL),
        callbacks=listeners,
    )
    assert [listener.epochs for listener in listeners] == [[1], [1]]
    assert len(result.history) == 1


class Kept(InMemory):
    """Checkpoints that outlive a call of `train`."""

    last: Any = None

    def save_last(self, step, state, batches, meta):
        self.last = jax.tree.map(jnp.copy, state), batches.get_state(), json.dumps(meta)

    def restore_last(self, state, batches):
        if self.last is None:
            return None
        batches.set_state(self.last[1])
        return Restored(self.last[0], json.loads(self.last[2]))


def test_a_kill_between_the_checkpoint_and_the_callbacks_loses_no_row():
    class Killed(Callback):
        def on_epoch(self, metrics):
            if metrics.epoch == 2:
                raise KeyboardInterrupt

    config, checkpoints, listener = ToyConfig(), Kept(), Listener()

    def resume(callback):
        settings = frozen(epochs=3, **SMALL)
        variables = config.build().init(0)
        return train(
            config,
            variables,
            scans(),
            PREPROCESS,
            settings,
            callbacks=[callback],
            checkpoints=checkpoints,
        )

    with pytest.raises(KeyboardInterrupt):
        resume(Killed())
    result = resume(listener)
    assert listener.started == [(12, 18)]
    assert [metrics.epoch for metrics in listener.history] == [1, 2]
    assert listener.epochs == [3]
    assert [metrics.epoch for metrics in result.history] == [1, 2, 3]
    checkpoints.last = (*checkpoints.last[:2], '{"epoch": 3}')
    with pytest.raises(UserError, match=r"history in the last checkpoint: damaged.*restart=true"):
        resume(listener)


def test_an_optimizer_of_ones_own_stands_in():
    config = ToyConfig()
    variables = config.build().init(0)
    settings = finetune(epochs=1, **SMALL)
    result = train(config, variables, scans(), PREPROCESS, settings, optimizer=optax.set_to_zero())
    jax.tree.map(np.testing.assert_array_equal, result.variables.params, variables.params)


def test_an_optimizer_of_ones_own_cannot_move_a_frozen_leaf():
    optimizer = optax.adamw(0.05, weight_decay=0.5)  # would decay the backbone without a gradient
    variables, result, listener = train_toy(frozen(epochs=1, **SMALL), optimizer=optimizer)
    for before, after in zip(variables, result.variables, strict=True):
        jax.tree.map(np.testing.assert_array_equal, before["backbone"], after["backbone"])
    assert (result.variables.params["head"]["kernel"] != variables.params["head"]["kernel"]).any()
    assert math.isnan(result.best.learning_rate)
    assert listener.lines[0] == (0, "learning rate: of an optimizer that was given")


def test_an_optimizer_that_wants_the_loss_is_given_it():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.99)
    optimizer = optax.chain(optax.sgd(0.1), plateau)
    _, result, _ = train_toy(finetune(epochs=2, **SMALL), optimizer=optimizer)
    assert result.history[-1].loss > 0


@pytest.mark.parametrize("stage", [frozen, finetune])
def test_a_loss_of_ones_own_takes_the_place_of_cross_entropy(stage):
    def squared_error(logits, labels):
        return jnp.sum((logits - jax.nn.one_hot(labels, 4)) ** 2, -1)

    settings = stage(epochs=1, learning_rate=1e-12, **SMALL)
    variables, result, _ = train_toy(settings, loss=squared_error)
    assert result.best.loss > 2 * result.best.val_loss  # the toy's logits are far from 0 and 1
    _, halved, _ = train_toy(settings, variables, loss=lambda *pair: squared_error(*pair) / 2)
    assert halved.best.loss == pytest.approx(result.best.loss / 2)
    assert halved.best.val_loss == pytest.approx(result.best.val_loss)


def blank(image, rng):
    assert image.dtype == np.uint8
    assert image.shape == (32, 32)  # twice the model's input of 16
    return np.zeros_like(image)


@pytest.mark.parametrize("stage", [frozen, finetune])
def test_an_augmentation_of_ones_own_takes_the_place_of_the_built_in_one(stage):
    _, result, _ = train_toy(stage(epochs=6, learning_rate=0.05, **SMALL), augmentation=blank)
    assert result.history[-1].accuracy < 0.5  # all scans are black: nothing to learn


def test_views_of_calibration_scans_take_an_augmentation_of_ones_own():
    config = ToyConfig()
    outputs = predict_views(
        config.build(), config.build().init(0), scans(8), PREPROCESS, blank, views=2, threads=1
    )
    logits = np.asarray(outputs.logits)
    assert logits.shape == (16, 4)
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[0], logits.shape))


def test_an_augmentation_that_changes_the_shape_or_dtype_is_refused():
    settings = finetune(epochs=1, **SMALL)
    for wrong, words in ((lambda image, _: image[1:], "shape"), (lambda i, _: i / 2, "float64")):
        with pytest.raises(UserError, match=f"augmentation: returned .*{words}"):
            train_toy(settings, augmentation=wrong)


def test_a_class_without_training_scans_is_refused():
    config = ToyConfig()
    whole = scans()
    three = from_arrays(
        [whole.read(index) for index in range(len(whole)) if whole.labels[index]],
        [int(label) for label in whole.labels if label],
        splits=[r.split for r in whole.records if r.label != "CNV"],
    )
    with pytest.raises(UserError, match="1 of 4 classes have no training scans"):
        train(config, config.build().init(0), three, PREPROCESS, frozen(**SMALL))


def test_the_learning_rate_is_reported_with_its_reason(stages):
    assert stages[3].lines == [(0, "learning_rate=0.02, as given")]


def test_a_network_at_chance_after_a_third_of_its_epochs_is_reported_once():
    params, stats = ToyConfig().build().init(0)
    head = {**params["head"], "bias": np.array([100, 0, 0, 0], np.float32)}
    blind = Variables(params | {"head": head}, stats)
    settings = frozen(epochs=6, learning_rate=1e-12, **SMALL)
    _, result, listener = train_toy(settings, blind)
    assert {metrics.val_balanced_accuracy for metrics in result.history} == {0.25}
    ((epochs_before, line),) = [message for message in listener.lines if "warning" in message[1]]
    assert epochs_before == 2  # reported with the third, the first after a third of six
    assert "at chance (balanced accuracy 0.25) after epoch 3 of 6" in line
    assert "lower learning rate (learning_rate=1e-12) or more warmup_epochs" in line


def test_an_epoch_whose_steps_were_all_skipped_has_no_loss(monkeypatch):
    monkeypatch.setattr(precision, "INITIAL_SCALE", 2.0**60)  # overflows float16 on the way back
    settings = finetune(epochs=2, learning_rate=0.02, precision="float16", **SMALL)
    variables, result, _ = train_toy(settings)
    assert [metrics.skipped for metrics in result.history] == [6, 12]
    assert all(math.isnan(metrics.loss) for metrics in result.history)
    assert all(math.isnan(metrics.accuracy) for metrics in result.history)
    jax.tree.map(np.testing.assert_array_equal, result.variables.params, variables.params)


def test_every_epoch_makes_a_step_where_a_batch_is_larger_than_the_set():
    settings = frozen(epochs=3, **{**SMALL, "batch_size": 32})
    _, result, _ = train_toy(settings, count=16)
    assert [metrics.step for metrics in result.history] == [1, 2, 3]
    assert all(metrics.loss > 0 for metrics in result.history)


def test_clipping_leaves_frozen_leaves_bit_identical():
    settings = frozen(epochs=2, learning_rate=0.05, clip_norm=1e-3, **SMALL)
    variables, result, _ = train_toy(settings)
    for before, after in zip(variables, result.variables, strict=True):
        jax.tree.map(np.testing.assert_array_equal, before["backbone"], after["backbone"])
    assert (result.variables.params["head"]["kernel"] != variables.params["head"]["kernel"]).any()
