"""The one inference form: BatchNorm folded, grey uint8 scans in, few compiled shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float32, UInt8

from oct_jax.data.preprocess import Preprocess, normalise
from oct_jax.model.protocol import Model, Variables
from oct_jax.types import AnyArray, ScanBatch

# Batches are padded to one of these sizes, so that three programs are compiled, not one for
# every number of scans that a caller may come with.
BATCH_SIZES = (1, 8, 32)

Forward: TypeAlias = Callable[
    [Variables, UInt8[AnyArray, "batch size size"]], Float32[Array, "batch outputs"]
]


@functools.lru_cache(maxsize=8)
def make_logits(model: Model, preprocess: Preprocess) -> Forward:
    """The jitted function from resized grey scans to float32 logits, (batch, classes)."""

    @jax.jit
    def logits(variables, scans):
        images = normalise(scans, preprocess)
        features, _ = model.features(variables, images, train=False)
        return model.head(variables, features)

    return logits


@functools.lru_cache(maxsize=8)
def make_pooled_features(model: Model, preprocess: Preprocess) -> Forward:
    """The jitted function from resized grey scans to pooled features, (batch, channels)."""

    @jax.jit
    def pooled_features(variables, scans):
        images = normalise(scans, preprocess)
        features, _ = model.features(variables, images, train=False)
        return model.pool(features)[:, 0, 0]

    return pooled_features


def predict_all(
    forward: Forward, variables: Variables, batches: Iterable[ScanBatch]
) -> Float32[np.ndarray, "scans outputs"]:
    """Outputs for all scans of all batches, in order; no batch is above `BATCH_SIZES[-1]`."""
    parts = [forward(variables, pad_batch(batch))[: len(batch)] for batch in batches]
    return np.concatenate([np.asarray(part) for part in parts])


def pad_batch(scans: ScanBatch) -> UInt8[np.ndarray, "_padded size size"]:
    """Repeats the last scan up to the next of `BATCH_SIZES`."""
    size = next(size for size in BATCH_SIZES if size >= len(scans))
    return np.concatenate([scans, np.repeat(scans[-1:], size - len(scans), axis=0)])
