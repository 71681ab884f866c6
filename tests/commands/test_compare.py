"""`compare A B`: models and somebody else's predictions, from words to files."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from narrow_run import make_run
from PIL import Image

from oct_jax import KERMANY, load
from oct_jax.commands import entry as command
from oct_jax.commands.cli import evaluate as main
from oct_jax.data.phantom import phantom_scans
from oct_jax.metrics.comparison import Answers, compare
from oct_jax.runs.prediction_file import read_prediction_file


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with two model files, and scans with predictions of neither."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("a", "b")):
        load(make_run(folder / name, seed=seed)).save(folder / f"{name}.safetensors")
    source = phantom_scans(patients=24, seed=5)
    for index, record in enumerate(source.records):
        (folder / "scans" / record.label).mkdir(parents=True, exist_ok=True)
        name = f"{record.label}-{9000 + index // 2}-{index}.png"
        Image.fromarray(source.read(index)).save(folder / "scans" / record.label / name)
    return folder


def call(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate", "compare", *map(str, words)])
    return command.run(main)


def write_predictions(path: Path, scans: Path, *, better: bool, **columns: str) -> Path:
    """Predictions of every scan by someone else: right on all, or on two of three."""
    rng = np.random.default_rng(int(better))
    rows = []
    for number, file in enumerate(sorted(scans.rglob("*.png"))):
        label = file.parent.name
        own = KERMANY.index(label)
        guess = own if better or number % 3 else (own + 1) % 4
        odds = np.eye(4)[guess] * 3 + rng.random(4) + 0.1
        row = {"file": file.name, "patient": file.name.split("-")[1], "label": label}
        row |= {
            n: f"{value / odds.sum():.6f}" for n, value in zip(KERMANY.classes, odds, strict=True)
        }
        rows.append(row | columns)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_two_files_of_predictions(models, tmp_path, monkeypatch, capsys):
    first = write_predictions(tmp_path / "first.csv", models / "scans", better=True)
    second = write_predictions(tmp_path / "b.csv", models / "scans", better=False, referral="defer")
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, first, second, "resamples=50") == 0
    (path,) = tmp_path.glob("comparisons/first-b-*/comparison.json")
    report = json.loads(path.read_text())
    accuracy = report["figures"]["accuracy"]
    assert accuracy["first"]["value"] == 1
    assert accuracy["second"]["value"] == pytest.approx(2 / 3, abs=0.05)
    assert accuracy["difference"]["interval"][0] > 0
    assert report["mcnemar"]["accuracy"]["only_second"] == 0
    assert report["patients"] < report["scans"]
    assert report["areas"]["urgent"]["first"] > report["areas"]["urgent"]["second"]
    assert report["figures"]["deferred"]["first"]["value"] is None
    assert report["figures"]["deferred"]["second"]["value"] == 1
    page = path.with_suffix(".html").read_text()
    assert report["in_words"] in capsys.readouterr().out
    assert "a significant difference" in report["in_words"]
    assert "Decision curves" in page
    assert "http" not in page


def test_two_models_on_a_folder(models, tmp_path, monkeypatch, capsys):
    words = (models / "a.safetensors", models / "b.safetensors", f"data={models / 'scans'}")
    assert call(monkeypatch, *words, f"out={tmp_path / 'out'}", "resamples=10") == 0
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert report["synthetic"]
    assert "SYNTHETIC" in capsys.readouterr().out
    source = phantom_scans(patients=24, seed=5)
    assert report["scans"] == len(source)
    for side, name in (("first", "a"), ("second", "b")):
        answers = load(models / f"{name}.safetensors").predict(
            [source.read(index) for index in range(len(source))]
        )
        pairs = zip(answers, source.records, strict=True)
        right = np.mean([answer.label == record.label for answer, record in pairs])
        assert report["figures"]["accuracy"][side]["value"] == pytest.approx(right)


def test_a_run_and_a_file_on_labels_of_another_clinic(models, tmp_path, monkeypatch):
    predictions = write_predictions(tmp_path / "theirs.csv", models / "scans", better=True)
    clinic = tmp_path / "clinic"
    for file in (models / "scans").rglob("*.png"):
        folder = "AMD" if file.parent.name in ("CNV", "DRUSEN") else file.parent.name
        (clinic / folder).mkdir(parents=True, exist_ok=True)
        name = file.name.replace(file.parent.name, folder, 1)
        (clinic / folder / name).write_bytes(file.read_bytes())
    text = predictions.read_text().replace("CNV-", "AMD-").replace("DRUSEN-", "AMD-")
    predictions.write_text(text)
    words = (predictions, models / "a", f"data={clinic}", "labels=AMD:CNV+DRUSEN", "resamples=10")
    assert call(monkeypatch, *words, f"out={tmp_path / 'out'}") == 0
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert report["figures"]["accuracy"]["first"]["value"] == 1
    assert report["scans_without_tier"] == report["scans_by_label"]["AMD"]
    assert report["urgent_scans"] == report["scans_by_label"]["DME"]
    assert set(report["areas"]) == {"AMD", "DME", "NORMAL", "urgent"}


def test_scans_that_a_model_was_trained_on_are_refused_left_out_or_marked(
    models, tmp_path, monkeypatch, capsys
):
    words = (models / "a", models / "b", "split=all", f"out={tmp_path / 'out'}", "resamples=10")
    assert call(monkeypatch, *words) == 2
    assert "leave these scans out with overlap=leave_out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert call(monkeypatch, *words, "overlap=leave_out") == 0
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert report["left_out"] > 0
    assert report["contaminated"] == 0
    assert call(monkeypatch, *words, "overlap=allow") == 0
    assert "CONTAMINATED" in (tmp_path / "out" / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("file,", "name,"), "has no column file"),
        (("CNV,DME", "A,DME"), "has no column CNV"),
        (("patient,", "id,"), "has no column patient"),
        (("label,", "truth,"), "has no column label"),
        ((",CNV,DME,DRUSEN,NORMAL\n", ";CNV;DME;DRUSEN;NORMAL\n"), "has no column CNV"),
        (("0.", "95."), "that sum to 1"),
        ((",DME,0.", ",OTHER,0."), "labels OTHER are not among CNV, DME, DRUSEN, NORMAL"),
    ],
)
def test_mistakes_in_a_file_are_one_line(models, tmp_path, monkeypatch, capsys, change, line):
    first = write_predictions(tmp_path / "first.csv", models / "scans", better=True)
    second = write_predictions(tmp_path / "second.csv", models / "scans", better=False)
    first.write_text(first.read_text().replace("\r\n", "\n").replace(*change))
    assert call(monkeypatch, first, second, f"out={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "0 names given"),
        (("{models}/a",), "1 names given"),
        (("{models}/a", "none.csv"), "none.csv: no such file"),
        (("{models}/a", "{models}/none"), "no run here"),
        (("{models}/a.safetensors", "starter"), "data=: must be given"),
        (("{models}/a", "starter", "prevalence=2"), "prevalence=2"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(models, monkeypatch, capsys, words, line):
    assert call(monkeypatch, *(word.format(models=models) for word in words)) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_files_of_other_scans_are_refused(models, tmp_path, monkeypatch, capsys):
    first = write_predictions(tmp_path / "first.csv", models / "scans", better=True)
    second = write_predictions(tmp_path / "second.csv", models / "scans", better=False)
    lines = second.read_text().splitlines()
    second.write_text("\n".join(lines[:-2]) + "\n")
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, first, second) == 2
    assert "2 are in one of them alone" in capsys.readouterr().err
    assert call(monkeypatch, first, first, f"data={models / 'scans'}", "resamples=10") == 0
    words = (second, models / "a", f"data={models / 'scans'}")
    assert call(monkeypatch, *words) == 2
    assert "has no line for 2 of" in capsys.readouterr().err
    assert len(read_prediction_file(first, KERMANY).files) == len(lines) - 1


def test_a_model_compared_with_itself_does_not_differ():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 40)
    odds = rng.random((40, 4))
    answers = Answers("a", odds / odds.sum(1, keepdims=True), odds.argmax(1) < 2, "")
    patients = tuple(map(str, range(40)))
    report = compare(answers, answers, labels, patients, KERMANY, resamples=20)
    for figure in report["figures"].values():
        assert figure["difference"]["value"] in (0, None)
    assert report["mcnemar"]["accuracy"]["p_patients"] == 1
    assert report["areas"]["urgent"]["clustered"]["p"] == 1
