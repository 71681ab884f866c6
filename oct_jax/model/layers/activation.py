"""Activations and their derivatives."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation: TypeAlias = Literal["none", "relu", "hard_swish"]


def hard_swish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * relu6(x + 3) / 6 (Howard et al. 2019, section 5.2)."""
    # Looked up at call time: the ONNX exporter replaces this name with its HardSwish node.
    return jax.nn.hard_swish(x)


def activate(x: Float[Array, "..."], activation: Activation) -> Float[Array, "..."]:
    """Applies the named activation."""
    if activation == "relu":
        return jax.nn.relu(x)
    if activation == "hard_swish":
        return hard_swish(x)
    return x


def slope(z: Float[Array, "..."], activation: Activation) -> Float[Array, "..."]:
    """The derivative of the named activation at `z`, in the dtype of `z`."""
    if activation == "relu":
        return (z > 0).astype(z.dtype)
    if activation == "hard_swish":
        return jnp.where(z <= -3, 0, jnp.where(z >= 3, 1, (2 * z + 3) / 6)).astype(z.dtype)
    return jnp.ones_like(z)
