"""The one inference form: BatchNorm folded, grey uint8 scans in, few compiled shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, UInt8

from oct_jax.arrays import AnyArray, Augmentation, ScanBatch
from oct_jax.data.preprocess import Preprocess, normalise
from oct_jax.data.scans import Scans
from oct_jax.data.strengths import Augment
from oct_jax.model.protocol import Model, Variables

# Batches are padded to one of these sizes, so that three programs are compiled, not one for
# every number of scans that a caller may come with.
BATCH_SIZES = (1, 8, 32)


class Outputs(NamedTuple):
    """What the model makes of scans.

    Attributes:
      logits: float32 (scans, classes), before the softmax.
      pooled: float32 (scans, channels), the feature map after global average pooling.
    """

    logits: Float32[AnyArray, "scans classes"]
    pooled: Float32[AnyArray, "scans channels"]


Results = TypeVar("Results", bound=tuple)
Forward: TypeAlias = Callable[[Variables, UInt8[AnyArray, "batch size size"]], Outputs]


def apply_model(
    model: Model,
    preprocess: Preprocess,
    variables: Variables,
    scans: UInt8[AnyArray, "batch size size"] | Float[AnyArray, "batch size size"],
) -> Outputs:
    """The model of resized grey scans: pure, for `jit`, `vmap` and `grad`.

    Args:
      model: its evaluation form runs.
      preprocess: mean and std of its input.
      variables: of the model.
      scans: grey, 0 to 255.
    """
    features, _ = model.features(variables, normalise(scans, preprocess), train=False)
    pooled = model.pool(features)[:, 0, 0].astype(jnp.float32)
    return Outputs(model.head(variables, features), pooled)


@functools.lru_cache(maxsize=8)
def make_forward(model: Model, preprocess: Preprocess) -> Forward:
    """The jitted function from resized grey scans to logits and pooled features."""

    return jax.jit(functools.partial(apply_model, model, preprocess))


def predict_all(forward: Forward, variables: Variables, batches: Iterable[ScanBatch]) -> Outputs:
    """Outputs for all scans of all batches, in order; no batch is above `BATCH_SIZES[-1]`."""
    variables = jax.device_put(variables)  # once: NumPy's arrays would go with every batch
    parts = []
    for batch in batches:
        outputs = forward(variables, pad_batch(batch))
        parts.append(first_rows(outputs, len(batch)))
    return join_rows(parts)


def first_rows(outputs: Results, count: int) -> Results:
    """The first rows of every array, on the host: what is left when padding is cut off."""
    return jax.tree.map(lambda output: np.asarray(output)[:count], outputs)


def join_rows(parts: Sequence[Results]) -> Results:
    """The rows of all parts, one below the other."""
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def batch_slices(count: int) -> Iterator[slice]:
    """Which of `count` scans each batch holds, in order; the last may be smaller."""
    size = BATCH_SIZES[-1]
    return (slice(start, start + size) for start in range(0, count, size))


def predict_source(
    model: Model,
    variables: Variables,
    source: Scans,
    preprocess: Preprocess,
    *,
    threads: int,
    every: int = 1,
) -> Outputs:
    """Outputs for the scans of a source, unaugmented, in its order.

    Args:
      model: the folded model.
      variables: its variables.
      source: at least one scan.
      preprocess: how scans are resized and normalised.
      threads: that read and resize scans.
      every: 1 for all scans, n for each n-th.
    """
    from oct_jax.data.loader import in_order  # imports Grain, which few scans do not need

    size = BATCH_SIZES[-1]
    batches = in_order(source, preprocess, batch_size=size, threads=threads, every=every)
    forward = make_forward(model, preprocess)
    return predict_all(forward, variables, batches)


def predict_views(
    model: Model,
    variables: Variables,
    source: Scans,
    preprocess: Preprocess,
    augment: Augment | Augmentation,
    *,
    views: int,
    threads: int,
    seed: int = 0,
) -> Outputs:
    """Outputs for augmented views: of every scan in order, then of every scan again.

    Args:
      model: the folded model.
      variables: its variables.
      source: at least one scan.
      preprocess: how scans are resized and normalised.
      augment: strengths of the augmentation, or a function in its place.
      views: of every scan.
      threads: that read and resize scans.
      seed: of the augmentation.
    """
    from oct_jax.data.loader import augmented_views  # imports Grain, which few scans do not need

    batches = augmented_views(
        source,
        preprocess,
        augment,
        views=views,
        batch_size=BATCH_SIZES[-1],
        seed=seed,
        threads=threads,
    )
    forward = make_forward(model, preprocess)
    return predict_all(forward, variables, (batch["image"] for batch in batches))


def padded_size(count: int) -> int:
    """The smallest of `BATCH_SIZES` that holds `count` scans."""
    return next(size for size in BATCH_SIZES if size >= count)


def pad_batch(scans: ScanBatch, size: int | None = None) -> UInt8[np.ndarray, "_padded size size"]:
    """Repeats the last scan up to `size`; None: to the next of `BATCH_SIZES`."""
    spare = (size or padded_size(len(scans))) - len(scans)
    return np.concatenate([scans, np.repeat(scans[-1:], spare, axis=0)])
