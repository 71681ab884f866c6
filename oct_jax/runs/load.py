"""A trained run as a classifier."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import numpy as np

from oct_jax.classifier import Classifier, classifier_of, read_classifier
from oct_jax.decision.storage import read_rule
from oct_jax.model.fold import fold
from oct_jax.model.grid import read_grid
from oct_jax.model.protocol import build, fingerprint_of
from oct_jax.model_file import SUFFIX
from oct_jax.paths import expand_home
from oct_jax.runs.best import restore_best
from oct_jax.runs.folder import read_run_config
from oct_jax.runs.paths import latest_stage
from oct_jax.types import UserError


def load(run: str | os.PathLike[str] = "runs/default") -> Classifier:
    """Loads the best checkpoint of a run's latest stage, or a file of `Classifier.save`.

    Args:
      run: a run folder, or a file that ends in `.safetensors`.

    Raises:
      TypeError: `run` is not a path.
      UserError: there is no run, or none of its stages has finished an epoch.
    """
    if not isinstance(run, (str, os.PathLike)):
        raise TypeError(f"run must be the path of a run folder, not {type(run).__name__}")
    folder = Path(expand_home(run))
    if folder.suffix == SUFFIX and not folder.is_dir():
        return read_classifier(folder)
    stage = latest_stage(folder)
    config = read_run_config(folder)
    variables, _ = restore_best(folder / stage, build(config.model).shapes)
    # Folded by NumPy: JAX would compile a small program for each of a hundred shapes.
    folded, folded_config = fold(jax.tree.map(np.asarray, variables), config.model)
    rule = read_rule(folder / stage)
    if rule is not None and rule.model != fingerprint_of(folded):
        rule = None  # of an earlier epoch's weights
    if rule is not None and rule.task != config.task:
        raise UserError(
            f"{folder / stage / 'decision'}: of task {rule.task.name}, the run is of"
            f" {config.task.name}; delete the folder and repeat the training command"
        )
    return classifier_of(
        folded_config,
        folded,
        config.preprocess,
        task=config.task,
        rule=rule,
        grid=read_grid(folder / stage, folded),
        stage=stage,
        synthetic=config.synthetic,
    )
