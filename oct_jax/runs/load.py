"""A trained classifier from wherever it is: a run, a file, the starter, or a hub.

What reads a run (Orbax, the settings of commands) is imported for a run alone: a file needs none of
it.
"""

from __future__ import annotations

import os
from pathlib import Path

from oct_jax.classifier import Classifier, classifier_of, read_classifier
from oct_jax.decision.rule import DecisionRule
from oct_jax.model_file import SUFFIX
from oct_jax.paths import expand_home
from oct_jax.runs.hub import PREFIX, fetch_model
from oct_jax.starter import MODEL, NAME
from oct_jax.task import Task
from oct_jax.types import UserError

EYES = "eyes"
"""Folder in a stage that holds the decision rule for eyes."""


def load(source: str | os.PathLike[str] = "runs/default") -> Classifier:
    """Loads a trained classifier.

    Args:
      source: a run folder, whose latest stage's best checkpoint is loaded; a file of
        `Classifier.save`, which ends in `.safetensors`; `"starter"`, the model in the package; or
        `hf://owner/name`, `hf://owner/name@revision`, a model file on the Hugging Face hub.

    Raises:
      TypeError: `source` is not a path.
      UserError: there is no run or file, none of the run's stages has finished an epoch, or the
        file is damaged; one line.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a path or a name, not {type(source).__name__}")
    text = os.fspath(source)
    if text == NAME:
        return read_classifier(MODEL)
    if text.startswith(PREFIX):
        return read_classifier(fetch_model(text))
    path = Path(expand_home(text))
    if path.suffix == SUFFIX and not path.is_dir():
        return read_classifier(path)
    if path.is_file():
        raise UserError(
            f"{path}: not a run folder, and not a model file, whose name ends in {SUFFIX}"
        )
    return load_run(path)


def load_run(folder: Path) -> Classifier:
    """Loads the best checkpoint of a run's latest stage; errors as of `load`."""

    from oct_jax.model.fold import fold
    from oct_jax.model.grid import read_grid
    from oct_jax.model.protocol import build, fingerprint_of
    from oct_jax.runs.best import restore_best
    from oct_jax.runs.config import read_run_config
    from oct_jax.runs.origin import provenance_of
    from oct_jax.runs.paths import latest_stage

    stage = latest_stage(folder)
    config = read_run_config(folder)
    variables, _ = restore_best(folder / stage, build(config.model).shapes)
    folded, folded_config = fold(variables, config.model)
    model = fingerprint_of(folded)
    rule = _rule_of(folder / stage, model, config.task)
    return classifier_of(
        folded_config,
        folded,
        config.preprocess,
        task=config.task,
        rule=rule,
        grid=read_grid(folder / stage, folded),
        stage=stage,
        synthetic=config.synthetic,
        provenance=provenance_of(folder, model, rule),
        eye_rule=_rule_of(folder / stage / EYES, model, config.task),
    )


def _rule_of(folder: Path, model: str, task: Task) -> DecisionRule | None:
    """The decision rule in a folder; None where there is none, or it is of other weights."""
    from oct_jax.decision.storage import read_rule

    rule = read_rule(folder)
    if rule is None or rule.model != model:
        return None
    if rule.task != task:
        raise UserError(
            f"{folder / 'decision'}: of task {rule.task.name}, the run is of {task.name}; delete"
            " the folder and repeat the command that made it"
        )
    return rule
