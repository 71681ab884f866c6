"""The frozen stage on real scans with real ImageNet weights, as a person would run it."""

import io

import cv2
import numpy as np
from rich.console import Console
from sklearn.datasets import load_sample_images

from oct_jax import load
from oct_jax.commands.train import train_stage
from oct_jax.commands.train_settings import read_settings
from oct_jax.data.manifest import read_manifest
from oct_jax.data.split import leaking_patients


def test_frozen_stage_on_real_scans(optimised, real_scans, real_weights, tmp_path):
    words = [
        "stage=frozen",
        f"data={real_scans}",
        f"weights={real_weights}",
        f"run={tmp_path / 'run'}",
        "views=1",
    ]
    told = io.StringIO()
    summary = train_stage(read_settings(words), Console(file=told, width=200))

    # Far above the 34 % that size, border and contrast alone give; seeds lie around 90 %.
    assert summary["test"]["accuracy"] > 0.75
    assert not summary["synthetic"]
    assert "its 1000-class classifier is replaced by one of 4" in told.getvalue()
    assert "SYNTHETIC" not in told.getvalue()

    records = read_manifest(tmp_path / "run" / "manifest.csv")
    assert len(records) == sum(summary["scans"].values())
    assert leaking_patients(records) == ()

    test = [record for record in records if record.split == "test"]
    predictions = load(tmp_path / "run").predict([real_scans / record.path for record in test])
    right = [
        prediction.label == record.label
        for prediction, record in zip(predictions, test, strict=True)
    ]
    np.testing.assert_allclose(np.mean(right), summary["test"]["accuracy"])

    # Calibrated on its own calibration scans: test scans pass, what is no OCT scan does not.
    assert np.mean([prediction.decision.is_outlier for prediction in predictions]) < 0.1
    strange = load(tmp_path / "run").predict(list(strangers().values()))
    told = dict(zip(strangers(), strange, strict=True))
    assert [name for name, one in told.items() if not one.decision.is_outlier] == []
    assert {one.decision.referral for one in strange} == {"defer"}


def strangers() -> dict[str, np.ndarray]:
    """Pictures that are no OCT scan."""
    rng = np.random.default_rng(0)
    fundus = np.zeros((500, 500), np.uint8)
    cv2.circle(fundus, (250, 250), 230, 120, -1)
    cv2.circle(fundus, (330, 240), 40, 230, -1)
    for angle in rng.uniform(0, 2 * np.pi, 12):
        end = (int(330 + 220 * np.cos(angle)), int(240 + 220 * np.sin(angle)))
        cv2.line(fundus, (330, 240), end, 60, 4)
    photographs = {
        f"photograph {number}": photograph.mean(-1).astype(np.uint8)
        for number, photograph in enumerate(load_sample_images().images)
    }
    return photographs | {
        "fundus": cv2.GaussianBlur(fundus, (0, 0), 2),
        "noise": rng.integers(0, 256, (496, 512), np.uint8),
        "black": np.zeros((496, 512), np.uint8),
        "white": np.full((496, 512), 255, np.uint8),
        "ramp": np.tile(np.linspace(0, 255, 512).astype(np.uint8), (496, 1)),
    }
