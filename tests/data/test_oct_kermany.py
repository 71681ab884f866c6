"""The TFDS builder on dummy data.

TFDS's own `DatasetBuilderTestCase` reads through `tf.data` and so needs TensorFlow, which this
project does without; these tests make its checks (info, configurations, preparation, reading,
splits without overlap) through `as_data_source`.
"""

import hashlib
import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from test_prepare import jpeg, make_scans, zipped

from oct_jax.data.oct_kermany import FOLDS, OctKermany, download_config
from oct_jax.task import KERMANY
from oct_jax.types import UserError

tfds.disable_progress_bar()


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A release in small: one patient of test is in train too; one PNG is called .jpeg."""
    root = tmp_path_factory.mktemp("official") / "OCT2017"
    for split, first in (("train", 0), ("test", 500)):
        for number, label in enumerate(KERMANY.classes):
            (root / split / label).mkdir(parents=True)
            for patient in range(6):
                key = first + patient * 4 + number + 1
                (root / split / label / f"{label}-{key}-1.jpeg").write_bytes(jpeg(key))
    (root / "train" / "DME" / "DME-501-2.jpeg").write_bytes(jpeg(9999))
    out = io.BytesIO()
    Image.new("L", (9, 7), 3).save(out, "PNG")
    (root / "train" / "CNV" / "CNV-900-1.jpeg").write_bytes(out.getvalue())
    return root


def build(manual, data_dir, config):
    builder = OctKermany(data_dir=data_dir, config=config, file_format="array_record")
    builder.download_and_prepare(download_config=download_config(manual))
    return builder


def names(builder, split):
    return [item["file_name"].decode() for item in builder.as_data_source(split)]


def test_official_keeps_every_file_byte_for_byte(official, tmp_path):
    builder = build(official, tmp_path, "official")
    undecoded = {"image": tfds.decode.SkipDecoding()}
    for split in ("train", "test"):
        scans = builder.as_data_source(split, decoders=undecoded)
        files = sorted((official / split).rglob("*.jpeg"))
        assert len(scans) == len(files)
        for item, path in zip(scans, files, strict=True):
            assert item["image"] == path.read_bytes()
            assert item["sha256"].decode() == hashlib.sha256(item["image"]).hexdigest()
            assert item["file_name"].decode() == str(path.relative_to(official))
            assert KERMANY.classes[item["label"]] == path.parent.name
            assert item["patient_id"].decode() == path.name.split("-")[1]
    assert "tensorflow" not in sys.modules


def test_tfds_decodes_what_we_decode(official, tmp_path):
    from oct_jax.data.readers import read_scan

    builder = build(official, tmp_path, "official")
    item = builder.as_data_source("train")[3]
    scan = read_scan(official / item["file_name"].decode())
    np.testing.assert_array_equal(item["image"][..., 0], scan)


def test_official_clean_removes_training_scans_of_test_patients(official, tmp_path):
    builder = build(official, tmp_path, "official_clean")
    found = {split: names(builder, split) for split in builder.info.splits}
    assert set(found) == {"train", "val", "calibration", "test"}
    assert all(name.startswith("test/") for name in found["test"])
    assert len(found["test"]) == 24
    everything = [name for split in found.values() for name in split]
    assert "train/DME/DME-501-2.jpeg" not in everything
    assert len(everything) == len(set(everything)) == 24 + 25


def test_folds_test_every_scan_once_and_part_no_patient(official, tmp_path):
    tested = []
    for fold in range(FOLDS):
        builder = build(official, tmp_path, f"fold_{fold}")
        patients = {
            split: {item["patient_id"] for item in builder.as_data_source(split)}
            for split in builder.info.splits
        }
        assert sum(map(len, patients.values())) == len(set().union(*patients.values()))
        tested += names(builder, "test")
    assert len(tested) == len(set(tested)) == 50


def test_a_zip_gives_the_same_records(official, tmp_path):
    (tmp_path / "manual").mkdir()
    zipped(official, tmp_path / "manual" / "OCT2017.zip")
    builder = build(tmp_path / "manual", tmp_path / "built", "official")
    assert len(builder.as_data_source("train")) == 26


def test_an_own_folder_has_no_official_split(tmp_path):
    make_scans(tmp_path / "scans")
    with pytest.raises(UserError, match="has no official split; use by_patient"):
        build(tmp_path / "scans", tmp_path / "data", "official")
    builder = build(tmp_path / "scans", tmp_path / "data", "by_patient")
    assert builder.info.splits.total_num_examples == 24


def test_what_is_told_of_the_data_set():
    builder = OctKermany(data_dir="unused", config="official")
    assert "kermany2018" in builder.info.citation
    assert "CC BY 4.0" in str(builder.info.redistribution_info)
    assert set(builder.info.features) == {"image", "label", "patient_id", "file_name", "sha256"}
    configs = {"official", "official_clean", "by_patient", *(f"fold_{k}" for k in range(FOLDS))}
    assert set(OctKermany.builder_configs) == configs
