"""Training that begins from a trained model file, and what the guard against leaks knows of it."""

import json
import sys

import numpy as np
import pytest
from narrow_run import make_run

from oct_jax import UserError, load
from oct_jax.commands import cli
from oct_jax.commands import entry as command
from oct_jax.model import weights
from oct_jax.model.download import DownloadFailed
from oct_jax.model.protocol import build
from oct_jax.provenance import ScanDigests
from oct_jax.task import KERMANY, ClassInfo, Task
from oct_jax.transfer import load_pretrained, model_file_of

TINY = ("image_size=32", "phantom_patients=24", "epochs=1", "batch_size=8", "views=1")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    load(make_run(folder / "run")).save(folder / "narrow.safetensors")
    return folder / "narrow.safetensors"


def call(monkeypatch, door, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    return command.run(door)


def test_variables_of_a_model_file_fit_its_config(model):
    pretrained, trained = load_pretrained(model, KERMANY, seed=0), load(model)
    assert pretrained.config.folded
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(
            pretrained.variables.params["head"]["classifier"][name],
            trained.variables.params["head"]["classifier"][name],
        )
    assert pretrained.mean == trained.preprocess.mean
    assert pretrained.source["synthetic"]


def test_other_classes_get_a_fresh_last_layer(model):
    task = Task("two", (ClassInfo("SICK"), ClassInfo("WELL")))
    pretrained = load_pretrained(model, task, seed=0)
    shapes = build(pretrained.config).shapes.params["head"]["classifier"]
    assert shapes["kernel"].shape[1] == 2
    assert (
        pretrained.variables.params["head"]["classifier"]["kernel"].shape == shapes["kernel"].shape
    )
    assert "fresh" in pretrained.note


def test_only_model_files_are_taken_for_such(model, tmp_path):
    assert model_file_of(str(model)) == model
    assert model_file_of("starter").name == "model.safetensors"
    assert model_file_of("timm") is None
    assert model_file_of(str(tmp_path / "none.safetensors")) is None


def test_a_run_from_a_model_file_trains_and_knows_its_scans(model, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    words = (f"run={run}", f"weights={model}", "stage=frozen", "seed=2", *TINY)
    assert call(monkeypatch, cli.train, *words) == 0
    out = capsys.readouterr().out
    assert "a trained model of task kermany" in out
    assert "of patients that the first weights were trained on" in out
    stage = ("stage=finetune", f"run={run}", "epochs=1", "batch_size=8")
    assert call(monkeypatch, cli.train, *stage, "batchnorm=update") == 2
    error = capsys.readouterr().err
    assert "batchnorm=update: the weights are a model file's" in error
    assert error.count("\n") == 1
    assert call(monkeypatch, cli.train, *stage) == 0
    before, after = load(model).provenance, load(run).provenance
    assert before.trained.scans < after.trained.scans
    source = after.facts["weights"]
    assert source["file"] == "narrow.safetensors"
    assert "trained_on" not in source

    capsys.readouterr()
    assert call(monkeypatch, cli.evaluate, f"run={run}", "resamples=10") == 2
    error = capsys.readouterr().err
    assert "patients that the run was trained on" in error
    assert error.count("\n") == 1
    marked = ("allow_overlap=true", "resamples=10", f"out={tmp_path / 'out'}")
    assert call(monkeypatch, cli.evaluate, f"run={run}", *marked) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["contaminated"]


def test_another_backbone_is_refused(model, tmp_path, monkeypatch, capsys):
    words = (f"run={tmp_path / 'run'}", f"weights={model}", "stage=frozen", "backbone=vit", *TINY)
    assert call(monkeypatch, cli.train, *words) == 2
    error = capsys.readouterr().err
    assert "not of backbone=vit" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_a_network_the_line_offers_the_starter(monkeypatch):
    def fail(file):
        raise DownloadFailed(f"{file.url}: download failed")

    monkeypatch.setattr(weights, "fetch", fail)
    with pytest.raises(UserError, match="weights=starter") as error:
        weights.load_weights("timm", seed=0)
    assert "\n" not in str(error.value)


def test_digests_are_read_back():
    digests = ScanDigests(frozenset({"a", "b"}), frozenset())
    assert ScanDigests.read({"scans": "a b", "patients": ""}) == digests
    assert ScanDigests.read({}) == ScanDigests()
