"""`explain` from words to pages."""

import dataclasses
import hashlib
import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest
from narrow_run import make_run
from PIL import Image

from oct_jax.commands import entry as command
from oct_jax.commands.cli import explain as main
from oct_jax.commands.explain import TRAINED_ON
from oct_jax.data.manifest import read_manifest, write_manifest
from oct_jax.data.phantom import phantom_scans
from oct_jax.explain.gradcam import Explained
from oct_jax.files import write_json
from oct_jax.model.inference import Outputs
from oct_jax.reports import doubts
from oct_jax.reports.doubts import EMPTY, UNSTABLE, doubts_of
from oct_jax.runs.load import load
from oct_jax.runs.paths import latest_run
from oct_jax.runs.verified import fingerprint, is_verified, report_path
from oct_jax.task import KERMANY
from oct_jax.types import UserError


def call(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["explain", *map(str, words)])
    return command.run(main)


def test_one_scan(run, scans, monkeypatch, capsys):
    assert call(monkeypatch, scans / "a.png", f"run={run}", "target=DME") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for part in ("a.explained.png", "SYNTHETIC", "unverified", "Research use", "of DME"):
        assert part in lines[1]
    said = json.loads((scans / "a.explained.json").read_text())
    expected = load(run).explain(scans / "a.png", "DME")
    assert said["label"] == expected.prediction.label
    assert said["target"] == "DME"
    assert said["synthetic"] is True
    assert list(said["probabilities"].values()) == expected.prediction.probabilities.tolist()
    np.testing.assert_allclose(said["map"]["cells"], expected.cells, atol=1e-6)
    with Image.open(scans / "a.explained.png") as page, Image.open(scans / "a.png") as scan:
        assert page.width > scan.width
        assert page.height >= scan.height


