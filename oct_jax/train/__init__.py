"""Two-stage transfer learning as functions of values: batches and a model in, variables out.

from oct_jax.train import finetune, frozen, train
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oct_jax.train.callbacks import Callback, EpochMetrics, StepReport
    from oct_jax.train.checkpointing import Checkpoints
    from oct_jax.train.loop import Trained, train
    from oct_jax.train.loss import Loss
    from oct_jax.train.settings import StageSettings, finetune, frozen
    from oct_jax.train.step import StepRules, TrainState, initial_state, make_train_step

__all__ = [
    "Callback",
    "Checkpoints",
    "EpochMetrics",
    "Loss",
    "StageSettings",
    "StepReport",
    "StepRules",
    "TrainState",
    "Trained",
    "finetune",
    "frozen",
    "initial_state",
    "make_train_step",
    "train",
]

# Imported at first use, so that `python -m oct_jax.train --help` does not wait for JAX.
_HOMES = {
    "Callback": "callbacks",
    "Checkpoints": "checkpointing",
    "EpochMetrics": "callbacks",
    "Loss": "loss",
    "StageSettings": "settings",
    "StepReport": "callbacks",
    "StepRules": "step",
    "TrainState": "step",
    "Trained": "loop",
    "finetune": "settings",
    "frozen": "settings",
    "initial_state": "step",
    "make_train_step": "step",
    "train": "loop",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
