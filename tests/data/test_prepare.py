"""A prepared folder is whole or not there, whatever goes wrong while it is made."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.core.file_adapters import ArrayRecordFileAdapter

from oct_jax.commands.parsing import parse
from oct_jax.commands.settings.data import PrepareConfig
from oct_jax.data import prepare as prepare_module
from oct_jax.data.archive import unpack
from oct_jax.data.prepare import prepare
from oct_jax.data.prepared import open_prepared
from oct_jax.data.preprocess import Preprocess
from oct_jax.task import KERMANY
from oct_jax.types import UserError

PATIENTS = 6


def jpeg(seed, size=(40, 30)):
    levels = np.random.default_rng(seed).integers(0, 256, (5, 6), np.uint8)
    out = io.BytesIO()
    Image.fromarray(levels).resize(size).save(out, "JPEG")
    return out.getvalue()


def make_scans(root, patients=PATIENTS):
    for number, label in enumerate(KERMANY.classes):
        (root / label).mkdir(parents=True)
        for patient in range(patients):
            name = f"{label}-{patient * 4 + number + 1}-1.jpeg"
            (root / label / name).write_bytes(jpeg(100 * number + patient))
    return root


@pytest.fixture
def scans(tmp_path):
    return make_scans(tmp_path / "scans")


def make(root, out, **settings):
    size, resize = settings.pop("size", 224), settings.pop("resize", "squash")
    if settings.pop("cache", False):
        settings["cache"] = Preprocess(size=size, resize=resize, mean=(0.0,), std=(1.0,))
    return prepare(str(root), out, **settings)


def left_beside(scans):
    return sorted(path.name for path in scans.parent.iterdir() if path.name != scans.name)


def zipped(scans, path, **changes):
    """A zip of the scans; `changes` adds members by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(scans.rglob("*.jpeg")):
            archive.write(file, f"OCT2017/{file.relative_to(scans)}")
        for name, data in changes.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("cache", [False, True])
def test_nothing_but_the_result_is_left(scans, tmp_path, cache):
    lines = make(scans, tmp_path / "out", cache=cache, size=32)
    assert left_beside(scans) == ["out"]
    assert any("data=" in line for line in lines)
    assert len(open_prepared(tmp_path / "out")) == 4 * PATIENTS


@pytest.mark.parametrize("cache", [False, True])
def test_a_full_disk_is_one_line_and_leaves_nothing(monkeypatch, scans, tmp_path, cache):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if cache:
        monkeypatch.setattr("oct_jax.data.scans.resize_scan", full)
    else:
        monkeypatch.setattr(ArrayRecordFileAdapter, "write_examples", full)
    with pytest.raises(UserError, match=r"the disk is full; nothing was kept.*$"):
        make(scans, tmp_path / "out", cache=cache, size=32)
    assert left_beside(scans) == []


def test_a_disk_known_to_be_too_small_is_told_before_work(monkeypatch, scans, tmp_path):
    usage = prepare_module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="the disk is full"):
        make(scans, tmp_path / "out")


def test_a_file_that_changes_meanwhile_is_one_line(monkeypatch, scans, tmp_path):
    path = scans / "CNV" / "CNV-1-1.jpeg"
    write_records = prepare_module._write_records

    def change_first(source, result):
        path.write_bytes(jpeg(999))
        return write_records(source, result)

    monkeypatch.setattr(prepare_module, "_write_records", change_first)
    with pytest.raises(UserError, match="changed while it was prepared"):
        make(scans, tmp_path / "out")
    assert left_beside(scans) == []


def test_killed_in_the_middle_there_is_nothing_under_the_name_and_a_rerun_completes(
    scans, tmp_path
):
    code = (
        "import sys, time\n"
        "from oct_jax.data import prepare, prepared\n"
        "prepare.write_manifest = lambda *_: (print('here', flush=True), time.sleep(60))\n"
        "prepare.prepare(sys.argv[1], sys.argv[2])\n"
    )
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", code, scans, out], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "here\n"  # the records are written, the rest is not
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.1)
    (left,) = left_beside(scans)
    assert left.startswith(".out.")
    make(scans, out)
    assert left_beside(scans) == ["out"]


