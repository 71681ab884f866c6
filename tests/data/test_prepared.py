"""A prepared folder gives the scans, and the batches, of the folder it was made from."""

import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_prepare import make, make_scans

from oct_jax.data.datasets import open_data
from oct_jax.data.loader import augmented_views, in_order, training_stream
from oct_jax.data.manifest import read_manifest, write_manifest
from oct_jax.data.prepared import open_prepared
from oct_jax.data.preprocess import Preprocess, resize_scan
from oct_jax.data.readers import read_scan
from oct_jax.data.strengths import Augment
from oct_jax.types import UserError

PREPROCESS = Preprocess(size=32, mean=(0.5,), std=(0.5,))
FORMS = ("records", "cache")


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, Path]:
    """The same scans as a folder, as records and as a cache."""
    root = tmp_path_factory.mktemp("forms")
    make_scans(root / "folder")
    make(root / "folder", root / "records")
    make(root / "records", root / "cache", cache=True, size=32)
    return {name: root / name for name in ("folder", *FORMS)}


def opened(folder, manifest=None):
    return open_data(
        str(folder), manifest=manifest, on_bad_scan="refuse", seed=0, phantom_patients=24
    )


def reading(source, form):
    return source.read if form == "records" else lambda i: source.read_resized(i, PREPROCESS)


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("form", FORMS)
def test_records_labels_and_splits_are_the_folder_s(forms, form):
    folder, prepared = opened(forms["folder"]), opened(forms[form])
    assert prepared.records == folder.records
    np.testing.assert_array_equal(prepared.labels, folder.labels)
    for split in ("train", "val", "calibration", "test"):
        assert prepared.select(split).records == folder.select(split).records


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_records_read_to_the_same_scans(forms, split):
    folder, prepared = (opened(forms[name]).select(split) for name in ("folder", "records"))
    for index in range(len(folder)):
        np.testing.assert_array_equal(prepared.read(index), folder.read(index))


def training_batch(folder, seed, shard, step):
    return training_stream(
        opened_once(folder).select("train"),
        PREPROCESS,
        Augment(),
        batch_size=6,
        seed=seed,
        shard=shard,
        shards=2,
    )[step]


@given(step=st.integers(0, 10), seed=st.integers(0, 3), shard=st.integers(0, 1))
def test_training_batches_of_records_are_the_folder_s_bit_for_bit(forms, step, seed, shard):
    one, other = (training_batch(forms[form], seed, shard, step) for form in ("folder", "records"))
    assert same(one, other)


@given(step=st.integers(0, 10), seed=st.integers(0, 3), shard=st.integers(0, 1))
def test_training_batches_of_a_cache_are_the_folder_s_but_for_fine_grain(forms, step, seed, shard):
    one, other = (training_batch(forms[form], seed, shard, step) for form in ("folder", "cache"))
    np.testing.assert_array_equal(one["label"], other["label"])
    away = np.abs(one["image"].astype(int) - other["image"])
    assert away.mean() < 12  # of 255: the cache holds scans of half the resolution


_opened = {}


def opened_once(folder):
    if folder not in _opened:
        _opened[folder] = opened(folder)
    return _opened[folder]


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_batches_are_the_folder_s_bit_for_bit(forms, form):
    one, other = (
        in_order(opened(forms[name]), PREPROCESS, batch_size=7, threads=2)
        for name in ("folder", form)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "other", [replace(PREPROCESS, size=64), replace(PREPROCESS, resize="letterbox")]
)
def test_a_cache_is_refused_for_any_other_preprocessing(forms, other):
    source = opened(forms["cache"])
    line = "made with size=32 resize=squash, not size="
    with pytest.raises(UserError, match=line):
        training_stream(source, other, Augment(), batch_size=2, seed=0)
    with pytest.raises(UserError, match=line):
        next(in_order(source, other, batch_size=2, threads=1))
    with pytest.raises(UserError, match=line):
        next(augmented_views(source, other, Augment(), views=1, batch_size=2, seed=0, threads=1))
    with pytest.raises(UserError, match="without full-size scans"):
        source.read(0)


