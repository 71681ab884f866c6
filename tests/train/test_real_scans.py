"""The frozen stage on real scans with real ImageNet weights, as a person would run it."""

import io

import numpy as np
from rich.console import Console

from oct_jax import load
from oct_jax.data.manifest import read_manifest
from oct_jax.data.split import leaking_patients
from oct_jax.train.loop import train
from oct_jax.train.run_folder import read_settings


def test_frozen_stage_on_real_scans(real_scans, real_weights, tmp_path):
    words = [
        "stage=frozen",
        f"data={real_scans}",
        f"weights={real_weights}",
        f"run={tmp_path / 'run'}",
        "views=1",
    ]
    told = io.StringIO()
    summary = train(read_settings(words), Console(file=told, width=200))

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