def test_the_first_of_two_at_once_is_whole_and_the_second_is_refused(monkeypatch, scans, tmp_path):
    write_manifest = prepare_module.write_manifest

    def meanwhile_another(records, path):
        monkeypatch.setattr(prepare_module, "write_manifest", write_manifest)
        make(scans, tmp_path / "out")
        write_manifest(records, path)

    monkeypatch.setattr(prepare_module, "write_manifest", meanwhile_another)
    with pytest.raises(UserError, match=r"out: cannot be written \(.*not empty"):
        make(scans, tmp_path / "out")
    assert left_beside(scans) == ["out"]
    assert len(open_prepared(tmp_path / "out")) == 4 * PATIENTS


def test_a_zip_gives_what_its_folder_gives(scans, tmp_path):
    make(scans, tmp_path / "plain")
    make(zipped(scans, tmp_path / "scans.zip"), tmp_path / "from_zip")
    plain, from_zip = (open_prepared(tmp_path / name) for name in ("plain", "from_zip"))
    assert {r.sha256 for r in plain.records} == {r.sha256 for r in from_zip.records}
    assert left_beside(scans) == ["from_zip", "plain", "scans.zip"]


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("../CNV-1-1.jpeg", b"x", "outside the archive"),
        ("/etc/CNV-1-1.jpeg", b"x", "outside the archive"),
        ("a\\..\\..\\x.jpeg", b"x", "outside the archive"),
        ("C:/x.jpeg", b"x", "outside the archive"),
        ("OCT2017/CNV/CNV-77-1.bmp", bytes(5 * 2**20), "decompression bomb"),
    ],
)
def test_a_hostile_zip_is_refused_before_anything_is_unpacked(scans, tmp_path, name, data, line):
    archive = zipped(scans, tmp_path / "scans.zip", **{name: data})
    with pytest.raises(UserError, match=line) as raised:
        make(archive, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert left_beside(scans) == ["scans.zip"]


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_a_truncated_zip_is_refused(scans, tmp_path, kept):
    archive = zipped(scans, tmp_path / "scans.zip")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(UserError, match="not a readable zip"):
        make(archive, tmp_path / "out")
    assert left_beside(scans) == ["scans.zip"]


def test_a_member_with_a_wrong_checksum_is_refused(scans, tmp_path):
    archive = zipped(scans, tmp_path / "scans.zip")
    damaged = bytearray(archive.read_bytes())
    damaged[300] ^= 255
    archive.write_bytes(damaged)
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError, match="not a readable zip"):
        unpack(archive, tmp_path / "to")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"root": "nowhere"}, "no such folder: nowhere"),
        ({"root": "nowhere.zip"}, "no such file: nowhere.zip"),
        ({"root": "phantom"}, "nothing to prepare"),
        ({"root": "scans", "out": "scans"}, "exists"),
        ({"root": "scans", "out": "scans/CNV/CNV-1-1.jpeg/out"}, "cannot be written"),
        ({"root": "scans", "manifest": "no.csv"}, "cannot read manifest no.csv"),
        ({"root": "hollow"}, "holds no scans"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, scans, tmp_path, settings, line):
    monkeypatch.chdir(tmp_path)
    for label in KERMANY.classes:
        (tmp_path / "hollow" / label).mkdir(parents=True)
    with pytest.raises(UserError, match=line) as raised:
        prepare(**({"root": "scans", "out": "out"} | settings))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", ["size=128", "resize=squash"])
def test_what_only_a_cache_has_is_refused_without_one(words):
    with pytest.raises(UserError, match=f"{words}: records hold scans as they are; add cache=true"):
        parse(PrepareConfig, ["root=scans", "out=out", words], {})
    parse(PrepareConfig, ["root=scans", "out=out", words, "cache=true"], {})


def test_bad_scans_are_refused_or_recorded(scans, tmp_path):
    (scans / "CNV" / "CNV-1-1.jpeg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="are bad"):
        make(scans, tmp_path / "out")
    make(scans, tmp_path / "out", on_bad_scan="skip")
    source = open_prepared(tmp_path / "out")
    assert len(source) == 4 * PATIENTS - 1
    assert [bad["path"] for bad in source.report["prepared"]["report"]["bad"]] == [
        "CNV/CNV-1-1.jpeg"
    ]


def test_the_command(scans, tmp_path):
    words = [sys.executable, "-m", "oct_jax.data", "prepare"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    made = subprocess.run([*words, "scans", "out=out"], **options)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[0].startswith("24 scans of 24 patients")
    again = subprocess.run([*words, "scans", "out=out"], **options)
    assert again.returncode == 2
    assert (
        again.stderr == "error: out exists; name another folder, or remove it to prepare it anew\n"
    )
