"""Training as a function of values: no folder, no console, callbacks, an optimizer of one's own."""

from dataclasses import dataclass

import jax
import numpy as np
import optax
import pytest
from toy_model import ToyModel

from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import from_arrays
from oct_jax.data.strengths import Augment
from oct_jax.train.callbacks import Callback
from oct_jax.train.loop import train
from oct_jax.train.settings import finetune, frozen
from oct_jax.types import UserError

PREPROCESS = Preprocess(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
SMALL = {"batch_size": 8, "threads": 1, "augment": Augment(amount=0)}


@dataclass(frozen=True)
class ToyConfig:
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"

    def build(self):
        return ToyModel(dropout=self.dropout, dtype=self.dtype)

    def fold(self, variables):
        return variables, self


def scans(count=64):
    """Scans whose class is their brightness; every fourth is for validation."""
    rng = np.random.default_rng(0)
    labels = [number % 4 for number in range(count)]
    images = [(rng.integers(0, 20, (20, 20)) + 60 * label).astype(np.uint8) for label in labels]
    splits = ["val" if number % 16 < 4 else "train" for number in range(count)]
    return from_arrays(images, labels, splits=splits)


class Listener(Callback):
    def __init__(self, stop_after=None):
        self.started, self.steps, self.epochs, self.stop_after = [], [], [], stop_after

    def on_start(self, step, total_steps):
        self.started.append((step, total_steps))

    def on_step(self, report):
        self.steps.append(report)

    def on_epoch(self, metrics):
        self.epochs.append(metrics.epoch)
        return metrics.epoch == self.stop_after


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


def test_an_optimizer_of_ones_own_stands_in():
    config = ToyConfig()
    variables = config.build().init(0)
    settings = finetune(epochs=1, **SMALL)
    result = train(config, variables, scans(), PREPROCESS, settings, optimizer=optax.set_to_zero())
    jax.tree.map(np.testing.assert_array_equal, result.variables.params, variables.params)


def test_a_class_without_training_scans_is_refused():
    config = ToyConfig()
    whole = scans()
    three = from_arrays(
        [whole.read(index) for index in range(len(whole)) if whole.labels[index]],
        [label for label in whole.labels if label],
        splits=[r.split for r in whole.records if r.label != "CNV"],
    )
    with pytest.raises(UserError, match="1 of 4 classes have no training scans"):
        train(config, config.build().init(0), three, PREPROCESS, frozen(**SMALL))
