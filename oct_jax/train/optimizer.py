"""Who learns, and how fast: `optax.multi_transform` over labelled parameters."""

from __future__ import annotations

from typing import Literal

import jax
import optax
from jaxtyping import PyTree

from oct_jax.train.settings import StageSettings
from oct_jax.types import UserError

Label = Literal["frozen", "trainable"]

LABELS: dict[str, dict[str, Label]] = {
    "frozen": {"backbone": "frozen", "head": "trainable"},
    "finetune": {"backbone": "trainable", "head": "trainable"},
}


def label_parameters(params: PyTree, stage: str) -> PyTree:
    """A tree of `frozen` and `trainable` in the shape of `params`.

    The owner of a leaf is the first name on its path, `backbone` or `head`.

    Raises:
      UserError: a leaf belongs to neither.
    """
    labels = LABELS[stage]

    def label(path: tuple, _: object) -> Label:
        owner = path[0].key
        if owner not in labels:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise UserError(f"parameter {name}: its path must start with backbone or head")
        return labels[owner]

    return jax.tree_util.tree_map_with_path(label, params)


def learning_rate_schedule(settings: StageSettings, steps_per_epoch: float) -> optax.Schedule:
    """Linear warm-up from 0 to the peak, then cosine to 0 or constant; step -> learning rate."""
    peak = settings.learning_rate
    total = max(1, round(settings.epochs * steps_per_epoch))
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total - 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, total - warmup),
        "constant": optax.constant_schedule(peak),
    }[settings.schedule]
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(
    settings: StageSettings, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) on what the stage trains; frozen leaves keep no moments.

    Kernels decay, scales and biases do not: decay on a scale only changes the effective learning
    rate of the layer before it.
    """
    adamw = optax.adamw(schedule, weight_decay=settings.weight_decay, mask=_is_kernel)
    return optax.multi_transform(
        {"trainable": adamw, "frozen": optax.set_to_zero()},
        lambda params: label_parameters(params, settings.stage),
    )


def _is_kernel(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
