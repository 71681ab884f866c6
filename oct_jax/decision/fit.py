"""Fits a decision rule by running a model over scans."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from oct_jax.arrays import Augmentation
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Scans
from oct_jax.data.strengths import Augment
from oct_jax.decision.outliers import (
    OutlierModel,
    fit_outliers,
    no_retina_threshold,
    shuffle_tiles,
    squared_distance,
)
from oct_jax.decision.rule import DecisionRule, fit_rule, with_reference
from oct_jax.model.inference import (
    BATCH_SIZES,
    make_forward,
    predict_all,
    predict_source,
    predict_views,
)
from oct_jax.model.protocol import Model, Variables, fingerprint_of
from oct_jax.task import KERMANY, Task

VIEWS = 4
"""Augmented versions of every calibration scan."""
OUTLIER_SCANS = 4000
"""At most so many training scans describe what is usual; more would hardly move 32 directions."""
SHUFFLED_SCANS = 1000
"""At most so many calibration scans are shuffled."""
_FEWEST = 8

_DEFAULT_AUGMENT = Augment()


def fit_on_scans(
    model: Model,
    variables: Variables,
    preprocess: Preprocess,
    *,
    train: Scans,
    calibration: Scans,
    augment: Augment | Augmentation = _DEFAULT_AUGMENT,
    data: str = "",
    threads: int = 4,
    task: Task = KERMANY,
) -> DecisionRule:
    """The rule of a freshly trained model.

    The calibration scans are shown `VIEWS` times, augmented as in training. On curated scans as
    they are the model is surer than on those of another scanner, and thresholds fitted there
    would defer most of these; see experiments/README.md, "Deferral".

    Args:
      model: the folded model.
      variables: its variables.
      preprocess: how scans are resized and normalised.
      train: what the outlier model is fitted to.
      calibration: what everything else is fitted to; at least one scan.
      augment: strengths of the calibration scans' augmentation, or a function in its place.
      data: the name of the data, to be written down.
      threads: that read scans.
      task: that the classes are of.
    """
    outputs = predict_views(
        model, variables, calibration, preprocess, augment, views=VIEWS, threads=threads
    )
    outliers = None
    if len(train) >= _FEWEST:
        every = -(-len(train) // OUTLIER_SCANS)
        usual = predict_source(model, variables, train, preprocess, threads=threads, every=every)
        outliers = fit_outliers(np.asarray(usual.pooled))
    rule = fit_rule(
        outputs,
        np.tile(calibration.labels, VIEWS),
        outliers,
        patients=np.tile(calibration.patients, VIEWS),
        fitted_on=describe(calibration, data) | {"views": VIEWS},
        model=fingerprint_of(variables),
        records=calibration.records,
        task=task,
    )
    if rule.outliers is None:
        return rule
    shuffled = _shuffled_distances(
        model, variables, preprocess, rule.outliers, calibration, threads=threads
    )
    no_retina = no_retina_threshold(rule.outliers.threshold, shuffled)
    rule = replace(rule, outliers=rule.outliers._replace(no_retina=no_retina))
    as_they_are = predict_source(model, variables, calibration, preprocess, threads=threads)
    return with_reference(rule, as_they_are, calibration.patients)


def _shuffled_distances(
    model: Model,
    variables: Variables,
    preprocess: Preprocess,
    outliers: OutlierModel,
    calibration: Scans,
    *,
    threads: int,
) -> Float[np.ndarray, "scans"]:
    """How far pictures without a retina are: calibration scans whose tiles are shuffled."""
    from oct_jax.data.loader import in_order  # imports Grain, which only fitting needs

    rng = np.random.default_rng(0)
    every = -(-len(calibration) // SHUFFLED_SCANS)
    batches = in_order(
        calibration, preprocess, batch_size=BATCH_SIZES[-1], threads=threads, every=every
    )
    shuffled = (shuffle_tiles(batch, rng) for batch in batches)
    outputs = predict_all(make_forward(model, preprocess), variables, shuffled)
    return squared_distance(outliers, np.asarray(outputs.pooled))


def describe(source: Scans, data: str) -> dict[str, Any]:
    """What is written down of calibration scans: where they are from, and how many."""
    # In order: that of a set changes from process to process, and with it the bytes of the file.
    pairs = sorted({(record.label, record.patient) for record in source.records})
    return {
        "data": data,
        "scans": dict(Counter(record.label for record in source.records)),
        "patients": len(set(source.patients)),
        "patients_of": dict(Counter(label for label, _ in pairs)),
    }