@pytest.mark.parametrize("form", FORMS)
def test_sources_pickle_and_are_read_from_many_threads(forms, form):
    source = pickle.loads(pickle.dumps(opened(forms[form])))
    read = reading(source, form)
    with ThreadPoolExecutor(8) as pool:
        scans = list(pool.map(read, [index % len(source) for index in range(400)]))
    for index, scan in enumerate(scans):
        np.testing.assert_array_equal(scan, scans[index % len(source)])


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_made_anew_is_read_anew(forms, form, tmp_path):
    shutil.copytree(forms[form], tmp_path / "prepared")
    earlier = opened(tmp_path / "prepared")
    reading(earlier, form)(0)
    shutil.rmtree(tmp_path / "prepared")
    make_scans(tmp_path / "folder", patients=9)
    make(tmp_path / "folder", tmp_path / "records")
    if form == "cache":
        make(tmp_path / "records", tmp_path / "prepared", cache=True, size=32)
    else:
        (tmp_path / "records").rename(tmp_path / "prepared")
    source = opened(tmp_path / "prepared")
    assert len(source) == 36
    for index, record in enumerate(source.records):
        scan = read_scan(tmp_path / "folder" / record.path)
        expected = scan if form == "records" else resize_scan(scan, PREPROCESS)
        np.testing.assert_array_equal(reading(source, form)(index), expected)
    if form == "cache":
        with pytest.raises(UserError, match="made anew while it was read"):
            earlier.read_resized(0, PREPROCESS)


@pytest.mark.parametrize("form", FORMS)
def test_a_manifest_chooses_scans_and_splits_of_a_prepared_folder(forms, form, tmp_path):
    records = read_manifest(forms[form] / "manifest.csv")
    chosen = [replace(record, split="train") for record in records[::3]]
    write_manifest(chosen, tmp_path / "chosen.csv")
    some, whole = opened(forms[form], tmp_path / "chosen.csv"), opened(forms[form])
    assert some.records == tuple(chosen)
    for index in range(len(some)):
        scans = reading(some, form)(index), reading(whole, form)(3 * index)
        np.testing.assert_array_equal(*scans)
    write_manifest([replace(chosen[0], sha256="0" * 64)], tmp_path / "other.csv")
    with pytest.raises(UserError, match="lacks 1 scans"):
        opened(forms[form], tmp_path / "other.csv")


@pytest.mark.parametrize("form", FORMS)
def test_a_manifest_that_leaks_is_refused_for_a_prepared_folder_too(forms, form, tmp_path):
    first, *rest = read_manifest(forms[form] / "manifest.csv")
    other = next(record for record in rest if record.split != first.split)
    write_manifest([replace(first, patient=other.patient), *rest], tmp_path / "leaky.csv")
    with pytest.raises(UserError, match="1 patients are in more than one split"):
        opened(forms[form], tmp_path / "leaky.csv")


@pytest.mark.parametrize(
    ("form", "name", "content"),
    [
        ("records", "prepared.json", b"{"),
        ("records", "prepared.json", b'{"format": 99, "kind": "records"}'),
        ("cache", "scans.npy", b"short"),
        ("records", "records/oct_kermany/prepared/1.0.0/features.json", b""),
    ],
)
def test_a_damaged_folder_is_one_line(forms, tmp_path, form, name, content):
    shutil.copytree(forms[form], tmp_path / "damaged")
    (tmp_path / "damaged" / name).write_bytes(content)
    with pytest.raises(UserError, match=r"prepare") as raised:
        opened(tmp_path / "damaged")
    assert "\n" not in str(raised.value)


def test_training_does_not_import_tensorflow_datasets():
    import subprocess
    import sys

    code = "import oct_jax.commands.train, sys; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format": 1}',
        b'{"format": 1, "kind": "other"}',
        b'{"format": 1, "kind": "cache"}',
        b'{"format": 1, "kind": "cache", "size": -1, "resize": "squash"}',
        b'{"format": 1, "kind": "cache", "size": 64, "resize": "no"}',
        b'{"format": 1, "kind": "records", "report": ' + b"[" * 3000,
    ],
)
def test_a_damaged_description_is_one_line(tmp_path, content):
    (tmp_path / "prepared.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        open_prepared(tmp_path)
    assert len(str(error.value).splitlines()) == 1
