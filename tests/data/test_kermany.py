"""Every layout is read, every odd file is named, and a patient is a number."""

import doctest

import numpy as np
import pytest
from PIL import Image

from oct_jax.data import kermany
from oct_jax.data.kermany import BadScan, list_scans, patient_of
from oct_jax.task import KERMANY
from oct_jax.types import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6), dtype=np.uint8)


def add_scan(path, seed=0):
    """Writes a tiny PNG that differs from seed to seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS + np.uint8(seed % 256)).save(path, "PNG")


def add_classes(root, patients=(1, 2), classes=KERMANY.classes):
    for number, label in enumerate(classes):
        for patient in patients:
            add_scan(root / label / f"{label}-{patient}-1.jpeg", number * 50 + patient)
    return root


def one_line(raised):
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "test")])
def test_official_layouts(tmp_path, splits):
    for split in splits:
        add_classes(tmp_path / split)
    listing = list_scans(tmp_path)
    assert listing.official
    assert {(r.split, r.label) for r in listing.records} == {
        (s, c) for s in splits for c in KERMANY.classes
    }


def test_own_layout(tmp_path):
    listing = list_scans(add_classes(tmp_path))
    assert not listing.official
    assert [r.path for r in listing.records] == sorted(
        f"{label}/{label}-{patient}-1.jpeg" for label in KERMANY.classes for patient in (1, 2)
    )
    assert {r.split for r in listing.records} == {""}
    assert {r.patient for r in listing.records} == {"1", "2"}
    record = listing.records[0]
    assert (record.width, record.height) == (6, 5)
    assert record.bytes == (tmp_path / record.path).stat().st_size
    assert len({r.sha256 for r in listing.records}) == 8


def test_paths_are_relative_to_the_given_root(tmp_path):
    add_classes(tmp_path / "OCT2017 " / "train")
    add_classes(tmp_path / "OCT2017 " / "test")
    (tmp_path / "__MACOSX" / "train" / "CNV").mkdir(parents=True)
    listing = list_scans(tmp_path)
    assert listing.official
    assert all(record.path.startswith("OCT2017 /t") for record in listing.records)


def test_two_data_sets_below_are_ambiguous(tmp_path):
    add_classes(tmp_path / "a")
    add_classes(tmp_path / "b")
    with pytest.raises(UserError, match="holds 2 data sets") as raised:
        list_scans(tmp_path)
    assert "'a', 'b'" in one_line(raised)


def test_case_does_not_matter_and_twins_are_merged(tmp_path):
    add_classes(tmp_path / "Train", classes=["cnv", "Dme", "DRUSEN", "normal"])
    add_classes(tmp_path / "TEST")
    add_scan(tmp_path / "Train" / "CNV" / "CNV-9-1.png", 99)
    listing = list_scans(tmp_path)
    assert listing.merged == ("Train/CNV + Train/cnv",)
    cnv = [r.path for r in listing.records if (r.split, r.label) == ("train", "CNV")]
    assert cnv == ["Train/CNV/CNV-9-1.png", "Train/cnv/cnv-1-1.jpeg", "Train/cnv/cnv-2-1.jpeg"]


def test_sidecars_are_passed_over(tmp_path):
    add_classes(tmp_path)
    for name in (".DS_Store", "._CNV-1-1.jpeg", "Thumbs.db", "desktop.ini"):
        (tmp_path / "CNV" / name).write_bytes(b"rubbish")
    assert len(list_scans(tmp_path).records) == 8


def test_folders_of_no_class_are_told(tmp_path):
    add_classes(tmp_path)
    add_scan(tmp_path / "AMD" / "AMD-1-1.png")
    add_scan(tmp_path / "CNV" / "old" / "CNV-1-1.png")
    listing = list_scans(tmp_path)
    assert set(listing.ignored) == {"AMD", "CNV/old"}
    assert len(listing.records) == 8


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("CNV-123-1.jpeg", "123"),
        ("drusen-123-44.png", "123"),
        ("CNV-0123-1.jpeg", "123"),
        ("CNV-000-1.jpeg", "0"),
        ("CNV-123-1 (1).jpeg", "123"),
        ("CNV-123-1-copy.tiff", "123"),
        ("CNV-123.jpeg", None),
        ("AMD-123-1.jpeg", None),
        ("scan.jpeg", None),
        ("CNV-12a-1.jpeg", None),
        ("CNV-\u0661\u0662-1.jpeg", None),
    ],
)
def test_patient_of(name, patient):
    assert patient_of(name) == patient


def test_patient_is_the_number_alone(tmp_path):
    add_classes(tmp_path, patients=(123,))
    assert {r.patient for r in list_scans(tmp_path).records} == {"123"}


def test_a_scan_without_patient_is_its_own_group(tmp_path):
    add_classes(tmp_path)
    add_scan(tmp_path / "CNV" / "eye.one.png", 7)
    add_scan(tmp_path / "DME" / "eye.one.png", 8)
    listing = list_scans(tmp_path)
    assert listing.without_patient == 2
    groups = {r.patient for r in listing.records if r.patient.startswith("file:")}
    assert groups == {"file:CNV/eye.one", "file:DME/eye.one"}


def plant_bad_scans(root):
    (root / "CNV" / "CNV-3-1.jpeg").write_bytes(b"")
    whole = (root / "CNV" / "CNV-1-1.jpeg").read_bytes()
    (root / "CNV" / "CNV-4-1.jpeg").write_bytes(whole[:60])
    (root / "DME" / "notes.txt").write_text("seen by two readers")
    add_scan(root / "DRUSEN" / "NORMAL-5-1.png")
    add_scan(root / "NORMAL" / "NORMAL-6-\r1.png")


def test_bad_scans_are_refused_together(tmp_path):
    plant_bad_scans(add_classes(tmp_path))
    with pytest.raises(UserError) as raised:
        list_scans(tmp_path)
    message = one_line(raised)
    assert message.startswith(f"5 of 13 files in {tmp_path} are bad: ")
    assert "CNV/CNV-3-1.jpeg (the file is empty)" in message
    assert "and 2 more" in message
    assert "on_bad_scan=skip" in message


def test_bad_scans_are_dropped_and_listed(tmp_path):
    plant_bad_scans(add_classes(tmp_path))
    listing = list_scans(tmp_path, on_bad_scan="skip")
    assert len(listing.records) == 8
    assert [scan.path for scan in listing.bad] == [
        "'NORMAL/NORMAL-6-\\r1.png'",
        "CNV/CNV-3-1.jpeg",
        "CNV/CNV-4-1.jpeg",
        "DME/notes.txt",
        "DRUSEN/NORMAL-5-1.png",
    ]
    assert BadScan("CNV/CNV-3-1.jpeg", "the file is empty") in listing.bad
    assert listing.bad[-1].reason == "its name says NORMAL, its folder DRUSEN"


def test_a_class_of_bad_scans_only_is_an_error(tmp_path):
    add_classes(tmp_path)
    for path in (tmp_path / "DME").iterdir():
        path.write_bytes(b"rubbish")
    with pytest.raises(UserError, match="DME holds bad scans only"):
        list_scans(tmp_path, on_bad_scan="skip")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such folder: .*none"):
        list_scans(tmp_path / "none")
    with pytest.raises(UserError, match="holds no class folders"):
        list_scans(tmp_path)
    add_classes(tmp_path / "own", classes=["CNV", "DRUSEN"])
    with pytest.raises(UserError, match="own has no folder DME and no NORMAL"):
        list_scans(tmp_path / "own")
    for label in ("DME", "NORMAL"):
        (tmp_path / "own" / label).mkdir()
    with pytest.raises(UserError, match="own/DME holds no scans"):
        list_scans(tmp_path / "own")


def test_an_official_split_needs_train_and_test(tmp_path):
    add_classes(tmp_path / "train")
    with pytest.raises(UserError, match="has only train of the official split"):
        list_scans(tmp_path)
    add_classes(tmp_path / "test", classes=["CNV", "DME", "DRUSEN"])
    with pytest.raises(UserError, match="test has no folder NORMAL"):
        list_scans(tmp_path)


def test_both_kinds_of_folder_are_refused(tmp_path):
    add_classes(tmp_path)
    add_classes(tmp_path / "train")
    with pytest.raises(UserError, match="both class folders and split folders"):
        list_scans(tmp_path)


def test_an_external_set_may_lack_classes(tmp_path):
    add_classes(tmp_path, classes=["CNV", "NORMAL"])
    listing = list_scans(tmp_path, require_all_classes=False)
    assert {record.label for record in listing.records} == {"CNV", "NORMAL"}


def test_progress(tmp_path):
    told = []
    list_scans(add_classes(tmp_path), progress=lambda *step: told.append(step))
    assert told == [(done, 8) for done in range(1, 9)]


def test_examples():
    assert doctest.testmod(kermany).failed == 0


def test_real_scans(real_scans):
    listing = list_scans(real_scans)
    assert len(listing.records) == 747
    assert len({record.patient for record in listing.records}) == 486
    assert not listing.bad
    assert listing.without_patient == 0
