"""`experiments/folds.py`: settings from text, and a fold trained, calibrated and stored once."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from toy_model import ToyConfig

from oct_jax import Augment, Preprocess, UserError
from oct_jax.data.kermany import list_scans
from oct_jax.data.split import split_records
from oct_jax.metrics.folds import summarize_folds
from oct_jax.model.protocol import Pretrained
from oct_jax.runs import folds as runs_folds
from oct_jax.task import KERMANY
from oct_jax.train import finetune, frozen

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def folds():
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        return importlib.import_module("folds")
    finally:
        sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    for number, name in enumerate(KERMANY.classes):
        (folder / name).mkdir()
        for patient in range(12):
            scan = (rng.integers(0, 20, (20, 24)) + 60 * number).astype(np.uint8)
            Image.fromarray(scan).save(folder / name / f"{name}-{100 * number + patient}-1.png")
    return folder


def test_settings_come_from_text(folds):
    values = folds.stage_values({"data": "x", "frozen.epochs": "30", "finetune.augment.jpeg": "0"})
    first = folds.read_stage("frozen", values["frozen"], seed=3)
    assert first == frozen(epochs=30, seed=3, threads=folds.THREADS)
    second = folds.read_stage("finetune", values["finetune"], seed=3)
    assert second == finetune(augment=Augment(jpeg=0), seed=3, threads=folds.THREADS)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epoch": "3"}, "frozen: epoch: not a setting of StageSettings"),
        ({"augment.jpg": "0"}, "frozen: jpg: not a setting of Augment"),
        ({"epochs": "many"}, "frozen: Expected `int`"),
    ],
)
def test_wrong_settings_are_refused(folds, values, words):
    with pytest.raises(UserError, match=words):
        folds.read_stage("frozen", values, seed=0)


def test_a_fold_is_trained_once_calibrated_and_stored(folds, root, tmp_path, monkeypatch):
    records = split_records(list_scans(root).records, seed=0)
    preprocess = Preprocess(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    config = ToyConfig()
    start = Pretrained(config.build().init(0), config, (0.5,) * 3, (0.5,) * 3, {}, "")
    fold = folds.Fold(folds.scans_of(records, root), start, preprocess)
    console = Console(quiet=True)
    settings = folds.read_stage("frozen", {"epochs": "1", "batch_size": "8"}, seed=0)
    once = folds.train_stage(fold, start.variables, settings, tmp_path / "frozen", console)
    monkeypatch.setattr(runs_folds, "train", lambda *_, **__: pytest.fail("trained twice"))
    again = folds.train_stage(fold, start.variables, settings, tmp_path / "frozen", console)
    np.testing.assert_array_equal(once.params["head"]["kernel"], again.params["head"]["kernel"])
    folds.store_test(folds.calibrated(fold, again, settings), fold.scans, tmp_path / "fold.npz")
    stored = np.load(tmp_path / "fold.npz")
    tested = [record for record in records if record.split == "test"]
    assert stored["paths"].tolist() == [record.path for record in tested]
    np.testing.assert_allclose(stored["probabilities"].sum(1), 1)
    assert set(stored["referrals"]) <= {"urgent", "routine", "observe", "defer"}


def test_a_figure_without_a_mistake_keeps_an_interval():
    scans = 40
    truth = np.arange(scans) % 4
    certain = np.eye(4)[truth]
    row = {
        "seed": 0,
        "fold": 0,
        "truth": truth,
        "logits": 10 * certain,
        "probabilities": certain,
        "sets": certain.astype(bool),
        "referrals": np.array(["urgent", "urgent", "routine", "observe"])[truth],
        "outlier_scores": np.zeros(scans),
        "patients": np.array([f"patient {number // 2}" for number in range(scans)]),
        "urgent_threshold": 0.5,
        "coverage": 0.9,
        "sensitivity": 0.99,
        "calibration_scans": np.full(4, 10),
    }
    figures = summarize_folds([row], KERMANY, 50)["figures"]
    for name in ("accuracy", "CNV recall", "coverage of prediction sets", "urgent sensitivity"):
        value, (low, high) = figures[name]["value"], figures[name]["interval"]
        assert value == high == 1
        assert 0.6 < low < 0.95, name  # of 20 patients or fewer
    assert figures["called outliers"]["interval"][1] > 0.05
