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
import inspect
import json
import os
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import jax
import numpy as np
from jaxtyping import Float32

from oct_jax.data.augment import Augmentation
from oct_jax.data.augment.reference import ReferenceAugmentation
from oct_jax.data.loader import augmented_views
from oct_jax.data.manifest import manifest_digest
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Scans
from oct_jax.data.strengths import Augment
from oct_jax.model.inference import BATCH_SIZES, make_forward, predict_all
from oct_jax.model.protocol import ModelConfig, Variables, build


def cached_views(
    folder: Path,
    config: ModelConfig,
    variables: Variables,
    source: Scans,
    preprocess: Preprocess,
    augmentation: Augment | Augmentation,
    *,
    views: int,
    seed: int,
    threads: int,
) -> Float32[np.ndarray, "views scans channels"]:
    """Pooled features of augmented views of every scan, computed unless the cache has them.

    Args:
      folder: where the cache file lies; caches of other inputs in it are dropped.
      config: of the folded model.
      variables: of the folded model.
      source: the scans.
      preprocess: how they are resized.
      augmentation: how views are augmented: strengths, or a function, of which no cache is used
        again, for nothing tells whether it is the same.
      views: augmented versions of each scan.
      seed: of the augmentation.
      threads: that read and prepare scans.
    """
    key = _key(config, variables, source, preprocess, augmentation, views, seed)
    path = folder / f"features-{key[:16]}.npy"
    if not path.exists():
        for stale in folder.glob("features-*.npy*"):
            stale.unlink()
        batches = augmented_views(
            source,
            preprocess,
            augmentation,
            views=views,
            batch_size=BATCH_SIZES[-1],
            seed=seed,
            threads=threads,
        )
        forward = make_forward(build(config), preprocess)
        pooled = (
            np.asarray(predict_all(forward, variables, [batch["image"]]).pooled)
            for batch in batches
        )
        _write_rows(path, pooled, views * len(source))
    rows = np.load(path, mmap_mode="r")
    return rows.reshape(views, len(source), -1)


def _key(
    config: ModelConfig,
    variables: Variables,
    source: Scans,
    preprocess: Preprocess,
    augmentation: Augment | Augmentation,
    views: int,
    seed: int,
) -> str:
    """A hash of all that the features depend on."""
    inputs = {
        "model": [dataclasses.asdict(config), _code_digest(config)],
        "data": manifest_digest(source.records),
        "preprocess": dataclasses.asdict(preprocess),
        "augment": _describe_augmentation(augmentation),
        "views": views,
        "seed": seed,
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode())
    for leaf in jax.tree.leaves((variables.params["backbone"], variables.stats)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _describe_augmentation(augmentation: Augment | Augmentation) -> object:
    if isinstance(augmentation, (Augment, ReferenceAugmentation)):
        return [type(augmentation).__name__, dataclasses.asdict(augmentation)]
    return uuid.uuid4().hex


def _code_digest(config: ModelConfig) -> str:
    """A hash of the modules that define a model; a new one each time where they have no source."""
    classes = (*type(config).__mro__, *type(build(config)).__mro__)
    digest = hashlib.sha256()
    for name in sorted({kind.__module__ for kind in classes} - {"builtins"}):
        try:
            source = inspect.getsource(sys.modules[name])
        except (OSError, TypeError, KeyError):  # of a notebook or an interactive session
            source = uuid.uuid4().hex
        digest.update(f"{name}\n{source}".encode())
    return digest.hexdigest()


def _write_rows(path: Path, parts: Iterable[np.ndarray], rows: int) -> None:
    """Writes arrays one below the other, beside `path`, then renames.

    Not through a memory map: a full disk would end the process with a bus error.

    Raises:
      OSError: they cannot be written; nothing of them is left.
    """
    beside = path.with_suffix(".npy.part")
    try:
        with beside.open("wb") as file:
            for number, part in enumerate(parts):
                if not number:
                    _write_header(file, (rows, part.shape[-1]), part.dtype)
                file.write(np.ascontiguousarray(part).tobytes())
        os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _write_header(file: IO[bytes], shape: tuple[int, int], dtype: np.dtype) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
