"""Features of the frozen backbone, computed once and kept on disk.

While the backbone is frozen, its features of a scan do not change: ten epochs through it compute
the same thing ten times. Here it runs once over a few augmented views of every scan, and the head
trains on what came out, memory-mapped (84,000 scans are 0.3 GB a view). Only the features after
global average pooling are kept: the head begins with that pooling, so it gives the same logits
for them as for the whole map.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32

from oct_jax.data.loader import augmented_views
from oct_jax.data.manifest import manifest_digest
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Scans
from oct_jax.data.strengths import Augment
from oct_jax.model.inference import BATCH_SIZES, make_forward, predict_all
from oct_jax.model.protocol import Model, Variables


def cached_views(
    folder: Path,
    model: Model,
    variables: Variables,
    source: Scans,
    preprocess: Preprocess,
    strengths: Augment,
    *,
    views: int,
    seed: int,
    threads: int,
) -> Float32[np.ndarray, "views scans channels"]:
    """Pooled features of augmented views of every scan, computed unless the cache has them.

    Args:
      folder: where the cache file lies; caches of other inputs in it are dropped.
      model: the folded model.
      variables: its variables.
      source: the scans.
      preprocess: how they are resized.
      strengths: how views are augmented.
      views: augmented versions of each scan.
      seed: of the augmentation.
      threads: that read and prepare scans.
    """
    key = _key(variables, source, preprocess, strengths, views, seed)
    path = folder / f"features-{key[:16]}.npy"
    if not path.exists():
        for stale in folder.glob("features-*.npy*"):
            stale.unlink()
        batches = augmented_views(
            source,
            preprocess,
            strengths,
            views=views,
            batch_size=BATCH_SIZES[-1],
            seed=seed,
            threads=threads,
        )
        forward = make_forward(model, preprocess)
        pooled = (
            np.asarray(predict_all(forward, variables, [batch["image"]]).pooled)
            for batch in batches
        )
        _write_rows(path, pooled, views * len(source))
    rows = np.load(path, mmap_mode="r")
    return rows.reshape(views, len(source), -1)


def _key(
    variables: Variables,
    source: Scans,
    preprocess: Preprocess,
    strengths: Augment,
    views: int,
    seed: int,
) -> str:
    """A hash of all that the features depend on."""
    inputs = {
        "data": manifest_digest(source.records),
        "preprocess": dataclasses.asdict(preprocess),
        "augment": dataclasses.asdict(strengths),
        "views": views,
        "seed": seed,
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    for leaf in jax.tree.leaves((variables.params["backbone"], variables.stats)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _write_rows(path: Path, parts: Iterable[np.ndarray], rows: int) -> None:
    """Writes arrays one below the other, beside `path`, then renames."""
    beside = path.with_suffix(".npy.part")
    written, target = 0, None
    for part in parts:
        if target is None:
            shape = (rows, part.shape[-1])
            target = np.lib.format.open_memmap(beside, mode="w+", dtype=part.dtype, shape=shape)
        target[written : written + len(part)] = part
        written += len(part)
    assert target is not None, "no scan to compute features of"
    target.flush()
    os.replace(beside, path)
