"""The loss of every scan: class-weighted cross-entropy, or a function of one's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int

from oct_jax.arrays import AnyArray, LabelBatch

Loss: TypeAlias = Callable[[Any, Any], Any]
"""From logits, float32 (batch, classes), and labels, int32 (batch,), to the loss of every scan,
float (batch,). Pure, and traceable by JAX. The training step takes the mean over the batch. Many of
optax's losses fit as they are, for example `optax.softmax_cross_entropy_with_integer_labels`."""


def class_weights(
    labels: LabelBatch, *, classes: int, mode: Literal["balanced", "none"]
) -> Float32[np.ndarray, "classes"]:
    """The weight of every class in the loss.

    `balanced` is N / (K n_c) for N scans, K classes and n_c scans of class c (King and Zeng 2001;
    scikit-learn's rule): over the training set the classes then weigh the same, and the weights of
    the scans average 1, so that the learning rate keeps its meaning.

    Raises:
      ValueError: a class has no scan.
    """
    if mode == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise ValueError(f"class {int(np.argmin(counts))} has no training scan")
    return (len(labels) / (classes * counts)).astype(np.float32)


def weighted_cross_entropy(
    logits: Float[AnyArray, "batch classes"],
    labels: Int[AnyArray, "batch"],
    weights: Float[AnyArray, "classes"],
    *,
    label_smoothing: float,
) -> Float32[Array, "batch"]:
    """w[y] times the cross-entropy of the smoothed target, of every scan, in float32.

    The mean over a batch divides by the number of scans, not by the sum of their weights: it is
    then the mean of the means of the batch's parts, which makes micro-batches and device shards
    exact.

    Args:
      logits: before the softmax.
      labels: index of the true class.
      weights: of each class.
      label_smoothing: share s in [0, 1) of the target: (1 - s) one-hot + s / K (Szegedy et al.
        2016, section 7).
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    targets = optax.smooth_labels(targets, label_smoothing)
    losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)
    return jnp.asarray(weights)[labels] * losses


def class_weighted_loss(weights: Float[np.ndarray, "classes"], *, label_smoothing: float) -> Loss:
    """`weighted_cross_entropy` with fixed weights and smoothing: the default loss of a stage.

    Args:
      weights: of each class, as `class_weights` gives them.
      label_smoothing: see `weighted_cross_entropy`.
    """
    return functools.partial(
        weighted_cross_entropy, weights=weights, label_smoothing=label_smoothing
    )
