"""Phantoms: only the lesion tells the class, and every pixel hangs on the seed."""

import hashlib
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

from oct_jax.data.phantom import HEIGHT, draw_anatomy, phantom_scan, phantom_scans
from oct_jax.data.scans import Scans
from oct_jax.task import KERMANY
from oct_jax.types import SPLITS, UserError

seeds = st.integers(0, 2**32 - 1)
labels = st.sampled_from(KERMANY.classes)


def scan(label: str, seed: int):
    return phantom_scan(label, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def source() -> Scans:
    return phantom_scans(patients=24, seed=3)


@settings(max_examples=30)
@given(label=labels, seed=seeds)
def test_a_scan_and_its_mask_have_the_sizes_of_real_scans(label, seed):
    phantom = scan(label, seed)
    assert phantom.image.shape[0] == HEIGHT
    assert phantom.image.shape[1] in (512, 768, 1536)
    assert phantom.lesion.shape == phantom.image.shape
    assert phantom.lesion.dtype == bool


@settings(max_examples=30)
@given(label=labels, seed=seeds)
def test_every_class_but_normal_has_a_lesion_worth_seeing(label, seed):
    pixels = np.count_nonzero(scan(label, seed).lesion)
    if label == "NORMAL":
        assert pixels == 0
    else:
        assert 200 < pixels < 0.15 * HEIGHT * 512


@settings(max_examples=10)
@given(label=labels, seed=seeds)
def test_the_generator_decides_every_pixel(label, seed):
    first, second = scan(label, seed), scan(label, seed)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.lesion, second.lesion)
    assert (first.image.shape != scan(label, seed + 1).image.shape) or (
        first.image != scan(label, seed + 1).image
    ).any()


def test_scans_of_a_patient_share_the_anatomy_and_not_the_noise():
    anatomy = draw_anatomy(np.random.default_rng(0))
    scans = [phantom_scan("NORMAL", np.random.default_rng(k), anatomy).image for k in range(3)]
    assert len({image.shape for image in scans}) == 1
    assert len({image.tobytes() for image in scans}) == 3


@pytest.mark.parametrize("label", KERMANY.classes)
def test_the_picture_is_laid_out_like_a_retina(label):
    images = [scan(label, seed).image for seed in range(8)]
    for image in images:
        unbordered = np.where(image < 255, image, 0)
        profile = unbordered[:, 40:-40].mean(axis=1)
        assert 100 < profile.argmax() < 450  # the RPE
        assert profile[470:].mean() < profile.max() / 2  # faded below
        assert profile[:20].mean() < profile.max() / 2  # the vitreous


def test_cysts_are_dark_and_deposits_are_bright():
    def contrast(label, seed):
        phantom = scan(label, seed)
        rows, columns = np.nonzero(phantom.lesion)
        around = phantom.image[rows.min() - 12 : rows.max() + 12, columns.min() : columns.max()]
        return np.median(phantom.image[phantom.lesion]) - np.median(around)

    assert np.median([contrast("DME", seed) for seed in range(10)]) < -15
    assert np.median([contrast("DRUSEN", seed) for seed in range(10)]) > 15


def test_size_border_mean_and_contrast_do_not_tell_the_class():
    def shortcuts(image):
        white = image == 255
        borders = white[:8].mean(), white[-8:].mean(), white[:, :8].mean()
        return image.shape[1], image.mean(), image.std(), white.mean(), *borders

    numbers = np.arange(240)
    targets = numbers % len(KERMANY.classes)
    features = [
        shortcuts(scan(KERMANY.classes[target], seed).image)
        for seed, target in zip(numbers, targets, strict=True)
    ]
    forest = RandomForestClassifier(60, min_samples_leaf=4, random_state=0)
    assert cross_val_score(forest, features, targets, cv=5).mean() <= 0.45


def test_the_source_is_a_source(source):
    assert isinstance(source, Scans)
    assert len(source) == len(source.records) == len(source.labels)
    assert source.labels.dtype == np.int32
    assert [KERMANY.classes[k] for k in source.labels] == [
        record.label for record in source.records
    ]


def test_classes_are_balanced_and_patients_have_one_each(source):
    assert len(set(Counter(record.label for record in source.records).values())) == 1
    per_patient = Counter(record.patient for record in source.records)
    assert len(per_patient) == 24
    assert set(per_patient.values()) <= {1, 2, 3, 4}
    assert len({(record.patient, record.label) for record in source.records}) == 24


def test_records_say_what_is_read(source):
    for index in (0, len(source) // 2, len(source) - 1):
        record, image = source.records[index], source.read(index)
        assert (record.height, record.width) == image.shape
        assert record.bytes == image.nbytes
        assert record.sha256 == hashlib.sha256(image.tobytes()).hexdigest()
        assert record.path.startswith(f"{record.label}-{record.patient}-")
        assert source.lesion(index).any() == (record.label != "NORMAL")
    assert len({record.sha256 for record in source.records}) == len(source)


def test_splits_part_the_scans_and_never_a_patient(source):
    parts = [source.select(split) for split in SPLITS]
    assert sum(map(len, parts)) == len(source)
    patients = [{record.patient for record in part.records} for part in parts]
    assert sum(map(len, patients)) == len(set.union(*patients))
    chosen = parts[-1].records[0]
    where = source.records.index(chosen)
    np.testing.assert_array_equal(parts[-1].read(0), source.read(where))
    assert len(source.select("nothing")) == 0


def test_the_seed_fixes_the_data_set(source):
    again = phantom_scans(patients=24, seed=3)
    assert again == source == pickle.loads(pickle.dumps(source))
    other = phantom_scans(patients=24, seed=4)
    assert not {r.sha256 for r in other.records} & {r.sha256 for r in source.records}


def test_too_few_patients_are_the_users_to_mend():
    with pytest.raises(UserError, match="too few"):
        phantom_scans(patients=4, seed=0)
