"""Compute type and dynamic loss scaling.

Parameters, BatchNorm statistics and the loss stay float32; `precision` is the type of
activations and matrix products. float16 alone has too small a range for gradients: its loss is
multiplied by a scale that grows while steps are finite and halves when one is not (Micikevicius
et al. 2018, "Mixed Precision Training", section 3.2).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, PyTree

Precision = Literal["float32", "bfloat16", "float16"]

INITIAL_SCALE = 2.0**15
GROWTH_INTERVAL = 2000  # finite steps before the scale doubles, as in torch.amp
LARGEST_SCALE = 2.0**24
PATIENCE = 25  # float16 steps that may be skipped in a row: from 2**15 down to 2**-10


def resolve_precision(name: Precision | Literal["auto"], platform: str) -> Precision:
    """`auto` is bfloat16 on a TPU or GPU and float32 on a CPU, where bfloat16 is emulated."""
    if name != "auto":
        return name
    return "float32" if platform == "cpu" else "bfloat16"


class LossScale(NamedTuple):
    """State of dynamic loss scaling; for float32 and bfloat16 the scale stays 1.

    Attributes:
      scale: what the loss is multiplied by before the gradient is taken.
      finite_steps: since the scale last changed.
      skipped: non-finite steps, all in all.
      skipped_in_a_row: non-finite steps since the last finite one.
    """

    scale: Float32[Array, ""]
    finite_steps: Int32[Array, ""]
    skipped: Int32[Array, ""]
    skipped_in_a_row: Int32[Array, ""]


def initial_scale(precision: Precision) -> LossScale:
    """The state before the first step."""
    # Arrays of their own, not one zero three times: a donated buffer may be given up only once.
    return LossScale(
        scale=jnp.asarray(INITIAL_SCALE if precision == "float16" else 1.0, jnp.float32),
        finite_steps=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )


def next_scale(state: LossScale, finite: Bool[Array, ""], precision: Precision) -> LossScale:
    """The state after a step: halve and count a non-finite one, double after a long finite run."""
    skipped = (~finite).astype(jnp.int32)
    counted = state._replace(
        skipped=state.skipped + skipped,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    if precision != "float16":
        return counted
    finite_steps = jnp.where(finite, state.finite_steps + 1, 0)
    grow = finite_steps >= GROWTH_INTERVAL
    grown = jnp.where(grow, jnp.minimum(state.scale * 2, LARGEST_SCALE), state.scale)
    return counted._replace(
        scale=jnp.where(finite, grown, state.scale / 2),
        finite_steps=jnp.where(grow, 0, finite_steps),
    )


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """True where no leaf holds an infinity or a NaN."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))


def has_failed(state: LossScale, precision: Precision) -> bool:
    """Whether a run should stop: float16 may skip a few steps in a row, the others none at all."""
    if precision == "float16":
        return int(state.skipped_in_a_row) > PATIENCE
    return int(state.skipped) > 0
