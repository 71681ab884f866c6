"""A trained run as a classifier."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from oct_jax.classifier import Classifier
from oct_jax.decision.storage import read_rule
from oct_jax.model.fold import fold
from oct_jax.model.protocol import build, fingerprint_of
from oct_jax.runs.best import has_best, restore_best
from oct_jax.runs.folder import STAGES, read_run_config
from oct_jax.types import UserError


def load(run: str | os.PathLike[str] = "runs/default") -> Classifier:
    """Loads the best checkpoint of a run's latest stage.

    Raises:
      UserError: there is no run, or none of its stages has finished an epoch.
    """
    folder = Path(run).expanduser()
    config = read_run_config(folder)
    stage = next((stage for stage in reversed(STAGES) if has_best(folder / stage)), None)
    if stage is None:
        raise UserError(f"{folder}: no trained model yet; `just train stage=frozen run={folder}`")
    variables, _ = restore_best(folder / stage, build(config.model).shapes)
    # Folded by NumPy: JAX would compile a small program for each of a hundred shapes.
    folded, folded_config = fold(jax.tree.map(np.asarray, variables), config.model)
    rule = read_rule(folder / stage)
    if rule is not None and rule.model != fingerprint_of(folded):
        rule = None  # of an earlier epoch's weights
    return Classifier(
        model=build(folded_config),
        variables=jax.tree.map(jnp.asarray, folded),
        preprocess=config.preprocess,
        synthetic=config.synthetic,
        stage=stage,
        rule=rule,
    )


def latest_run(root: Path = Path("runs")) -> Path:
    """The run below `root` whose best checkpoint is the newest.

    Raises:
      UserError: none has a trained model.
    """
    trained = [
        (best.stat().st_mtime, run)
        for run in root.glob("*")
        for stage in STAGES
        if has_best(run / stage)
        for best in (run / stage / "best").iterdir()
    ]
    if not trained:
        raise UserError(f"{root}: no trained run; `just demo` makes one, or say run=FOLDER")
    return max(trained)[1]
