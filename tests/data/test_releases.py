"""Readers of published data sets, each on a synthetic copy of its release's layout."""

import numpy as np
import pytest
from PIL import Image

from oct_jax import UserError
from oct_jax.data.kermany import OWN_GROUP
from oct_jax.data.releases import READERS
from oct_jax.runs.protocols import PROTOCOLS, has_patients, splits_digest
from oct_jax.task import KERMANY, NEH, OCTDL, OCTID, SRINIVASAN


def write_scan(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (16, 24)).astype(np.uint8)).save(path)


def octdl(root):
    lines = ["file_name,disease,subcategory,condition,patient_id,eye,sex,year,image_width"]
    for number in range(7 * 14):
        disease, patient = OCTDL.classes[number % 7], number // 7 // 2 * 7 + number % 7
        name = f"{disease.lower()}_{patient}_{number}"
        write_scan(root / "OCTDL" / disease / f"{name}.jpg", number)
        lines.append(f"{name},{disease},,,{patient},OD,f,1950,24")
    (root / "OCTDL_labels.csv").write_text("\n".join(lines) + "\n")
    return 7 * 14, 7 * 7


def neh(root):
    folder = root / "NEH_UT_2021RetinalOCTDataset"
    for number in range(3 * 12):
        name, patient = NEH.classes[number % 3], number // 3 + 1
        write_scan(folder / name / str(patient) / "OD" / f"001_{name.title()}.jpg", 2 * number)
        write_scan(folder / name / str(patient) / "OD" / "002_Normal.jpg", 2 * number + 1)
    return 3 * 12 + 12, 3 * 12


def srinivasan(root):
    for number in range(3 * 15):
        name = SRINIVASAN.classes[number % 3]
        folder = root / "Publication_Dataset" / f"{name}{number // 3 + 1}" / "TIFFs"
        write_scan(folder / "8bitTIFFs" / "001.tif", 2 * number)
        write_scan(folder / "8bitTIFFs" / "002.tif", 2 * number + 1)
        write_scan(folder / "16bitTIFFs" / "001.tif", 200 + number)
    return 3 * 15 * 2, 3 * 15


def octid(root):
    for number in range(5 * 8):
        name = OCTID.classes[number % 5]
        write_scan(root / "OCTID" / name / f"{name}{number}.jpeg", number)
    return 5 * 8, 5 * 8


def octmnist(root):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("val", 8), ("test", 12)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) // 2 % 4).astype(np.uint8)[:, None]
    root.mkdir(exist_ok=True)
    np.savez_compressed(root / "octmnist.npz", **arrays)
    return 40, 40


RELEASES = (octdl, neh, srinivasan, octid, octmnist)


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.__name__)
def test_a_release_is_read_and_split_as_its_protocol_says(release, tmp_path):
    count, patients = release(tmp_path)
    name = release.__name__
    scans = READERS[name](tmp_path)
    assert len(scans) == count
    assert len(set(scans.patients)) == patients
    assert scans.task == PROTOCOLS[name].task
    known = name not in ("octid", "octmnist")
    assert has_patients(scans) == known
    assert scans.read(0).dtype == np.uint8
    folds = PROTOCOLS[name].open_folds(tmp_path)
    assert len(folds) == (1 if name == "octmnist" else 5)
    tested = [record.path for fold in folds for record in fold.select("test").records]
    assert len(tested) == len(set(tested)) == (12 if name == "octmnist" else count)
    for fold in folds:
        splits = {}
        for record in fold.records:
            splits.setdefault(record.patient, set()).add(record.split)
        assert all(len(parts) == 1 for parts in splits.values())
        assert {record.split for record in fold.records} == {"train", "val", "calibration", "test"}
    assert splits_digest(folds) == splits_digest(PROTOCOLS[name].open_folds(tmp_path))


def test_neh_takes_the_scans_that_show_the_patients_class(tmp_path):
    neh(tmp_path)
    scans = READERS["neh"](tmp_path / "NEH_UT_2021RetinalOCTDataset")
    assert all(record.path.startswith(f"{record.label}/") for record in scans.records)
    ill = [record for record in scans.records if record.label != "NORMAL"]
    assert all(record.path.endswith(f"001_{record.label.title()}.jpg") for record in ill)
    # Patients are numbered in each class anew: CNV/1 is not DRUSEN/1.
    assert {record.patient for record in scans.records} >= {"CNV/1", "DRUSEN/1"}


def test_octmnist_keeps_its_splits_and_pixels(tmp_path):
    octmnist(tmp_path)
    scans = READERS["octmnist"](tmp_path / "octmnist.npz")
    stored = np.load(tmp_path / "octmnist.npz")
    test = scans.select("test")
    np.testing.assert_array_equal(test.read(3), stored["test_images"][3])
    assert test.labels.tolist() == stored["test_labels"][:, 0].tolist()
    assert len(scans.select("val")) == len(scans.select("calibration")) == 4
    assert scans.patients[0].startswith(OWN_GROUP)
    assert scans.task == KERMANY


def test_the_official_split_is_cleaned_of_test_patients(tmp_path):
    for number in range(4 * 20):
        name, patient = KERMANY.classes[number % 4], number // 4
        split = "test" if patient < 4 else "train"
        write_scan(tmp_path / split / name / f"{name}-{patient}{number % 4}-1.jpeg", number)
    write_scan(tmp_path / "train" / "CNV" / "CNV-00-2.jpeg", 1000)
    (fold,) = PROTOCOLS["official_clean"].open_folds(tmp_path)
    assert len(fold.select("test")) == 16
    assert "train/CNV/CNV-00-2.jpeg" not in {record.path for record in fold.records}
    assert not {*fold.select("test").patients} & {*fold.select("train").patients}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("octdl", "holds no OCTDL_labels.csv"),
        ("neh", "has no folders CNV, DRUSEN, NORMAL"),
        ("srinivasan", "has no folders AMD1"),
        ("octid", "has no folders AMRD"),
        ("octmnist", r"holds 0 files octmnist\*.npz"),
    ],
)
def test_a_folder_of_something_else_is_one_line(name, line, tmp_path):
    with pytest.raises(UserError, match=line):
        READERS[name](tmp_path)
    with pytest.raises(UserError, match="no such"):
        READERS[name](tmp_path / "none")


def test_the_five_folds_of_the_real_scans_have_a_name(real_scans):
    folds = PROTOCOLS["by_patient"].open_folds(real_scans)
    assert sum(len(fold.select("test")) for fold in folds) == len(folds[0]) == 747
    assert splits_digest(folds).startswith("744149e3940c8a87")
