"""The mean of the weights over a stage's steps, which generalises better than the last ones.

Averages of weights lie in flatter minima (Izmailov et al. 2018), and are right more often on data
of another origin (Cha et al. 2021); experiments/README.md, "Scans of other hospitals", has what
they are worth here. The mean is part of the optimizer's state, so it is saved, sharded and
resumed with it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32, PyTree

POWER = 1
"""The weights after step t count t: half of the mean comes from the last three tenths of them."""


class AverageState(NamedTuple):
    """Of `with_average`.

    Attributes:
      inner: the optimizer's own state.
      steps: how many are in the mean.
      average: the mean, in the shape of the parameters.
    """

    inner: optax.OptState
    steps: Int32[Array, ""]
    average: PyTree


def with_average(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """The same optimizer, whose state also holds the mean of the parameters after each step.

    Step t moves the mean by 1 - (1 - 1/t)^(POWER + 1) of the way to the new parameters. That
    weighs step t by about t^POWER, whatever the number of steps to come (Karras et al. 2024,
    "Analyzing and improving the training dynamics of diffusion models", section 3.1). A leaf that
    does not change has itself as its mean, bit for bit.

    Args:
      optimizer: gives updates that are added to the parameters.
    """
    inner_optimizer = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> AverageState:
        return AverageState(
            inner_optimizer.init(params), jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params)
        )

    def update(
        updates: PyTree, state: PyTree, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, AverageState]:
        assert params is not None, "the mean is of the parameters"
        updates, inner = inner_optimizer.update(updates, state.inner, params, **extra)
        steps = state.steps + 1
        share = 1 - (1 - 1 / steps.astype(jnp.float32)) ** (POWER + 1)
        moved = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda mean, new: mean + share * (new - mean), state.average, moved)
        return updates, AverageState(inner, steps, average)

    return optax.GradientTransformationExtraArgs(init, update)