def test_the_target_is_one_of_the_run_s_own_classes(run, scans, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    for info, name in zip(config["task"]["classes"], "ABCD", strict=True):
        info["name"] = name
    write_json(folder / "config.json", config)
    assert call(monkeypatch, scans / "a.png", f"run={folder}", "target=B") == 0
    assert json.loads((scans / "a.explained.json").read_text())["target"] == "B"
    capsys.readouterr()
    assert call(monkeypatch, scans / "a.png", f"run={folder}", "target=DME") == 2
    error = capsys.readouterr().err
    assert "target=DME: must be one of A, B, C, D" in error
    assert error.count("\n") == 1


def test_a_folder_gets_a_contact_sheet_and_a_bad_scan_stops_no_other(
    run, scans, tmp_path, monkeypatch, capsys
):
    (scans / "text.png").write_text("not a picture")
    out = tmp_path / "out"
    assert call(monkeypatch, scans, f"run={run}", f"out={out}") == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "1 of 4 scans failed" in captured.err
    assert "text.png" in captured.err
    written = {str(path.relative_to(out)) for path in out.rglob("*.*")}
    pages = {f"{name}.explained.{end}" for name in ("a", "b", "more/c") for end in ("png", "json")}
    assert written == pages | {"contact-sheet.explained.png"}
    assert not list(scans.rglob("*.explained.*"))


def test_a_name_that_is_not_utf8_stops_no_other_scan(run, scans, tmp_path, monkeypatch, capsys):
    os.rename(os.fsencode(scans / "a.png"), os.fsencode(scans) + b"/a\xff.png")
    (scans / "notes.txt").write_text("")
    assert call(monkeypatch, scans, f"run={run}", f"out={tmp_path / 'out'}") == 0
    assert len(list((tmp_path / "out").rglob("*.explained.json"))) == 3
    assert "1 files skipped" in capsys.readouterr().out


def test_pictures_of_every_kind(run, tmp_path, monkeypatch):
    scan = phantom_scans(patients=24, seed=2).read(0)
    Image.fromarray(scan.astype(np.uint16) * 257).save(tmp_path / "deep.tif")
    opaque = np.full_like(scan, 255)
    Image.fromarray(np.dstack([scan, scan, scan, opaque])).save(tmp_path / "rgba.png")
    Image.fromarray(scan[:10, :10]).save(tmp_path / "tiny.png")
    Image.fromarray(scan).save(tmp_path / "grey.png")
    assert call(monkeypatch, tmp_path, f"run={run}") == 0
    read = {
        name: json.loads((tmp_path / f"{name}.explained.json").read_text())["probabilities"]
        for name in ("deep", "rgba", "tiny", "grey")
    }
    assert read["deep"] == pytest.approx(read["grey"])
    assert read["rgba"] == pytest.approx(read["grey"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no scan given"),
        (["{scans}/a.png", "run={scans}"], "no run here"),
        (["{scans}/a.png", "run=a", "model=b"], "give one of the two"),
        (["{scans}/a.png", "model=none.safetensors"], "no such model file"),
        (["{scans}/a.png", "model={scans}"], "is a folder"),
        (["{scans}/a.png", "model={scans}/a.png"], "no such model file"),
        (["{scans}/a.png", "run=mine.safetensors"], "named by model="),
        (["{scans}/none.png"], "no such file"),
        ([""], "names no scan"),
        (["{scans}/a\nb.png"], "holds a line break"),
    ],
)
def test_mistakes_are_one_line(words, said, scans, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *(word.format(scans=scans) for word in words)) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_a_scan_that_was_trained_on_is_marked(run, scans, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(run, tmp_path / "copy")
    records = list(read_manifest(folder / "manifest.csv"))
    place = next(number for number, record in enumerate(records) if record.split == "train")
    digest = hashlib.sha256((scans / "a.png").read_bytes()).hexdigest()
    records[place] = dataclasses.replace(records[place], sha256=digest)
    write_manifest(records, folder / "manifest.csv")
    assert call(monkeypatch, scans / "a.png", scans / "b.png", f"run={folder}") == 0
    marked = [line for line in capsys.readouterr().out.splitlines() if TRAINED_ON in line]
    assert len(marked) == 1
    assert "a.explained.png" in marked[0]
    assert TRAINED_ON in json.loads((scans / "a.explained.json").read_text())["marks"]


def test_a_model_file_explains_as_its_run_does(run, scans, tmp_path, monkeypatch, capsys):
    load(run).save(tmp_path / "narrow.safetensors")
    pages = {}
    for word in (f"run={run}", f"model={tmp_path / 'narrow.safetensors'}"):
        assert call(monkeypatch, scans / "a.png", word) == 0
        pages[word] = json.loads((scans / "a.explained.json").read_text())
        for name in ("model", "run"):
            del pages[word][name]
    first, second = pages.values()
    assert first == second
    assert "by " + str(tmp_path / "narrow.safetensors") in capsys.readouterr().out


def test_without_a_run_the_starter_explains(scans, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, scans / "a.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "no trained run under runs/: by the starter model" in lines[0]
    assert "by starter" in lines[2]
    assert "unverified" not in lines[2]
    page = json.loads((scans / "a.explained.json").read_text())
    assert (page["model"], page["run"], page["synthetic"]) == ("starter", None, False)


def test_the_newest_run_is_taken(tmp_path, monkeypatch):
    for time, name in enumerate(("new", "old")):
        run = make_run(tmp_path / "runs" / name)
        for best in (run / "frozen" / "best").iterdir():
            os.utime(best, (100 - time, 100 - time))
    (tmp_path / "runs" / "begun").mkdir()
    assert latest_run(tmp_path / "runs").name == "new"


def test_scans_may_be_iterators_stacks_pictures_and_jax_arrays(run):
    classifier, source = load(run), phantom_scans(patients=24, seed=2)
    scans = [source.read(index) for index in range(2)]
    expected = classifier.predict(scans)
    pictures = map(Image.fromarray, scans)
    for several in (iter(scans), pictures, np.stack(scans), jax.numpy.stack(scans)):
        for one, other in zip(classifier.predict(several), expected, strict=True):
            np.testing.assert_array_equal(one.logits, other.logits)
    alone = classifier.predict(jax.numpy.asarray(scans[0]))
    np.testing.assert_allclose(alone.logits, expected[0].logits, atol=1e-4)
    assert classifier.explain(Image.fromarray(scans[0])).scan_shape == scans[0].shape
    assert len(classifier.explain(np.stack(scans))) == 2
    for wrong in (None, b"scan.png", 3):
        with pytest.raises(TypeError):
            classifier.predict(wrong)
        with pytest.raises(TypeError):
            load(wrong)


def test_batches_and_single_scans_agree(run):
    classifier, source = load(run), phantom_scans(patients=24, seed=2)
    scans = [source.read(index) for index in range(9)]
    together = classifier.explain(scans, flip=True)
    alone = classifier.explain(scans[8], flip=True)
    assert alone.prediction.label == together[8].prediction.label
    np.testing.assert_allclose(alone.cells, together[8].cells, atol=1e-3)
    assert alone.target == alone.prediction.label
    assert classifier.explain([]) == []
    labels = [one.label for one in classifier.predict(scans)]
    assert [one.prediction.label for one in together] == labels


def test_a_sequence_holds_scans_of_several_sizes(run):
    classifier = load(run)
    scans = [np.full((40 + index, 90 - index), 9 * index, np.uint8) for index in range(12)]
    for _ in range(8):  # the run-time type checker looks at one item of a list, taken at random
        assert len(classifier.predict(scans)) == len(classifier.explain(scans)) == len(scans)


def test_unknown_targets_and_methods(run):
    classifier, scan = load(run), np.zeros((20, 20), np.uint8)
    with pytest.raises(UserError, match="target=AMD: must be one of CNV"):
        classifier.explain(scan, "AMD")


def test_only_a_passed_report_of_this_model_verifies(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "copy")
    classifier = load(folder)
    passed = {"passed": True, "model": fingerprint(classifier), "method": "gradcam", "flip": False}
    passed |= {"scans": 8}
    report_path(folder).parent.mkdir()
    assert not is_verified(folder, classifier, "gradcam", False)
    for change, verified in (
        ({}, True),
        ({"passed": False}, False),
        ({"model": "0" * 16}, False),
        ({"method": "gradcam++"}, False),
        ({"flip": True}, False),
    ):
        write_json(report_path(folder), passed | change)
        assert is_verified(folder, classifier, "gradcam", False) is verified


def test_training_moves_the_fingerprint(run, tmp_path):
    other = load(make_run(tmp_path / "other", seed=1))
    assert fingerprint(load(run)) != fingerprint(other)
    assert fingerprint(load(run)) == fingerprint(load(run))


def test_a_silent_head_is_called_empty(run):
    classifier = load(run)
    head = jax.tree.map(np.zeros_like, classifier.variables.params["head"])
    object.__setattr__(
        classifier,
        "variables",
        classifier.variables._replace(params=classifier.variables.params | {"head": head}),
    )
    scan = np.zeros((64, 64), np.uint8)
    one = classifier.explain(scan, KERMANY.classes[0])
    assert not one.heatmap.any()
    assert EMPTY in doubts_of(classifier, [one], [scan])[0]


def test_a_peak_that_noise_moves_is_called_unstable(run, monkeypatch):
    classifier, scan = load(run), np.zeros((64, 64), np.uint8)
    one = classifier.explain(phantom_scans(patients=24, seed=2).read(0), "CNV")
    corners = np.zeros((2, *one.cells.shape), np.float32)
    corners[0, 0, 0] = corners[1, -1, -1] = 1
    at_corner = dataclasses.replace(one, cells=corners[0])
    for moved, unstable in ((corners[0], False), (corners[1], True)):
        maps = np.stack([corners[0], moved, *corners[:1].repeat(8, 0)])
        outputs = Outputs(np.zeros((10, 4), np.float32), np.zeros((10, 1), np.float32))
        explained = Explained(outputs, maps)
        monkeypatch.setattr(doubts, "explain_all", lambda *_, given=explained: given)
        assert (UNSTABLE in doubts_of(classifier, [at_corner], [scan])[0]) is unstable
