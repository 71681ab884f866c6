"""`evaluate` and `recalibrate` from words to files."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import volume_files as files
from narrow_run import make_run
from PIL import Image

from oct_jax import KERMANY, load
from oct_jax.commands import entry as command
from oct_jax.commands.cli import evaluate as main
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import read_manifest, write_manifest
from oct_jax.data.phantom import phantom_scans
from oct_jax.data.prepare import prepare
from oct_jax.data.volumes import open_volume
from oct_jax.eye import predict_eye
from oct_jax.runs.scans import select_scans


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "narrow")


def call(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, words)])
    return command.run(main)


def write_scans(root: Path, seed: int, folders: dict[str, str]) -> Path:
    """Phantoms of each class in the folder that stands for it."""
    source = phantom_scans(patients=24, seed=seed)
    for index, record in enumerate(source.records):
        if record.label in folders:
            folder = root / folders[record.label]
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{record.label}-{9000 + index}-1.png"
            if folders[record.label] != record.label:
                name = f"scan{index}.png"
            Image.fromarray(source.read(index)).save(folder / name)
    return root


def test_another_folder_has_the_classes_of_the_run_s_own_task(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    names = dict(zip(KERMANY.classes, "ABCD", strict=True))
    config = json.loads((folder / "config.json").read_text())
    for info in config["task"]["classes"]:
        info["name"] = names[info["name"]]
    (folder / "config.json").write_text(json.dumps(config))
    clinic = write_scans(tmp_path / "clinic", 4, {"DME": "B", "DRUSEN": "ill", "CNV": "ill"})
    scans = select_scans(folder, data=str(clinic), labels="ill:A+C").scans
    assert scans.task.classes == ("ill", "B", "D")
    for record, label in zip(scans.records, scans.labels, strict=True):
        assert record.label == scans.task.classes[label] == record.path.partition("/")[0]


def test_recalibrate_then_evaluate(run, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    assert load(folder).rule is None
    assert call(monkeypatch, "recalibrate", f"run={folder}", "coverage=0.5") == 0
    assert "calibration error" in capsys.readouterr().out
    rule = load(folder).rule
    assert rule.coverage == 0.5
    met = read_manifest(folder / "manifest.csv")
    assert rule.records == tuple(record for record in met if record.split == "calibration")
    assert (
        rule.outliers is None
    )  # the run had no outlier model, and its calibration scans make none

    assert call(monkeypatch, f"run={folder}", "resamples=10") == 0
    told = capsys.readouterr().out
    assert "SYNTHETIC" in told
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    assert report["synthetic"]
    assert not report["contaminated"]
    test = [one for one in read_manifest(folder / "manifest.csv") if one.split == "test"]
    with (folder / "evaluation" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [record.path for record in test]
    for row in rows:
        assert sum(float(row[name]) for name in KERMANY.classes) == pytest.approx(1, abs=1e-4)
        assert row["referral"] in ("urgent", "routine", "observe", "defer")
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert report["figures"]["accuracy"]["value"] == pytest.approx(right)
    page = (folder / "evaluation" / "report.html").read_text()
    assert "http" not in page
    assert "SYNTHETIC" in page
    assert page.count("data:image/") >= 1


@pytest.mark.parametrize("data", ["phantom", None])
def test_the_runs_own_data_means_its_calibration_scans(run, tmp_path, monkeypatch, data):
    folder = shutil.copytree(run, tmp_path / "run")
    words = [f"run={folder}"] + ([f"data={data}"] if data else [])
    assert call(monkeypatch, "recalibrate", *words) == 0
    assert {record.split for record in load(folder).rule.records} == {"calibration"}


def test_scans_that_fitted_the_rule_are_told_apart(run, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    classes = dict(zip(KERMANY.classes, KERMANY.classes, strict=True))
    clinic = write_scans(tmp_path / "clinic", 4, classes)
    assert call(monkeypatch, "recalibrate", f"run={folder}", f"data={clinic}") == 0
    capsys.readouterr()
    words = (f"run={folder}", f"data={clinic}", f"out={tmp_path / 'out'}", "resamples=10")
    assert call(monkeypatch, *words) == 0
    assert "chose the run's epoch or its thresholds" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["chose_epoch_or_thresholds"] == report["scans"]


@pytest.mark.parametrize("split", [None, "test"])
def test_all_scans_of_another_prepared_set_are_used(run, tmp_path, monkeypatch, split):
    folder = shutil.copytree(run, tmp_path / "run")
    clinic = write_scans(
        tmp_path / "clinic", 4, dict(zip(KERMANY.classes, KERMANY.classes, strict=True))
    )
    prepare(str(clinic), str(tmp_path / "prepared"))
    records = read_manifest(tmp_path / "prepared" / "manifest.csv")
    wanted = [record for record in records if split in (None, record.split)]
    if split is None:
        words = (f"run={folder}", f"data={tmp_path / 'prepared'}")
        assert call(monkeypatch, "recalibrate", *words) == 0
        assert len(load(folder).rule.records) == len(records)
        shutil.rmtree(folder / "frozen" / "decision")
    words = (
        f"run={folder}",
        f"data={tmp_path / 'prepared'}",
        f"out={tmp_path / 'out'}",
        "resamples=10",
    )
    assert call(monkeypatch, *words, *([f"split={split}"] if split else [])) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["scans"] == len(wanted)


def test_recalibration_says_what_its_scans_are_too_few_for(run, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    clinic = write_scans(tmp_path / "clinic", 4, {"NORMAL": "NORMAL"})
    assert call(monkeypatch, "recalibrate", f"run={folder}", f"data={clinic}") == 0
    told = capsys.readouterr().out
    for part in (
        "no scan of CNV: every prediction set will hold it",
        "no scan of an urgent class",
        "no outlier model",
    ):
        assert part in told
    prediction = load(folder).predict(phantom_scans(patients=24, seed=9).read(0))
    assert prediction.decision.referral in ("urgent", "defer")


def test_a_rule_of_other_weights_is_not_used(run, tmp_path, monkeypatch):
    folder, other = shutil.copytree(run, tmp_path / "run"), make_run(tmp_path / "other", seed=1)
    assert call(monkeypatch, "recalibrate", f"run={folder}") == 0
    shutil.copytree(folder / "frozen" / "decision", other / "frozen" / "decision")
    assert load(folder).rule is not None
    assert load(other).rule is None


def test_the_api_gives_the_decision(run, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    assert call(monkeypatch, "recalibrate", f"run={folder}") == 0
    source = phantom_scans(patients=24, seed=3)
    prediction = load(folder).predict(source.read(0))
    assert prediction.decision is not None
    assert set(prediction.decision.classes) <= set(KERMANY.classes)
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert prediction.label == KERMANY.classes[int(prediction.probabilities.argmax())]


def test_all_scans_of_the_run_are_refused_or_marked(run, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, f"run={run}", "split=all", f"out={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert "patients that the run was trained on" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    words = (
        f"run={run}",
        "split=all",
        f"out={tmp_path / 'out'}",
        "allow_overlap=true",
        "resamples=10",
    )
    assert call(monkeypatch, *words) == 0
    assert "CONTAMINATED" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["contaminated"]
    assert "CONTAMINATED" in (tmp_path / "out" / "report.html").read_text()


def test_a_report_is_not_written_among_files_of_the_users(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "report.json").write_text("mine")
    assert call(monkeypatch, f"run={run}", f"out={tmp_path}", "resamples=10") == 2
    assert "holds files that oct_jax did not make" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "mine"


def test_validation_scans_are_a_little_too_good(run, tmp_path, monkeypatch, capsys):
    words = (f"run={run}", "split=val", f"out={tmp_path / 'out'}", "resamples=10")
    assert call(monkeypatch, *words) == 0
    assert "chose the run's epoch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        ({"CNV": "CNV"}, None),
        ({"DRUSEN": "drusen", "NORMAL": "NORMAL"}, None),
        ({"CNV": "AMD", "DRUSEN": "AMD", "NORMAL": "Healthy"}, "AMD:CNV+DRUSEN,healthy:NORMAL"),
    ],
)
def test_folders_with_other_labels(run, tmp_path, monkeypatch, capsys, folders, labels):
    root = write_scans(tmp_path / "clinic", 4, folders)
    words = [f"run={run}", f"data={root}", f"out={tmp_path / 'out'}", "resamples=10"]
    assert call(monkeypatch, *words, *([f"labels={labels}"] if labels else [])) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    scans = [one for one in phantom_scans(patients=24, seed=4).records if one.label in folders]
    assert report["scans"] == len(scans)
    assert report["figures"]["accuracy"]["value"] is not None
    if labels:
        assert report["scans_without_patient"] == len(scans)
        assert "name no patient" in capsys.readouterr().out
    counted = {name: n for name, n in report["scans_by_group"].items() if n}
    wanted = {name.upper() for name in folders.values()}
    assert {name.upper() for name in counted} == wanted


def test_other_scans_of_trained_patients_are_found(run, tmp_path, monkeypatch, capsys):
    trained = next(one for one in read_manifest(run / "manifest.csv") if one.split == "train")
    folder = tmp_path / "clinic" / "CNV"
    folder.mkdir(parents=True)
    picture = Image.fromarray(phantom_scans(patients=24, seed=9).read(0))
    picture.save(folder / f"CNV-{trained.patient}-77.png")
    assert call(monkeypatch, f"run={run}", f"data={folder.parent}") == 2
    assert "1 of 1 scans are of patients that the run was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run={tmp}/none",), "no run here"),
        (("run={run}", "data={tmp}/none"), "no such folder"),
        (("run={run}", "labels=AMD:CNV"), "labels="),
        (("run={run}", "split=train"), "split=train"),
        (("run={run}", "data={tmp}/empty", "labels=A:CNV,a:DME"), "labels="),
        (("run={run}", "prevalence=CNV:2"), "prevalence="),
        (("run={run}", "data={tmp}/empty"), "no class folders"),
        (("recalibrate", "run={run}", "coverage=1"), "coverage=1"),
        (("recalibrate", "run={run}", "split=test"), "split"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, capsys, words, said):
    (tmp_path / "empty").mkdir()
    assert call(monkeypatch, *(word.format(run=run, tmp=tmp_path) for word in words)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (run / "evaluation").exists()


def test_a_model_file_is_recalibrated_into_another_and_evaluated(
    run, tmp_path, monkeypatch, capsys
):
    load(run).save(tmp_path / "narrow.safetensors")
    before = (tmp_path / "narrow.safetensors").read_bytes()
    classes = {name: name for name in KERMANY.classes}
    clinic, elsewhere = (write_scans(tmp_path / f"c{seed}", seed, classes) for seed in (4, 5))
    monkeypatch.chdir(tmp_path)
    model = "model=narrow.safetensors"
    assert call(monkeypatch, "recalibrate", model, f"data={clinic}", "coverage=0.5") == 0
    new = load("narrow-recalibrated.safetensors")
    assert new.rule.coverage == 0.5
    assert (tmp_path / "narrow.safetensors").read_bytes() == before
    assert call(monkeypatch, "recalibrate", model, f"data={clinic}") == 2
    assert "exists; name another file" in capsys.readouterr().err

    words = ("model=narrow-recalibrated.safetensors", f"data={elsewhere}", "resamples=10")
    assert call(monkeypatch, *words) == 0
    (path,) = (tmp_path / "narrow-recalibrated" / "evaluation").glob("*/report.json")
    report = json.loads(path.read_text())
    assert report["run"] == "narrow-recalibrated.safetensors"
    assert not report["contaminated"]
    # The same file names, and so the same patients: what fitted the rule is known by its digests.
    assert report["chose_epoch_or_thresholds"] == report["scans"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("model={model}",), "data=: must be given"),
        (("model={model}", "data=phantom"), "data=: must be given"),
        (("model={model}", "data={tmp}", "manifest=a.csv"), "cannot read manifest a.csv"),
        (("recalibrate", "run={run}", "out=a.safetensors"), "out=: is for model="),
        ((), "data=: must be given"),
    ],
)
def test_mistakes_with_model_files_are_one_line(run, tmp_path, monkeypatch, capsys, words, line):
    model = tmp_path / "narrow.safetensors"
    load(run).save(model)
    monkeypatch.chdir(tmp_path)
    typed = [word.format(run=run, tmp=tmp_path, model=model) for word in words]
    assert call(monkeypatch, *typed) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


def test_diseases_outside_of_the_task_are_evaluated_beside_the_known(
    run, tmp_path, monkeypatch, capsys
):
    folder = shutil.copytree(run, tmp_path / "run")
    clinic = write_scans(
        tmp_path / "clinic", 4, {"DME": "DME", "NORMAL": "NORMAL", "CNV": "MH", "DRUSEN": "ERM"}
    )
    words = (f"run={folder}", f"data={clinic}", "resamples=10")
    asked = "unseen=mh:urgent,ERM:routine"
    assert call(monkeypatch, *words, asked) == 2
    assert "has no decision rule" in capsys.readouterr().err
    assert call(monkeypatch, "recalibrate", f"run={folder}") == 0
    capsys.readouterr()
    assert call(monkeypatch, *words, asked) == 0
    assert "unseen mh" in capsys.readouterr().out
    (path,) = (folder / "evaluation").glob("clinic-*/report.json")
    report = json.loads(path.read_text())
    assert set(report["unseen"]) == {"mh", "ERM", "all"}
    assert report["unseen"]["mh"]["scans"] == len(list((clinic / "MH").iterdir()))
    assert report["scans"] == sum(len(list((clinic / n).iterdir())) for n in ("DME", "NORMAL"))
    rows = list(csv.DictReader((path.parent / "predictions.csv").open()))
    assert len(rows) == report["scans"] + report["unseen"]["all"]["scans"]
    assert "does not know" in (path.parent / "report.html").read_text()
    assert call(monkeypatch, *words, "unseen=AMD:urgent") == 2
    assert "no scans in a folder amd" in capsys.readouterr().err
    assert call(monkeypatch, f"run={folder}", asked) == 2
    assert "say data=FOLDER" in capsys.readouterr().err


@pytest.fixture
def eyes(tmp_path) -> Path:
    """Three eyes of two patients in class folders, in a folder of their own."""
    root = tmp_path / "eyes"
    files.write_heyex(root / "CNV" / "one", files.bscans(7, seed=1))
    files.write_heyex(root / "NORMAL" / "two", files.bscans(7, seed=2), laterality="L")
    files.write_pages(root / "NORMAL" / "three.tif", files.bscans(7, seed=3))
    return root


def test_volumes_are_evaluated_by_eye_as_explain_answers(run, eyes, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert call(monkeypatch, f"run={run}", f"data={eyes}", f"out={out}", "resamples=10") == 0
    told = capsys.readouterr().out
    assert "by eye: 3 eyes of 2 patients, certainty not calibrated" in told
    assert "2 patients are few" in told
    report = json.loads((out / "report.json").read_text())
    assert (report["eyes"]["count"], report["eyes"]["patients"]) == (3, 2)
    accuracy = report["eyes"]["figures"]["accuracy"]
    low, high = accuracy["interval"]
    assert low <= accuracy["value"] <= high
    assert list(report["by_column"]) == ["device", "laterality"]
    assert report["by_column"]["laterality"]["L"]["count"] == 7
    with (out / "eyes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["volume"] for row in rows] == ["CNV/one", "NORMAL/three.tif", "NORMAL/two"]
    classifier = load(run)
    for row in rows:
        answer = predict_eye(classifier, open_volume(eyes / row["volume"]))
        assert (row["predicted"], row["referral"]) == (answer.label, answer.referral)
        assert float(row["CNV"]) == pytest.approx(answer.probabilities[0], abs=1e-5)
    page = (out / "report.html").read_text()
    for heading in ("By eye", "By device", "By laterality"):
        assert f"<h2>{heading}</h2>" in page


def test_a_column_of_ones_own(run, eyes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    records = list_scans(eyes, require_all_classes=False).records
    sexes = {"one": "F", "two": "F", "three.tif": "M"}
    named = [
        replace(record, split="test", more=(("sex", sexes[record.path[:-2].split("/")[1]]),))
        for record in records
    ]
    write_manifest(named, "manifest.csv")
    load(run).save("mine.safetensors")
    words = ("model=mine.safetensors", f"data={eyes}", "manifest=manifest.csv", "resamples=10")
    assert call(monkeypatch, *words, "by=sex") == 0
    assert "by sex:\n    F: 14 scans of 1 patient;" in capsys.readouterr().out
    assert call(monkeypatch, *words, "by=age") == 2
    assert "by=age: no such column" in capsys.readouterr().err
