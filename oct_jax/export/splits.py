"""The scans that calibrate int8, choose its recipe and test it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from oct_jax.classifier import Classifier
from oct_jax.data.datasets import open_data
from oct_jax.data.manifest import summarize
from oct_jax.data.scans import Scans
from oct_jax.runs.scans import find_overlap, open_run_scans
from oct_jax.runs.source import ModelSource
from oct_jax.types import UserError


class Splits(NamedTuple):
    """Scans that share no patient, and that the model was not trained on.

    Attributes:
      calibration: sets the ranges of int8.
      validation: chooses among the recipes.
      test: judges what was chosen, and every file of the bundle.
      name: of the data, for a reader.
    """

    calibration: Scans
    validation: Scans
    test: Scans
    name: str


def open_splits(source: ModelSource, classifier: Classifier, data: str | None) -> Splits | str:
    """Opens the scans of `data`, else the run's own.

    Args:
      source: where the model is.
      classifier: the model.
      data: a folder of labelled scans; they are split by patient, and what would train a model
        calibrates.

    Returns:
      The scans; or why there are none, where no data was asked for.

    Raises:
      UserError: `data` cannot be read, or holds scans of patients that the model was trained on.
    """
    if data is not None:
        return _of_data(classifier, data)
    if source.run is None:
        return (
            "int8 needs labelled scans to calibrate and test it, and a model file has none:"
            " give data=FOLDER"
        )
    try:
        scans = open_run_scans(source.run)
    except UserError as error:
        return f"the run's scans cannot be read ({error})"
    parts = (scans.select(split) for split in ("calibration", "val", "test"))
    return Splits(*parts, name="the run's own data")


def _of_data(classifier: Classifier, data: str) -> Splits:
    scans = open_data(data, task=classifier.task)
    trained = find_overlap(classifier.provenance, scans.records).trained
    if trained:
        raise UserError(
            f"data={data}: {len(trained)} of {len(scans)} scans are of patients that the model was"
            f" trained on ({summarize(trained)}): they cannot test int8; give others"
        )
    splits = np.array([record.split for record in scans.records])
    calibration = np.flatnonzero(np.isin(splits, ("train", "calibration")))
    return Splits(
        scans.take(calibration.tolist()),
        scans.select("val"),
        scans.select("test"),
        name=Path(data).resolve().name,
    )
