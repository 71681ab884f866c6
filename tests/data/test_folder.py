"""A folder opened for training: same scans, sound splits, and the whole story in the report."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oct_jax.data.folder import open_folder, scans_in_files
from oct_jax.data.manifest import write_manifest
from oct_jax.data.readers import UnreadableScan, read_scan
from oct_jax.data.scans import label_indices
from oct_jax.data.split import Fractions, leaking_patients
from oct_jax.task import KERMANY, OCTDL
from oct_jax.types import SPLITS, UserError


def add_scans(root, patients, split=""):
    for number, label in enumerate(KERMANY.classes):
        folder = root / split / label
        folder.mkdir(parents=True, exist_ok=True)
        for patient in patients:
            path = folder / f"{label}-{number * 1000 + patient}-1.png"
            pixels = np.full((3, 4), number * 50 + patient % 50, np.uint8)
            pixels[0, 0] = len(split)
            Image.fromarray(pixels).save(path)
    return root


@pytest.fixture
def own(tmp_path):
    return add_scans(tmp_path / "own", range(8))


@pytest.fixture
def official(tmp_path):
    root = add_scans(tmp_path / "official", range(12), "train")
    return add_scans(root, range(10, 14), "test")


def test_own_layout(own):
    source = open_folder(own, seed=3)
    assert source.report["splits_from"] == "own"
    assert source.report["bad"] == source.report["removed"] == []
    assert len(source) == 32
    assert leaking_patients(source.records) == ()
    assert source.labels.dtype == np.int32
    assert [KERMANY.classes[index] for index in source.labels] == [r.label for r in source.records]
    assert open_folder(own, seed=3) == source
    assert open_folder(own, seed=4) != source


def test_fractions_reach_the_split(own):
    source = open_folder(
        own, fractions=Fractions(train=0.25, val=0.25, calibration=0.25, test=0.25)
    )
    assert [len(source.select(split)) for split in SPLITS] == [8, 8, 8, 8]


def test_official_layout(official):
    source = open_folder(official)
    assert source.report["splits_from"] == "official"
    assert len(source.report["removed"]) == 8
    assert len(source) == 64 - 8
    assert len(source.select("test")) == 16
    assert "8 scans removed: their patients are in test too" in source.lines


def test_select_partitions_the_source(own):
    source = open_folder(own)
    parts = [source.select(split) for split in SPLITS]
    assert sorted(r.path for part in parts for r in part.records) == [
        r.path for r in source.records
    ]
    for split, part in zip(SPLITS, parts, strict=True):
        assert len(part) == sum(source.counts[split].values())
        assert part.labels.shape == (len(part),)
    assert len(scans_in_files(own, ()).labels) == 0


def test_reads_by_index_from_threads_and_copies(own):
    source = open_folder(own)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    with ThreadPoolExecutor(4) as pool:
        scans = list(pool.map(copy.read, range(len(copy))))
    for record, scan in zip(source.records, scans, strict=True):
        np.testing.assert_array_equal(scan, read_scan(own / record.path))


def test_a_file_that_goes_away(own):
    source = open_folder(own)
    (own / source.records[0].path).unlink()
    with pytest.raises(UnreadableScan, match="No such file"):
        source.read(0)


def test_manifest_gives_the_same_source(own, tmp_path):
    source = open_folder(own, seed=5)
    write_manifest(source.records, tmp_path / "manifest.csv")
    again = open_folder(own, manifest=tmp_path / "manifest.csv", seed=6)
    assert again == source
    assert again.report["splits_from"] == "manifest"


def test_manifest_must_be_usable(own, tmp_path):
    path = tmp_path / "manifest.csv"
    source = open_folder(own)
    first, *rest = source.records

    def told(records):
        write_manifest(records, path)
        with pytest.raises(UserError) as raised:
            open_folder(own, manifest=path)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "lists no scans" in told([])
    assert "1 scans have no label or no split" in told([replace(first, split=""), *rest])
    assert "1 scans have no label or no split" in told([replace(first, label=""), *rest])
    other = next(r for r in rest if r.split != first.split)
    assert "1 patients are in more than one split" in told(
        [replace(first, patient=other.patient), *rest]
    )
    assert "1 files have a byte-identical copy in another split" in told(
        [replace(first, sha256=other.sha256), *rest]
    )
    assert "1 missing" in told([replace(first, path="CNV/none.png"), *rest])
    assert "1 changed" in told([replace(first, sha256="0" * 64), *rest])


def test_an_official_test_split_that_holds_all_training_scans_is_refused(official):
    for scan in (official / "train" / "DME").iterdir():
        copy = official / "test" / "DME" / f"DME-7{scan.name.split('-')[1]}-1.png"
        copy.write_bytes(scan.read_bytes())
    with pytest.raises(UserError, match="no training scans of DME are left"):
        open_folder(official)


def test_bad_scans(own):
    (own / "CNV" / "CNV-77-1.png").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="on_bad_scan=skip"):
        open_folder(own)
    source = open_folder(own, on_bad_scan="skip")
    assert len(source) == 32
    assert [scan["path"] for scan in source.report["bad"]] == ["CNV/CNV-77-1.png"]
    assert any(line.startswith("1 bad files left out: CNV/CNV-77-1.png") for line in source.lines)


def test_report_tells_what_happened_and_no_more(own):
    lines = open_folder(own).lines
    assert lines[0] == "32 scans of 32 patients, split by patient"
    assert len(lines) == 1 + len(SPLITS)
    (own / "CNV" / "CNV-0-1.png").rename(own / "CNV" / "eye.png")
    (own / "cnv").mkdir()
    (own / "CNV" / "CNV-1-1.png").rename(own / "cnv" / "cnv-1-1.png")
    (own / "AMD").mkdir()
    told = "\n".join(open_folder(own).lines)
    assert "warning: 1 scans name no patient" in told
    assert "folders read as one class: CNV + cnv" in told
    assert "folders of no class ignored: AMD" in told


def test_a_home_folder_is_found(own, monkeypatch):
    monkeypatch.setenv("HOME", str(own.parent))
    source = open_folder(Path("~/own"))
    assert source.read(0).shape == (3, 4)


def test_labels_need_a_class(own):
    source = open_folder(own)
    with pytest.raises(UserError, match="1 scans have no label"):
        label_indices([replace(source.records[0], label="")])


@pytest.mark.parametrize("inside", [".", "archive"])
def test_class_folders_of_any_names_are_a_task(tmp_path, inside):
    names = ("AMD", "DME", "ERM", "NO", "RAO", "RVO", "VID")
    make_folders(tmp_path / inside, names)
    source = open_folder(tmp_path, task=None)
    assert source.task.classes == names
    assert not source.task.refers
    assert sorted(set(source.labels.tolist())) == list(range(7))
    assert {record.patient for record in source.records} == {str(n) for n in range(56)}
    assert open_folder(tmp_path, task=OCTDL).records == source.records
    assert set(source.counts["train"]) == set(names)
    with pytest.raises(UserError, match="no folder CNV"):
        open_folder(tmp_path)


def test_folder_names_are_merged_over_case_and_splits(tmp_path):
    make_folders(tmp_path / "train", ("ERM", "No finding"))
    make_folders(tmp_path / "test", ("erm", "No finding"), first=100)
    source = open_folder(tmp_path, task=None)
    assert source.task.classes == ("erm", "No finding")
    assert source.report["splits_from"] == "official"
    with pytest.raises(UserError, match="a task needs at least two"):
        open_folder(tmp_path / "train" / "ERM", task=None)


def make_folders(root, names, first=0):
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for patient in range(8):
            pixels = np.full((3, 4), number * 30 + patient, np.uint8)
            pixels[0, 0] = first
            path = root / name / f"{name}-{first + number * 8 + patient}-1.png"
            Image.fromarray(pixels).save(path)
