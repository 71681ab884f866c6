"""Fits a decision rule by running a model over scans."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Scans
from oct_jax.decision.outliers import fit_outliers
from oct_jax.decision.rule import DecisionRule, fit_rule
from oct_jax.model.inference import predict_source
from oct_jax.model.protocol import Model, Variables, fingerprint_of
from oct_jax.task import KERMANY, Task

DENSITY_SCANS = 4000
"""At most so many training scans describe what is usual; more would hardly move 32 directions."""
_FEWEST = 8


def fit_on_scans(
    model: Model,
    variables: Variables,
    preprocess: Preprocess,
    *,
    train: Scans,
    calibration: Scans,
    data: str,
    threads: int,
    task: Task = KERMANY,
) -> DecisionRule:
    """The rule of a freshly trained model.

    Args:
      model: the folded model.
      variables: its variables.
      preprocess: how scans are resized and normalised.
      train: what the density model is fitted to.
      calibration: what everything else is fitted to; at least one scan.
      data: the name of the data, to be written down.
      threads: that read scans.
      task: that the classes are of.
    """
    outputs = predict_source(model, variables, calibration, preprocess, threads=threads)
    density = None
    if len(train) >= _FEWEST:
        every = -(-len(train) // DENSITY_SCANS)
        usual = predict_source(model, variables, train, preprocess, threads=threads, every=every)
        density = fit_outliers(np.asarray(usual.pooled))
    return fit_rule(
        outputs,
        calibration.labels,
        density,
        fitted_on=describe(calibration, data),
        model=fingerprint_of(variables),
        records=calibration.records,
        task=task,
    )


def describe(source: Scans, data: str) -> dict[str, Any]:
    """What is written down of calibration scans: where they are from, and how many."""
    return {
        "data": data,
        "scans": dict(Counter(record.label for record in source.records)),
        "patients": len({record.patient for record in source.records}),
    }
