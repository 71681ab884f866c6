"""Who learns, and how fast: `optax.multi_transform` over labelled parameters."""

from __future__ import annotations

import math
from typing import Literal

import jax
import optax
from jaxtyping import PyTree

from oct_jax.train.settings import StageSettings
from oct_jax.types import UserError

Label = Literal["frozen", "trainable"]

HEAD_RATE = 3e-3
"""Peak learning rate of the head alone."""
FEW_STEPS = (280, 3e-4)
"""Steps of a stage on a few hundred scans, and the rate that was measured to be right for it."""
MANY_STEPS = (39_000, 1e-5)
"""Steps of a stage on Kermany's release, and the customary rate for it."""

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


def automatic_learning_rate(stage: str, steps: int) -> float:
    """The peak learning rate where none is given.

    The head alone: 3e-3. Both parts: 3e-4 for stages of up to 280 steps, 1e-5 from 39,000 on, and
    between them the power law through these two points, 3e-4 (280 / steps) ** 0.69. The first is
    measured on a few hundred scans, the second is the customary rate for a set of Kermany's size
    (84,000 scans, 15 epochs in batches of 32); the line between them is an assumption.

    Args:
      stage: `frozen` or `finetune`.
      steps: of the whole stage, at least 1.
    """
    if stage == "frozen":
        return HEAD_RATE
    (few, high), (many, low) = FEW_STEPS, MANY_STEPS
    steps = min(max(steps, few), many)
    return high * (low / high) ** (math.log(steps / few) / math.log(many / few))


def peak_learning_rate(settings: StageSettings, steps: int) -> float:
    """The settings' learning rate, or the automatic one for a stage of so many steps."""
    if settings.learning_rate is not None:
        return settings.learning_rate
    return automatic_learning_rate(settings.stage, steps)


def describe_learning_rate(settings: StageSettings, steps: int) -> str:
    """One line for a person: the peak learning rate of a stage of so many steps, and why."""
    if settings.learning_rate is not None:
        return f"learning_rate={settings.learning_rate:g}, as given"
    peak = peak_learning_rate(settings, steps)
    if settings.stage == "frozen":
        return f"learning_rate=auto: {peak:.2g}, for the head alone"
    (few, high), (many, low) = FEW_STEPS, MANY_STEPS
    return (
        f"learning_rate=auto: {peak:.2g} for {steps:,} steps ({high:g} up to {few} steps,"
        f" less for more, {low:g} from {many:,} steps)"
    )


def learning_rate_schedule(settings: StageSettings, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to the peak, then cosine to 0 or constant; step -> learning rate.

    Args:
      settings: of the stage.
      steps: of the whole stage, at least 1.
    """
    peak, warmup = peak_learning_rate(settings, steps), _warmup_steps(settings, steps)
    if settings.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps)
    # A warm-up of no steps would stay at its first value, 0.
    return optax.warmup_constant_schedule(0.0 if warmup else peak, peak, warmup)


def _warmup_steps(settings: StageSettings, steps: int) -> int:
    """The epochs asked for, but at least `least_warmup_steps` or a quarter of the stage.

    With six steps of warm-up at 1e-3 a network collapsed.
    """
    if settings.warmup_epochs == 0:
        return 0
    asked = round(settings.warmup_epochs * steps / settings.epochs)
    return min(max(asked, min(settings.least_warmup_steps, steps // 4)), steps - 1)


def make_optimizer(
    settings: StageSettings, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) on what the stage trains; frozen leaves keep no moments.

    Kernels decay, scales and biases do not: decay on a scale only changes the effective learning
    rate of the layer before it. The gradient is clipped by its global norm (Pascanu et al. 2013)
    over the trained leaves alone; over frozen leaves as well it would need their backward pass.
    """
    trained = optax.adamw(schedule, weight_decay=settings.weight_decay, mask=_is_kernel)
    if settings.clip_norm > 0:
        trained = optax.chain(optax.clip_by_global_norm(settings.clip_norm), trained)
    return of_trained_leaves(trained, settings.stage)


def of_trained_leaves(
    optimizer: optax.GradientTransformation, stage: str
) -> optax.GradientTransformation:
    """An optimizer that sees and moves what a stage trains, and keeps every bit of the rest.

    Args:
      optimizer: any optax transformation.
      stage: `frozen` or `finetune`.
    """
    return optax.multi_transform(
        {"trainable": optimizer, "frozen": optax.set_to_zero()},
        lambda params: label_parameters(params, stage),
    )


def _is_kernel(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
