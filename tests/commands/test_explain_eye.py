"""`explain` of volumes, from words to pages."""

import csv
import json
import shutil
import sys

import pytest
import volume_files as files

from oct_jax.commands import entry as command
from oct_jax.commands.cli import evaluate
from oct_jax.commands.cli import explain as main
from oct_jax.runs.load import load

IMAGES = files.bscans(7)


def call(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["explain", *map(str, words)])
    return command.run(main)


def written(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.explained.*")}


def test_an_export_gets_a_page_and_a_json(run, tmp_path, monkeypatch, capsys):
    folder = files.write_heyex(tmp_path / "right", IMAGES)
    assert call(monkeypatch, folder, f"run={run}") == 0
    assert written(tmp_path) == {"right/right.explained.html", "right/right.explained.json"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("right: ")
    assert "certainty not calibrated" in lines[0]
    assert "Research use" in lines[1]
    content = json.loads((folder / "right.explained.json").read_text())
    eye = content["eye"]
    assert eye["calibrated"] is False
    assert eye["referral"] in ("urgent", "routine", "observe", "defer")
    assert eye["laterality"] == "R"
    assert list(eye["probabilities"]) == ["CNV", "DME", "DRUSEN", "NORMAL"]
    assert [scan["number"] for scan in content["scans"]] == list(range(1, 8))
    assert content["volume"]["micrometres_axial_lateral"] == [3.9, 11.7]
    page = (folder / "right.explained.html").read_text()
    for part in ("Right eye", eye["reason"], "SYNTHETIC", "not calibrated", "Research use"):
        assert part in page
    assert page.count("<img") == 1 + sum(scan["telling"] for scan in content["scans"])
    # What was written is neither a scan nor part of the volume.
    assert call(monkeypatch, folder, f"run={run}") == 0
    assert len(written(tmp_path)) == 2


@pytest.mark.parametrize("kind", ["vol", "pages", "numbered"])
def test_other_formats(run, tmp_path, monkeypatch, kind):
    place = {
        "vol": lambda: files.write_vol(tmp_path / "eye.vol", IMAGES),
        "pages": lambda: files.write_pages(tmp_path / "eye.tif", IMAGES),
        "numbered": lambda: files.write_numbered(tmp_path / "eye", IMAGES),
    }[kind]()
    out = tmp_path / "out"
    assert call(monkeypatch, place, f"run={run}", f"out={out}") == 0
    assert written(out) == {"eye.explained.html", "eye.explained.json"}


def test_many_eyes_get_one_page_by_urgency(run, scans, monkeypatch, capsys):
    files.write_heyex(scans / "eyes" / "one", IMAGES)
    files.write_vol(scans / "eyes" / "two.vol", files.bscans(7, seed=3))
    (scans / "eyes" / "bad.vol").write_bytes(b"HSF-OCT-103")
    assert call(monkeypatch, scans, f"run={run}", f"out={scans / 'out'}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "1 of 6 scans and volumes failed" in error
    assert "bad.vol" in error
    eyes = {name for name in written(scans / "out") if name.startswith("eye")}
    assert eyes == {
        "eyes/one.explained.html",
        "eyes/one.explained.json",
        "eyes/two.explained.html",
        "eyes/two.explained.json",
        "eyes.explained.html",
        "eyes.explained.csv",
    }
    # The scans beside them are explained as ever.
    assert "a.explained.png" in written(scans / "out")
    with (scans / "out" / "eyes.explained.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["eye"] for row in rows} == {"one", "two"}
    order = ["urgent", "defer", "routine", "observe"]
    places = [order.index(row["referral"]) for row in rows]
    assert places == sorted(places)
    assert "bad.vol" in (scans / "out" / "eyes.explained.html").read_text()


def test_missing_bscans_are_named_on_the_page(run, tmp_path, monkeypatch, capsys):
    folder = files.write_heyex(tmp_path / "eye", IMAGES)
    (folder / "F00001.tif").unlink()
    (folder / "F00005.tif").write_bytes(b"II*\x00torn")
    assert call(monkeypatch, folder, f"run={run}") == 0
    told = capsys.readouterr().out
    page = (folder / "eye.explained.html").read_text()
    for text in (told, page):
        assert "1 of 7 B-scans are missing from the export: 2" in text
        assert "B-scan 6: not a JPEG, PNG, TIFF or BMP image" in text


def test_nothing_that_is_written_or_printed_names_the_patient(run, tmp_path, monkeypatch, capsys):
    files.write_heyex(tmp_path / "in" / "one", IMAGES)
    files.write_vol(tmp_path / "in" / f"{files.PLANTED[2]}.vol", IMAGES)
    out = tmp_path / "out"
    assert call(monkeypatch, tmp_path / "in", f"run={run}", f"out={out}") == 0
    captured = capsys.readouterr()
    contents = [captured.out, captured.err]
    for path in out.rglob("*"):
        contents.append(path.name)
        if path.is_file():
            contents.append(path.read_bytes().decode("utf-8", "replace"))
    for content in contents:
        for word in files.PLANTED:
            assert word.casefold() not in content.casefold()


def test_a_folder_that_cannot_be_written_to_is_named_at_once(run, tmp_path, monkeypatch, capsys):
    folder = files.write_heyex(tmp_path / "eye", IMAGES)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert call(monkeypatch, folder, f"run={run}") == 2
    assert "give out=FOLDER" in capsys.readouterr().err


@pytest.fixture
def labelled(tmp_path):
    """Class folders with two eyes each."""
    for number, name in enumerate(("CNV", "NORMAL")):
        files.write_heyex(tmp_path / "eyes" / name / "a", files.bscans(3, seed=number))
        files.write_vol(tmp_path / "eyes" / name / "b.vol", files.bscans(3, seed=number + 5))
    return tmp_path / "eyes"


def recalibrated(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate", "recalibrate", "eyes=true", *words])
    return command.run(evaluate)


def test_a_model_file_keeps_a_rule_for_eyes(run, labelled, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    load(run).save("mine.safetensors")
    assert recalibrated(monkeypatch, f"data={labelled}", "model=mine.safetensors") == 0
    assert "mine-recalibrated.safetensors" in capsys.readouterr().out
    eye = labelled / "CNV" / "a"
    assert call(monkeypatch, eye, "model=mine-recalibrated.safetensors", "out=out") == 0
    assert "(calibrated by eye)" in capsys.readouterr().out
    # Written once, and never over a file that is there.
    assert recalibrated(monkeypatch, f"data={labelled}", "model=mine.safetensors") == 2
    assert "exists" in capsys.readouterr().err


def test_a_rule_for_eyes_is_fitted_and_used(run, labelled, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    assert recalibrated(monkeypatch, f"data={labelled}", f"run={copy}") == 0
    told = capsys.readouterr().out
    assert "4 eyes of" in told
    assert "too few for coverage=0.9" in told
    folder = tmp_path / "eyes" / "NORMAL" / "a"
    assert call(monkeypatch, folder, f"run={copy}", f"out={tmp_path}") == 0
    assert "(calibrated by eye)" in capsys.readouterr().out
    eye = json.loads((tmp_path / "a.explained.json").read_text())["eye"]
    assert eye["calibrated"] is True
    assert eye["reason"].startswith("possible: ")
    assert "Calibrated on labelled eyes" in (tmp_path / "a.explained.html").read_text()
    # The rule for scans is as it was.
    assert not (copy / "frozen" / "decision").exists()


def test_eyes_without_volumes_are_asked_for(run, tmp_path, monkeypatch, capsys):
    files.write_numbered(tmp_path / "CNV", IMAGES[:1], "CNV-1-1.png")
    for words, line in (
        ((f"data={tmp_path}",), "no volumes in its class folders"),
        ((), "say data=FOLDER"),
    ):
        assert recalibrated(monkeypatch, f"run={run}", *words) == 2
        assert line in capsys.readouterr().err
