"""Scans with labels as one value: from arrays, chosen, split and read."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from oct_jax.data.loader import in_order, training_stream
from oct_jax.data.preprocess import Preprocess, resize_scan
from oct_jax.data.scans import from_arrays
from oct_jax.data.split import leaking_patients
from oct_jax.data.strengths import Augment
from oct_jax.task import OCTDL, ClassInfo, Task
from oct_jax.types import SPLITS, UserError

TASK = Task("three", (ClassInfo("healthy"), ClassInfo("hole"), ClassInfo("fluid")))
PREPROCESS = Preprocess(size=32, mean=(0.5,), std=(0.5,))
COUNT = 60


def make(**parts):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 24, 40), np.uint8)
    labels = np.arange(COUNT) % 3
    patients = [index // 2 * 3 + index % 3 for index in range(COUNT)]
    return from_arrays(images, labels, **{"task": TASK, "patients": patients} | parts)


def test_arrays_are_read_back_with_labels_and_patients():
    scans = make()
    assert len(scans) == COUNT
    assert scans.labels.tolist() == [index % 3 for index in range(COUNT)]
    assert scans.records[4].label == "hole"
    assert scans.patients[4] == "7"
    np.testing.assert_array_equal(
        scans.read_resized(5, PREPROCESS), resize_scan(scans.read(5), PREPROCESS)
    )
    assert scans.lesion(0) is None
    copy = pickle.loads(pickle.dumps(scans))
    assert copy.records == scans.records
    np.testing.assert_array_equal(copy.read(7), scans.read(7))


def test_names_do_for_labels_and_images_may_differ_in_size():
    images = [np.zeros((20, 30), np.uint8), np.zeros((40, 20), np.uint8)]
    scans = from_arrays(images, ["fluid", "healthy"], task=TASK, splits=["train", "test"])
    assert scans.labels.tolist() == [2, 0]
    assert scans.select("test").read(0).shape == (40, 20)
    assert scans.counts["train"] == {"healthy": 0, "hole": 0, "fluid": 1}


def test_splits_part_no_patient_and_keep_pixels_with_their_records():
    scans = make()
    split = scans.split_by_patient(seed=1)
    assert not leaking_patients(split.records)
    assert sum(len(split.select(name)) for name in SPLITS) == COUNT
    pixels = {record.sha256: scans.read(i) for i, record in enumerate(scans.records)}
    train = split.select("train")
    for index, record in enumerate(train.records):
        np.testing.assert_array_equal(train.read(index), pixels[record.sha256])
    with pytest.raises(UserError, match="not among these"):
        train.with_records([replace(scans.records[0], path="other")])


def test_the_loader_reads_arrays():
    train = make().split_by_patient().select("train")
    batch = training_stream(train, PREPROCESS, Augment(), batch_size=4, seed=0)[0]
    assert batch["image"].shape == (4, 32, 32)
    assert set(batch["label"].tolist()) <= {0, 1, 2}
    whole = np.concatenate(list(in_order(train, PREPROCESS, batch_size=7, threads=2)))
    np.testing.assert_array_equal(whole[3], train.read_resized(3, PREPROCESS))


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"patients": [1]}, "60 images and 1 patients"),
        ({"splits": ["train"] * 59 + ["training"]}, "splits: 'training'"),
        ({"patients": [""] * COUNT}, "array-00: its patient is empty"),
    ],
)
def test_mistakes_are_named(parts, line):
    with pytest.raises(UserError, match=line):
        make(**parts)


@pytest.mark.parametrize(
    ("image", "label", "line"),
    [
        (np.zeros((20, 20), np.float32), 0, "array-0: float32 of shape"),
        (np.zeros((20, 20, 3), np.uint8), 0, "array-0: uint8 of shape"),
        (np.zeros((1, 900), np.uint8), 0, "not a B-scan"),
        (np.zeros((20, 20), np.uint8), 3, "label 3: task three has classes 0 to 2"),
        (np.zeros((20, 20), np.uint8), "AMD", "class 'AMD'"),
    ],
)
def test_what_is_no_scan_or_no_class_is_refused(image, label, line):
    with pytest.raises(UserError, match=line):
        from_arrays([image], [label], task=TASK)


def test_labels_of_another_task_are_refused():
    with pytest.raises(UserError, match="60 scans have a label that is not of task octdl"):
        replace(make(), task=OCTDL)
