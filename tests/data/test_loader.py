"""The training stream: every scan once an epoch, resumable anywhere, the same for any sharding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.data import loader
from oct_jax.data.loader import (
    augmented_views,
    feature_stream,
    in_order,
    prefetch,
    training_stream,
)
from oct_jax.data.manifest import Record
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Reader, Scans
from oct_jax.data.strengths import Augment
from oct_jax.task import KERMANY

PREPROCESS = Preprocess(size=8, mean=(0.5,), std=(0.5,))
PLAIN = Augment(amount=0, flip=0)


class NumberedReader(Reader):
    """Scan i is a square of grey level i."""

    def read(self, row):
        return np.full((8, 8), row, np.uint8)


def numbered_scans(count):
    records = tuple(
        Record(f"{i:02}", KERMANY.classes[i % 4], str(i), "train", 8, 8, 64, f"{i:064x}")
        for i in range(count)
    )
    return Scans(records, KERMANY, NumberedReader())


def stream_of(count, batch_size, seed=0, strengths=PLAIN, **sharding):
    return training_stream(
        numbered_scans(count), PREPROCESS, strengths, batch_size=batch_size, seed=seed, **sharding
    )


def numbers(batch):
    return [int(image[0, 0]) for image in batch["image"]]


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


@given(count=st.integers(1, 40), batch_size=st.integers(1, 12), seed=st.integers(0, 5))
def test_every_epoch_holds_every_scan_once_with_its_label(count, batch_size, seed):
    stream = stream_of(count, batch_size, seed)
    batches = [stream[i] for i in range(-(-3 * count // batch_size))]
    drawn = [number for batch in batches for number in numbers(batch)]
    labels = [int(label) for batch in batches for label in batch["label"]]
    assert labels == [number % 4 for number in drawn]
    for epoch in range(3):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    drawn = [tuple(numbers(stream_of(30, 30, seed)[epoch])) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(drawn)) == 4


def test_scans_kept_in_memory_give_the_batches_of_scans_read_again(monkeypatch):
    reads = []
    monkeypatch.setattr(
        NumberedReader, "read", lambda self, i: reads.append(i) or np.full((8, 8), i, np.uint8)
    )
    kept = stream_of(10, 5, strengths=Augment())
    monkeypatch.setattr(loader, "MEMORY_BYTES", 0)
    again = stream_of(10, 5, strengths=Augment())
    assert all(same(kept[step], again[step]) for step in range(6))
    assert len(reads) == 10 + 30


@given(stop=st.integers(0, 12), threads=st.integers(1, 4))
def test_resumes_from_any_step_to_the_same_bits(stop, threads):
    stream = stream_of(10, 3, strengths=Augment())
    unbroken = prefetch(stream, threads=2)
    for _ in range(stop):
        next(unbroken)
    state = unbroken.get_state()
    resumed = prefetch(stream, threads=threads)
    resumed.set_state(state)
    for _ in range(3):
        assert same(next(resumed), next(unbroken))


@given(shards=st.sampled_from([2, 4]), step=st.integers(0, 20))
def test_shards_together_are_the_batch_of_one_process(shards, step):
    whole = stream_of(13, 8, strengths=Augment())[step]
    parts = [
        stream_of(13, 8, strengths=Augment(), shard=shard, shards=shards)[step]
        for shard in range(shards)
    ]
    for name in whole:
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, whole[name])


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_in_order_gives_every_scan_once_with_a_short_last_batch(count):
    batches = list(in_order(numbered_scans(count), PREPROCESS, batch_size=4, threads=2))
    assert [n for batch in batches for n in numbers({"image": batch})] == list(range(count))
    assert len(batches[-1]) == (count - 1) % 4 + 1
    third = in_order(numbered_scans(count), PREPROCESS, batch_size=4, threads=2, every=3)
    assert [n for batch in third for n in numbers({"image": batch})] == list(range(0, count, 3))


def test_views_differ_from_each_other_and_keep_the_order_of_the_scans():
    batches = augmented_views(
        numbered_scans(6), PREPROCESS, Augment(flip=0), views=2, batch_size=6, seed=0, threads=2
    )
    first, second = batches
    np.testing.assert_array_equal(first["label"], second["label"])
    assert not np.array_equal(first["image"], second["image"])


@given(seed=st.integers(0, 3))
def test_features_come_once_an_epoch_from_any_of_their_views(seed):
    features = np.arange(2 * 9, dtype=np.float32).reshape(2, 9, 1)
    stream = feature_stream(features, np.arange(9, dtype=np.int32), batch_size=9, seed=seed)
    drawn = set()
    for epoch in range(8):
        batch = stream[epoch]
        assert batch["feature"].shape == (9, 1, 1, 1)
        assert sorted(batch["label"]) == list(range(9))
        values = batch["feature"].reshape(-1)
        np.testing.assert_array_equal(values % 9, batch["label"])
        drawn |= set(values // 9)
    assert drawn == {0, 1}
