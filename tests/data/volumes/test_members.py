"""Volumes in class folders: their B-scans are scans of the data set."""

import dataclasses

import numpy as np
import pytest
import volume_files as files

from oct_jax.data.audit import audit
from oct_jax.data.folder import open_folder, scans_in_files
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import (
    COLUMNS,
    VOLUME_COLUMNS,
    manifest_digest,
    read_manifest,
    verify,
    write_manifest,
)
from oct_jax.data.preprocess import Preprocess, resize_scan
from oct_jax.data.readers import UnreadableScan
from oct_jax.data.volumes import open_volume
from oct_jax.task import of_folders
from oct_jax.types import UserError

TASK = of_folders(["DRUSEN", "NORMAL"])


@pytest.fixture
def root(tmp_path):
    """Two classes, each with an export, a .vol and a plain scan."""
    for number, name in enumerate(TASK.classes):
        folder = tmp_path / name
        files.write_heyex(folder / "export", files.bscans(3, seed=10 * number))
        files.write_vol(folder / "eye.vol", files.bscans(2, seed=10 * number + 1))
        files.write_numbered(
            folder, files.bscans(1, seed=10 * number + 2), f"{name}-9{number}-1.png"
        )
    return tmp_path


def test_bscans_are_listed_with_what_the_device_says(root):
    listing = list_scans(root, task=TASK)
    assert [record.path for record in listing.records[:6]] == [
        "DRUSEN/DRUSEN-90-1.png",
        *(f"DRUSEN/export#{n}" for n in (1, 2, 3)),
        *(f"DRUSEN/eye.vol#{n}" for n in (1, 2)),
    ]
    assert listing.ignored == ()
    plain, first = listing.records[:2]
    volume = open_volume(root / "DRUSEN" / "export")
    assert (first.patient, first.eye, first.laterality) == (volume.patient, volume.eye, "R")
    assert (first.axial_um, first.lateral_um, first.position_um) == (3.9, 11.7, 2000)
    assert first.device == "Heidelberg Engineering Spectralis"
    assert plain == dataclasses.replace(plain, eye="", device="", axial_um=None)


def test_bscans_are_read_and_their_spacing_is_used(root):
    records = list_scans(root, task=TASK).records
    scans = scans_in_files(root, records, TASK)
    volume = open_volume(root / "DRUSEN" / "eye.vol")
    index = [record.path for record in records].index("DRUSEN/eye.vol#2")
    np.testing.assert_array_equal(scans.read(index), volume.read(1))
    retina = Preprocess(size=32, resize="retina", mean=(0.5,), std=(0.5,))
    np.testing.assert_array_equal(
        scans.read_resized(index, retina), resize_scan(volume.read(1), retina, volume.spacing)
    )


def test_the_manifest_keeps_the_columns_and_is_verified(root, tmp_path):
    records = list_scans(root, task=TASK).records
    path = tmp_path / "manifest.csv"
    write_manifest(records, path)
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS + VOLUME_COLUMNS)
    assert read_manifest(path) == records
    verify(records, root)
    (root / "DRUSEN" / "export" / "F00001.tif").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"1 missing \(DRUSEN/export#2\)"):
        verify(records, root)


def test_manifests_without_volumes_stay_as_they_were(tmp_path):
    records = list_scans(
        files.write_numbered(tmp_path / "a" / "NORMAL", files.bscans(1), "NORMAL-1-1.png").parent,
        task=TASK,
        require_all_classes=False,
    ).records
    write_manifest(records, tmp_path / "manifest.csv")
    assert (tmp_path / "manifest.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    located = [dataclasses.replace(records[0], position_um=1.5)]
    assert manifest_digest(records) != manifest_digest(located)


@pytest.mark.parametrize(
    ("column", "value"), [("axial_um", "x"), ("position_um", "nan"), ("laterality", "left")]
)
def test_bad_values_of_volumes_are_named(root, tmp_path, column, value):
    path = tmp_path / "manifest.csv"
    write_manifest(list_scans(root, task=TASK).records, path)
    head, *lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    cells[head.split(",").index(column)] = value
    path.write_text("\n".join([head, lines[0], ",".join(cells)]))
    with pytest.raises(UserError, match=rf"line 3: {column} is '{value}'"):
        read_manifest(path)


def test_both_eyes_of_a_patient_stay_in_one_split(tmp_path):
    for name in TASK.classes:
        for number in range(6):
            files.write_numbered(
                tmp_path / name, files.bscans(1, seed=number), f"{name}-{number + 10}-1.png"
            )
    for number, side in enumerate("RL"):
        files.write_heyex(
            tmp_path / "NORMAL" / side, files.bscans(2, seed=50 + number), laterality=side
        )
    scans = open_folder(tmp_path, task=TASK)
    splits = {record.split for record in scans.records if record.eye}
    assert len(splits) == 1
    assert len({record.eye for record in scans.records if record.eye}) == 2


def test_an_audit_measures_bscans(root):
    assert len(audit(root, task=TASK).measured) == 12


def test_a_damaged_volume_is_a_bad_scan(root):
    (root / "NORMAL" / "eye.vol").write_bytes(b"HSF-OCT-103 torn")
    listing = list_scans(root, task=TASK, on_bad_scan="skip")
    assert [(bad.path, bad.reason) for bad in listing.bad] == [("NORMAL/eye.vol", "truncated")]


def test_a_bscan_that_is_not_there_is_named(root):
    records = list_scans(root, task=TASK).records
    beyond = dataclasses.replace(records[1], path="DRUSEN/export#9")
    with pytest.raises(UnreadableScan, match="no such B-scan"):
        scans_in_files(root, [beyond], TASK).read(0)
