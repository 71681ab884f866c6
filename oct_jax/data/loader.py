"""From scans to batches: shuffled, augmented, sharded, resumable at any step.

Order and augmentation are functions of (seed, position): the stream that a run sees does not
depend on threads, on where it was interrupted, or on how many processes share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypedDict

import grain
import numpy as np
from jaxtyping import Float32, UInt8

from oct_jax.arrays import LabelBatch, ScanBatch
from oct_jax.data.augment import FINE, Augmentation, augment
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Scans
from oct_jax.data.strengths import Augment

# Training scans that take no more than this once resized are kept in memory: 5,300 of 448x448.
# Decoding and resizing one again in every epoch costs 2 ms of a core each time.
MEMORY_BYTES = 2**30


def check_resized(scans: Scans, preprocess: Preprocess) -> None:
    """Refuses scans that were resized for another preprocessing; any function here does so too.

    Raises:
      UserError: a training cache of another size, or resized in another way.
    """
    scans.reader.check(preprocess)


class Batch(TypedDict):
    """Resized grey scans (0 to 255) and their class indices: the arrays that a device is given.

    `Scans` are read one by one, at their full size, when they are needed; a batch is in memory.
    """

    image: ScanBatch
    label: LabelBatch


@dataclass(frozen=True)
class _ResizedScans:
    """A random-access view of scans that Grain can read: index -> resized scan, and its label.

    With a `memory`, every scan is read and resized once, and kept.
    """

    scans: Scans
    labels: np.ndarray | None
    preprocess: Preprocess
    memory: dict[int, np.ndarray] | None = None

    def __post_init__(self):
        check_resized(self.scans, self.preprocess)

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = {"image": self._remembered(int(index))}
        return image if self.labels is None else image | {"label": self.labels[index]}

    def _remembered(self, index: int) -> UInt8[np.ndarray, "size size"]:
        if self.memory is None:
            return self._read(index)
        # Two threads may both find a scan missing: they put the same pixels there.
        if index not in self.memory:
            self.memory[index] = self._read(index)
        return self.memory[index]

    def _read(self, index: int) -> UInt8[np.ndarray, "size size"]:
        return self.scans.read_resized(index, self.preprocess)


@dataclass(frozen=True)
class _CachedViews:
    """A random-access view of cached features: index -> all views of a scan, and its label."""

    features: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"feature": self.features[:, index], "label": self.labels[index]}


class _RandomView(grain.transforms.RandomMap):
    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        views = element["feature"]
        return {**element, "feature": views[rng.integers(len(views))][None, None]}


@dataclass(frozen=True)
class _RandomAugment(grain.transforms.RandomMap):
    augmentation: Augment | Augmentation
    size: int

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        return {**element, "image": augment(element["image"], rng, self.augmentation, self.size)}


def _fine(scans: Scans, preprocess: Preprocess) -> Preprocess:
    """How scans are resized that are augmented next: finer than the model's input.

    A training cache holds scans of the final size; `augment` enlarges them.

    Raises:
      UserError: as `check_resized`.
    """
    check_resized(scans, preprocess)
    if not scans.reader.full_size:
        return preprocess
    return replace(preprocess, size=FINE * preprocess.size)


def training_stream(
    scans: Scans,
    preprocess: Preprocess,
    augmentation: Augment | Augmentation,
    *,
    batch_size: int,
    seed: int,
    shard: int = 0,
    shards: int = 1,
) -> grain.MapDataset:
    """The endless stream of training batches, as a random-access Grain data set.

    Every run of `len(scans)` consecutive scans holds each scan once, in an order of its own; a
    batch may reach from one epoch into the next, so that none is dropped. Shard i of n holds the
    i-th of n equal parts of every batch: the shards, one behind the other, are the batch that one
    process alone would see.

    Args:
      scans: to train on.
      preprocess: how they are resized.
      augmentation: how they are augmented: strengths, or a function; see `augment`.
      batch_size: scans in a global batch; `shards` must divide it.
      seed: fixes order and augmentation.
      shard: index of this process.
      shards: number of processes.
    """
    fine = _fine(scans, preprocess)
    small = len(scans) * fine.size**2 <= MEMORY_BYTES
    resized = _ResizedScans(scans, scans.labels, fine, {} if small else None)
    stream = _endless(resized, seed).random_map(_RandomAugment(augmentation, preprocess.size))
    # Sharded last, so that a scan's random numbers hang on its global position; by whole parts of
    # a batch, so that it has the place in the batch, and the dropout, that one process gives it.
    return stream.batch(batch_size // shards, drop_remainder=True)[shard::shards]


def feature_stream(
    features: Float32[np.ndarray, "views scans channels"],
    labels: LabelBatch,
    *,
    batch_size: int,
    seed: int,
) -> grain.MapDataset:
    """`training_stream` over cached features: each time a scan comes up, one view of it is drawn.

    Yields `feature` of shape (batch, 1, 1, channels) and `label`.
    """
    stream = _endless(_CachedViews(features, labels), seed).random_map(_RandomView())
    return stream.batch(batch_size, drop_remainder=True)


def _endless(scans: _ResizedScans | _CachedViews, seed: int) -> grain.MapDataset:
    return grain.MapDataset.source(scans).seed(seed).shuffle().repeat()


def prefetch(stream: grain.MapDataset, *, threads: int) -> grain.DatasetIterator:
    """Reads ahead with threads (JPEG decoding, resizing and OpenCV release the GIL).

    A scan has a thread to itself; OpenCV's own threads would only get in the way, and commands turn
    them off. In a script of one's own, `cv2.setNumThreads(1)` does.

    The iterator's `get_state()` and `set_state()` give and take the position of the next batch
    that has not been handed out; batches read ahead are not lost.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(stream.to_iter_dataset(options))


def in_order(
    scans: Scans, preprocess: Preprocess, *, batch_size: int, threads: int, every: int = 1
) -> Iterator[ScanBatch]:
    """Each `every`-th scan in order, unaugmented; the last batch may be less."""
    resized = _ResizedScans(scans, None, preprocess)
    chosen = grain.MapDataset.source(resized)[::every]
    batches = chosen.batch(batch_size, drop_remainder=False)
    for batch in prefetch(batches, threads=threads):
        yield batch["image"]


def read_batch(scans: Scans, preprocess: Preprocess, *, at_most: int, threads: int) -> Batch:
    """All scans in one batch, unaugmented; each n-th where there are more than `at_most`."""
    every = max(-(-len(scans) // at_most), 1)
    empty = np.zeros((0, preprocess.size, preprocess.size), np.uint8)
    parts = in_order(scans, preprocess, batch_size=at_most, threads=threads, every=every)
    image = np.concatenate([empty, *(parts if len(scans) else ())])
    return {"image": image, "label": scans.labels[::every]}


def augmented_views(
    scans: Scans,
    preprocess: Preprocess,
    augmentation: Augment | Augmentation,
    *,
    views: int,
    batch_size: int,
    seed: int,
    threads: int,
) -> Iterator[Batch]:
    """Every scan in order, then every scan again, `views` times, augmented anew."""
    resized = _ResizedScans(scans, scans.labels, _fine(scans, preprocess))
    stream = grain.MapDataset.source(resized).seed(seed).repeat(views)
    stream = stream.random_map(_RandomAugment(augmentation, preprocess.size))
    yield from prefetch(stream.batch(batch_size, drop_remainder=False), threads=threads)
