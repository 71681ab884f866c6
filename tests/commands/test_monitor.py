"""`evaluate monitor` from words to advice, page and exit code."""

import dataclasses
import json
import shutil
import sys

import cv2
import numpy as np
import pytest

from oct_jax import load
from oct_jax.commands import entry as command
from oct_jax.commands.cli import evaluate as main
from oct_jax.data.phantom import phantom_scans
from oct_jax.decision.outliers import fit_outliers
from oct_jax.decision.rule import fit_rule
from oct_jax.decision.storage import write_rule
from oct_jax.metrics.monitor import monitor
from oct_jax.model.inference import Outputs, predict_source
from oct_jax.model.protocol import fingerprint_of


@pytest.fixture(scope="module")
def calibrated(run, tmp_path_factory):
    """A run with a rule that was fitted on half of its phantoms, and a folder of the others."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("calibrated") / "run")
    classifier, scans = load(folder), phantom_scans(patients=80, seed=3)
    outputs = predict_source(
        classifier.model, classifier.variables, scans, classifier.preprocess, threads=2
    )
    parts = np.array(scans.patients, int) // 4 % 3  # classes take turns: all four in each part
    of = [Outputs(*(np.asarray(rows)[parts == part] for rows in outputs)) for part in (0, 1)]
    patients = np.array(scans.patients)[parts == 1]
    counts = dict.fromkeys(classifier.task.classes, 20)
    rule = fit_rule(
        of[1],
        scans.labels[parts == 1],
        fit_outliers(of[0].pooled),
        patients=patients,
        fitted_on={"scans": counts, "patients_of": counts},
        model=fingerprint_of(classifier.variables),
    )
    write_rule(folder / classifier.stage, rule)
    new = folder.parent / "new"
    new.mkdir()
    for index in np.flatnonzero(parts == 2):
        record = scans.records[index]
        name = f"{record.label}-{record.patient}-{index}.png"
        cv2.imwrite(str(new / name), scans.read(int(index)))
    return folder, new


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["evaluate", "monitor", *map(str, words)])
    return command.run(main)


def test_scans_like_the_calibration_scans_raise_no_alarm(calibrated, monkeypatch, capsys, tmp_path):
    run, new = calibrated
    assert call(monkeypatch, f"run={run}", f"data={new}", f"out={tmp_path / 'out'}") == 0
    assert "No alarm" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["advice"] in ("go on", "adapt")
    assert not report["scans_without_patient"]
    assert len(report["periods"]) == 2
    assert "No alarm" in (tmp_path / "out" / "report.html").read_text()


def test_other_scans_raise_one_by_exit_code_and_by_month(calibrated, monkeypatch, capsys, tmp_path):
    source, new = calibrated
    run = shutil.copytree(source, tmp_path / "run")
    rule = load(run).rule
    # Random weights hardly tell one picture from another: what is usual is moved instead.
    usual = rule.reference._replace(scores=rule.reference.scores / 1000)
    write_rule(run / "frozen", dataclasses.replace(rule, reference=usual))
    clinic = tmp_path / "clinic"
    clinic.mkdir()
    lines = ["path,patient,date"]
    for number, path in enumerate(sorted(new.glob("*.png"))):
        shutil.copy(path, clinic)
        lines.append(f"{path.name},p{number},2026-{number % 2 + 1:02}-05")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    (clinic / "torn.png").write_bytes(b"torn")
    words = (f"run={run}", f"data={clinic}", f"manifest={tmp_path / 'list.csv'}")
    assert call(monkeypatch, *words) == 1
    assert "ALARM" in capsys.readouterr().out
    report = json.loads((run / "monitoring" / "clinic" / "report.json").read_text())
    assert report["alarm"]
    assert report["alarm_after_patients"] <= 20
    assert [period["name"] for period in report["periods"][2:]] == ["2026-01", "2026-02"]
    rows = (run / "monitoring" / "clinic" / "scans.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows[1:]] == sorted(row.split(",")[2] for row in rows[1:])


@pytest.mark.parametrize(
    ("manifest", "line"),
    [
        ("file\na.png\n", "needs a column path"),
        ("path\nabsent.png\n", "line 2: 'absent.png' is not in"),
        ("path,date\na.png,24.11.2026\n", "line 2: date '24.11.2026': write 2026-11-24"),
    ],
)
def test_a_wrong_manifest_is_one_line(calibrated, monkeypatch, capsys, tmp_path, manifest, line):
    run, new = calibrated
    (tmp_path / "scans").mkdir()
    shutil.copy(next(new.glob("*.png")), tmp_path / "scans" / "a.png")
    (tmp_path / "list.csv").write_text(manifest)
    words = (f"run={run}", f"data={tmp_path / 'scans'}", f"manifest={tmp_path / 'list.csv'}")
    assert call(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert line in error
    assert len(error.splitlines()) == 1
    assert not (run / "monitoring" / "scans").exists()


def test_a_model_without_calibration_scores_is_named(run, calibrated, monkeypatch, capsys):
    assert call(monkeypatch, f"run={run}", f"data={calibrated[1]}") == 2
    error = capsys.readouterr().err
    assert "keeps no calibration scores" in error
    assert str(run) in error


def test_a_model_file_keeps_what_monitoring_needs(calibrated, tmp_path):
    classifier = load(calibrated[0])
    classifier.save(tmp_path / "mine.safetensors")
    again = load(tmp_path / "mine.safetensors").rule.reference
    for before, after in zip(classifier.rule.reference, again, strict=True):
        np.testing.assert_array_equal(before, after)


def test_pictures_without_a_retina_are_counted_and_not_compared(calibrated):
    rule = load(calibrated[0]).rule
    outliers = rule.outliers._replace(threshold=1e-7, no_retina=1e-6)
    rule = dataclasses.replace(rule, outliers=outliers)
    pooled = np.random.default_rng(0).random((5, len(outliers.mean)), np.float32)
    with pytest.raises(Exception, match="none of 5 pictures shows a retina"):
        monitor(rule, Outputs(np.zeros((5, 4), np.float32), pooled), list("abcde"))
