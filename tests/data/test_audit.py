"""What is planted in a folder is found, what is not there is not, and the fix mends it."""

import doctest
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from oct_jax.commands.cli import as_settings
from oct_jax.data.audit import audit, clean_records, duplicates, findings
from oct_jax.data.manifest import read_manifest
from oct_jax.data.split import leaking_patients
from oct_jax.reports.audit_page import as_html, summary_lines
from oct_jax.task import KERMANY, OCTDL

PATIENTS = 12


def scan_of(seed, width=64):
    """A smooth random picture: unlike any other, unlike noise robust to compression."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)
    return Image.fromarray(coarse).resize((width, 48), Image.Resampling.BICUBIC)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, options.pop("format", "JPEG"), **({"quality": 95} | options))


def make_classes(root, first_patient, width_of=lambda label: 64):
    for number, label in enumerate(KERMANY.classes):
        for patient in range(first_patient, first_patient + PATIENTS):
            name = f"{label}-{patient * 4 + number}-1.jpeg"
            seed = 1000 * number + patient
            save(scan_of(seed, width_of(label)), root / label / name)


@pytest.fixture
def clean(tmp_path):
    """An official split that shares nothing."""
    for number, split in enumerate(("train", "test")):
        make_classes(tmp_path / "scans" / split, 100 * (number + 1))
    return tmp_path / "scans"


def command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "oct_jax.data", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_examples_in_docstrings():
    assert doctest.testmod(findings).failed == 0


def test_a_clean_folder_has_no_findings(clean):
    found = audit(clean)
    assert not found.leaks
    assert not found.pairs
    assert not found.odd
    assert not found.shortcut.warns
    assert found.counts["train"] == dict.fromkeys(KERMANY.classes, PATIENTS)
    assert found.scans_per_patient == dict.fromkeys(found.scans_per_patient, 1)
    assert "no leak" in summary_lines(found)[-1]


def test_a_patient_in_two_splits_is_found(clean):
    save(scan_of(7), clean / "test" / "DME" / "DME-400-2.jpeg")
    found = audit(clean)
    assert found.leaks
    assert found.patients_in_splits == ("400",)
    assert found.patients_in_classes == {"400": ("CNV", "DME")}


def test_a_byte_duplicate_across_splits_and_patients_is_found(clean):
    original = clean / "train" / "CNV" / "CNV-400-1.jpeg"
    (clean / "test" / "DME" / "DME-9999-1.jpeg").write_bytes(original.read_bytes())
    (pair,) = audit(clean).leaking_pairs
    assert pair.identical
    assert pair.across == ("split", "patient", "label")


@pytest.mark.parametrize("change", ["compressed", "half", "darker"])
def test_a_near_duplicate_is_found(clean, change):
    image = Image.open(clean / "train" / "CNV" / "CNV-400-1.jpeg")
    copies = {
        "compressed": image,
        "half": image.resize((image.width // 2, image.height // 2)),
        "darker": image.point(lambda level: level * 0.9),
    }
    save(copies[change], clean / "test" / "CNV" / "CNV-9999-1.jpeg", quality=50)
    (pair,) = audit(clean).leaking_pairs
    assert not pair.identical
    assert {pair.first.patient, pair.second.patient} == {"400", "9999"}
    assert pair.correlation > 0.98


def test_every_pair_is_compared_across_blocks(monkeypatch, clean):
    image = Image.open(clean / "train" / "CNV" / "CNV-400-1.jpeg")
    save(image, clean / "test" / "NORMAL" / "NORMAL-9999-1.jpeg", quality=50)
    whole = audit(clean).pairs
    monkeypatch.setattr(duplicates, "_BLOCK", 5)
    assert audit(clean).pairs == whole
    assert len(whole) == 1


def test_damaged_and_misnamed_files_are_found(clean):
    folder = clean / "train" / "CNV"
    out = io.BytesIO()
    scan_of(1, 256).save(out, "JPEG")
    (folder / "CNV-9001-1.jpeg").write_bytes(out.getvalue()[: len(out.getvalue()) // 2])
    save(scan_of(2), folder / "CNV-9002-1.jpg", format="PNG", quality=None)
    save(scan_of(3).convert("RGBA"), folder / "CNV-9003-1.png", format="PNG", quality=None)
    save(scan_of(4), folder / "DME-9004-1.jpeg")
    found = audit(clean)
    bad = {scan.path.rpartition("/")[2]: scan.reason for scan in found.listing.bad}
    odd = {scan.path.rpartition("/")[2]: scan.reason for scan in found.odd}
    assert set(bad) == {"CNV-9001-1.jpeg", "DME-9004-1.jpeg"}
    assert "truncated" in bad["CNV-9001-1.jpeg"]
    assert odd == {"CNV-9002-1.jpg": "PNG called .jpg", "CNV-9003-1.png": "colour mode RGBA"}


def test_a_folder_of_damaged_scans_only_is_audited(clean):
    for path in (clean / "train" / "DME").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    (clean / "train" / "CNV" / "empty").mkdir()
    found = audit(clean)
    assert len(found.listing.bad) == PATIENTS
    assert found.counts["train"]["DME"] == 0
    assert any(f"{PATIENTS} files unusable" in line for line in summary_lines(found))
    for path in clean.rglob("*.jpeg"):
        path.write_bytes(b"")
    found = audit(clean)
    assert "no readable scans" in summary_lines(found)
    assert "the file is empty" in as_html(found)


def test_the_command_audits_class_folders_of_any_names(tmp_path, monkeypatch):
    for number, label in enumerate(("ERM", "healthy", "hole")):
        for patient in range(4):
            save(scan_of(100 * number + patient), tmp_path / "x" / label / f"{patient}.jpeg")
    monkeypatch.setenv("HOME", str(tmp_path))
    result = command("audit", "~/x", "out=~/out", "task=folders", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "all: 12 scans (ERM 4, healthy 4, hole 4)" in result.stdout
    assert (tmp_path / "out" / "audit.html").is_file()
    assert not (tmp_path / "~").exists()
    result = command("audit", "x", "task=nosuch", cwd=tmp_path)
    assert result.returncode == 2
    assert "task=nosuch: must be one of kermany, octdl" in result.stderr


def test_one_file_under_two_labels_is_an_error(tmp_path):
    make_classes(tmp_path / "scans", 1)
    original = tmp_path / "scans" / "CNV" / "CNV-4-1.jpeg"
    copy = tmp_path / "scans" / "DME" / "DME-4-2.jpeg"
    copy.write_bytes(original.read_bytes())
    (pair,) = audit(tmp_path / "scans").contradictions
    assert pair.across == ("label",)
    result = command("audit", "scans", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert "CONTRADICTION: 1 files are byte-identical to a file of another class" in result.stdout
    report = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert report["contradictions"] == [["CNV/CNV-4-1.jpeg", "DME/DME-4-2.jpeg"]]


def test_seven_classes_of_other_names_are_audited(tmp_path):
    for number, label in enumerate(OCTDL.classes):
        for patient in range(6):
            name = f"{label}-{patient * 7 + number}-1.jpeg"
            save(scan_of(1000 * number + patient), tmp_path / "scans" / label / name)
    for task in (OCTDL, None):
        found = audit(tmp_path / "scans", task=task)
        assert found.counts["all"] == dict.fromkeys(OCTDL.classes, 6)
        assert set(OCTDL.classes) <= set(as_html(found).replace("<", " ").replace(">", " ").split())
        split = clean_records(found, seed=0)
        assert {record.label for record in split if record.split == "test"} == set(OCTDL.classes)


@pytest.mark.parametrize("shortcut", ["width", "border"])
def test_a_shortcut_is_found_and_named(tmp_path, shortcut):
    make_classes(tmp_path, 1, lambda label: 96 if shortcut == "width" and label == "DME" else 64)
    if shortcut == "border":
        for path in (tmp_path / "CNV").iterdir():
            framed = Image.open(path)
            framed.paste(255, (0, 0, framed.width, 6))
            save(framed, path)
    found = audit(tmp_path).shortcut
    assert found.warns
    assert found.by_feature[shortcut] > 0.4


def test_too_few_patients_for_the_shortcut_test_is_said(tmp_path):
    save(scan_of(1), tmp_path / "CNV" / "CNV-1-1.jpeg")
    found = audit(tmp_path)
    assert found.shortcut is None
    assert any("shortcut test: not made" in line for line in summary_lines(found))


def test_the_command_reports_the_leak_and_its_fix_mends_it(clean, tmp_path):
    save(scan_of(7), clean / "test" / "DME" / "DME-400-2.jpeg")
    original = Image.open(clean / "train" / "NORMAL" / "NORMAL-403-1.jpeg")
    save(original, clean / "test" / "NORMAL" / "NORMAL-9999-1.jpeg", quality=60)

    first = command("audit", clean, cwd=tmp_path)
    assert first.returncode == 1, first.stderr
    fix = next(line for line in first.stdout.splitlines() if line.startswith("fix: "))
    report = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert report["leaks"]
    assert report["patients_in_splits"] == ["400"]
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert page.count("data:image/") >= 6
    assert "http" not in page.replace("http-equiv", "")

    second = command(*fix.split()[4:], cwd=tmp_path)
    assert second.returncode == 1
    records = read_manifest(tmp_path / "manifest.csv")
    assert not leaking_patients(records)
    split = {record.path.rpartition("/")[2]: record.split for record in records}
    assert split["NORMAL-9999-1.jpeg"] == "test"
    assert "NORMAL-403-1.jpeg" not in split  # its near duplicate is in test
    assert "CNV-400-1.jpeg" not in split


def test_patients_of_one_picture_stay_together_in_a_split_of_our_own(tmp_path):
    make_classes(tmp_path, 1)
    twin = Image.open(tmp_path / "CNV" / "CNV-4-1.jpeg")
    save(twin, tmp_path / "CNV" / "CNV-9999-1.jpeg", quality=60)
    found = audit(tmp_path)
    for seed in range(5):
        split = {record.patient: record.split for record in clean_records(found, seed=seed)}
        assert split["4"] == split["9999"]


def test_a_page_escapes_names(tmp_path):
    save(scan_of(1), tmp_path / "CNV" / "<b>x.jpeg", format="PNG", quality=None)
    assert "<b>x" not in as_html(audit(tmp_path))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("audit", "nowhere"), "no such folder: nowhere"),
        (("audit",), "root: must be given"),
        (("audit", "hollow"), "holds no scans"),
        (("audit", ".", "colour=red"), "unknown key colour"),
        (("look", "."), "no such command"),
        (("audit", "sound", "out=sound/CNV/CNV-4-1.jpeg"), "cannot make this folder"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, line):
    (tmp_path / "hollow" / "CNV").mkdir(parents=True)
    make_classes(tmp_path / "sound", 1)
    found = command(*words, cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    assert line in found.stderr
    assert not (tmp_path / "audit").exists()


def test_the_root_may_be_the_first_word_and_options_may_have_dashes():
    assert as_settings(["a", "--write-manifest"]) == ["root=a", "write_manifest=manifest.csv"]
    assert as_settings(["root=a", "--write-manifest=b"]) == ["root=a", "write_manifest=b"]


def test_real_scans_have_no_duplicates_between_patients(real_scans):
    found = audit(real_scans)
    assert len(found.records) == 747
    assert not any("patient" in pair.across for pair in found.pairs)
    assert not found.shortcut.warns
