"""`benchmark`: from words to a result, resumed without training anything twice."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from toy_model import ToyConfig

from oct_jax.commands import benchmark as benchmark_command
from oct_jax.commands import entry as command
from oct_jax.commands.cli import benchmark as main
from oct_jax.model.protocol import Pretrained
from oct_jax.runs import folds, protocols
from oct_jax.runs.prediction_file import read_prediction_file
from oct_jax.task import KERMANY

STAGES = ("frozen.epochs=1", "frozen.batch_size=8", "finetune.epochs=1", "finetune.batch_size=8")


def call(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words)])
    return command.run(main)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder of scans of 40 patients, two folds in place of five, and a toy network."""
    rng = np.random.default_rng(0)
    for number in range(4 * 10):
        name = KERMANY.classes[number % 4]
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        scan = (rng.integers(0, 20, (32, 48)) + 60 * (number % 4)).astype(np.uint8)
        Image.fromarray(scan).save(tmp_path / "data" / name / f"{name}-{number}-1.png")
    config = ToyConfig()
    toy = Pretrained(config.build().init(0), config, (0.5,) * 3, (0.5,) * 3, {"name": "toy"}, "")
    monkeypatch.setattr(protocols, "FOLDS", 2)
    monkeypatch.setattr(benchmark_command, "load_backbone", lambda *_, **__: toy)
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ("protocol=by_patient", "data=data", "image_size=32", "resize=squash", "resamples=20")


def test_a_protocol_is_run_resumed_and_named(small, monkeypatch, capsys):
    train, trained = folds.train, []

    def stopped(*arguments, **settings):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(1)
        return train(*arguments, **settings)

    monkeypatch.setattr(folds, "train", stopped)
    assert call(monkeypatch, *WORDS, *STAGES) == 130
    monkeypatch.setattr(folds, "train", lambda *a, **s: trained.append(1) or train(*a, **s))
    assert call(monkeypatch, *WORDS, *STAGES) == 0
    assert len(trained) == 4
    out = small / "runs" / "benchmark-by_patient"
    result = json.loads((out / "benchmark.json").read_text())
    assert len(result["splits_sha256"]) == 64
    assert result["results"]["scans"] == result["results"]["patients"] == 40
    assert len(result["results"]["folds"]) == len(result["models"]) == 2
    assert result["settings"]["finetune"]["epochs"] == 1
    assert result["made_by"]["versions"]["jax"]
    assert all(row["source"] and row["leaks"] for row in result["published"])
    page = (out / "benchmark.md").read_text()
    assert result["splits_sha256"] in page
    assert "98.46 %" in page
    predictions = read_prediction_file(out / "predictions.csv", KERMANY)
    assert len(predictions.files) == 40
    right = np.mean(
        np.array(KERMANY.classes)[predictions.probabilities.argmax(1)] == predictions.labels
    )
    assert result["results"]["figures"]["accuracy"]["value"] == pytest.approx(right)
    # The same command again only reads: the same figures.
    monkeypatch.setattr(folds, "train", lambda *_, **__: pytest.fail("trained again"))
    assert call(monkeypatch, *WORDS, *STAGES) == 0
    again = json.loads((out / "benchmark.json").read_text())
    assert again["results"] == result["results"]
    assert call(monkeypatch, *WORDS, *STAGES, "seed=1") == 2
    assert "was begun with other settings (seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("protocol=mine", "data=data"), "protocol=mine: must be by_patient or"),
        (("protocol=by_patient",), "data: must be given"),
        (("protocol=by_patient", "data=none"), "data=none: no such file or folder"),
        ((*WORDS, "finetune.epoch=3"), "finetune: epoch: not a setting of StageSettings"),
        (("protocol=official_clean", *WORDS[1:]), "has no train and test folders"),
        (("protocol=octdl", *WORDS[1:]), "holds no OCTDL_labels.csv"),
    ],
)
def test_mistakes_are_one_line(small, monkeypatch, capsys, words, line):
    assert call(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (small / "runs").exists()
