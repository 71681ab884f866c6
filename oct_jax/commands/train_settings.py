"""From the words of `train` to what training takes, with what the run's first stage has fixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import chz
import jax

from oct_jax.commands.parsing import flatten, parse
from oct_jax.commands.settings import REFERENCE, RUN_WIDE, TrainConfig
from oct_jax.data.augment import Augmentation
from oct_jax.data.augment.reference import ReferenceAugmentation
from oct_jax.data.datasets import PHANTOM
from oct_jax.model.backbones import DEFAULT
from oct_jax.runs.config import read_run_config
from oct_jax.train.precision import resolve_precision
from oct_jax.train.settings import LEAST_WARMUP_STEPS, StageSettings
from oct_jax.types import UserError


def read_settings(words: Sequence[str]) -> TrainConfig:
    """The settings of a stage; a finetune stage takes the run-wide ones over from its run.

    Raises:
      UserError: a word is not understood, the run has no frozen stage, or a word contradicts what
        that stage fixed.
    """
    config = _with_whole_paths(parse(TrainConfig, words, {}))
    if config.stage == "frozen":
        return _keep_protocol(config, words, {})
    folder = Path(config.run)
    fixed = read_run_config(folder).settings
    # With another stage's rules the same words must still be right, so they are read again.
    config = _with_whole_paths(parse(TrainConfig, words, fixed))
    check_run_wide(config, fixed)
    return _keep_protocol(config, words, fixed)


def _keep_protocol(
    config: TrainConfig, words: Sequence[str], fixed: Mapping[str, Any]
) -> TrainConfig:
    """The settings with those of `protocol=reference`, which none of the words may contradict."""
    if config.protocol != "reference":
        return config
    reference = REFERENCE[config.stage]
    config = _with_whole_paths(parse(TrainConfig, words, {**fixed, **reference}))
    for name, value in flatten(config).items():
        if value != reference.get(name, value):
            raise UserError(
                f"{name}={value}: protocol=reference fixes {name}={reference[name]};"
                " leave out one of the two"
            )
    return config


def check_run_wide(config: TrainConfig, fixed: Mapping[str, Any]) -> None:
    """Raises UserError where settings of a finetune stage contradict what the run has fixed."""
    for name in RUN_WIDE:
        if name in fixed and getattr(config, name) != fixed.get(name):
            raise UserError(
                f"{name}={getattr(config, name)}: the frozen stage of {config.run} fixed"
                f" {name}={fixed.get(name)}; leave it out, or start another run"
            )


def _with_whole_paths(config: TrainConfig) -> TrainConfig:
    """Folders as absolute paths, so that a later stage may be started from anywhere."""
    whole = {"run": str(Path(config.run))}
    if config.data != PHANTOM:
        whole["data"] = str(Path(config.data).absolute())
    if config.manifest is not None:
        whole["manifest"] = str(Path(config.manifest).absolute())
    return chz.replace(config, **whole)


def stage_settings(config: TrainConfig) -> StageSettings:
    """The training loop's settings: `auto` resolved for this machine, this stage, these weights."""
    finetune = config.stage == "finetune"
    updated = finetune and _updates_statistics(config)
    resolved = {
        "epochs": config.total_epochs,
        "learning_rate": None if config.learning_rate == "auto" else config.learning_rate,
        "least_warmup_steps": 0 if config.protocol == "reference" else LEAST_WARMUP_STEPS,
        "average_weights": {"on": True, "off": False}.get(
            config.average_weights, finetune and not updated
        ),
        "update_statistics": updated,
        "cache_features": _caches_features(config),
        "precision": resolve_precision(config.precision, jax.default_backend()),
        "augment": config.augmentation,
    }
    names = {field.name for field in dataclasses.fields(StageSettings)}
    same = {name: getattr(config, name) for name in names - resolved.keys()}
    return StageSettings(**same, **resolved)


def augmentation_of(config: TrainConfig) -> Augmentation | None:
    """What takes the place of the package's augmentation; None: nothing does."""
    return ReferenceAugmentation() if config.protocol == "reference" else None


def weights_name(config: TrainConfig) -> str:
    """What `weights=auto` means for these data and this backbone; other values as given."""
    if config.weights != "auto":
        return config.weights
    if config.data == PHANTOM:
        return "random"
    return "timm" if config.backbone == DEFAULT else "keras"


def _updates_statistics(config: TrainConfig) -> bool:
    if config.batchnorm == "auto":
        return weights_name(config) == "random"
    return config.batchnorm == "update"


def _caches_features(config: TrainConfig) -> bool:
    if config.stage == "finetune" or config.cache_features == "off":
        return False
    return config.cache_features == "on" or jax.process_count() == 1
