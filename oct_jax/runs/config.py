"""`config.json`: what all stages of a run share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from oct_jax.data.preprocess import Preprocess
from oct_jax.files import Count, Positive, convert, read_json, write_json
from oct_jax.model.backbones import DEFAULT, config_class
from oct_jax.model.protocol import ModelConfig
from oct_jax.runs.task import REMEDY
from oct_jax.task import KERMANY, Task, stored_task, to_json
from oct_jax.types import Resize, UserError


@dataclass(frozen=True)
class RunConfig:
    """What all stages of a run share; `config.json`.

    Attributes:
      settings: the run-wide settings, as given; `backbone` names the class of `model`.
      model: architecture, in float32.
      preprocess: from scan to model input.
      synthetic: whether the scans are phantoms.
      task: the classes.
    """

    settings: Mapping[str, Any]
    model: ModelConfig
    preprocess: Preprocess
    synthetic: bool
    task: Task = KERMANY


class _StoredRun(Struct):
    settings: dict[str, Any]
    model: dict[str, Any]
    preprocess: dict[str, Any]
    synthetic: bool
    task: dict[str, Any]


class _StoredSettings(Struct):
    """Those of `RUN_WIDE` that are read; a run always has the first four."""

    data: Annotated[str, Meta(min_length=1)]
    on_bad_scan: Literal["refuse", "skip"]
    seed: Count
    phantom_patients: Annotated[int, Meta(ge=24, le=10**6)]
    backbone: str = DEFAULT
    manifest: str | None = None
    weights: str = "auto"
    variant: Literal["large", "large_minimalistic"] = "large"
    width: Positive = 1.0
    image_size: Annotated[int, Meta(ge=32, le=8192)] = 224
    resize: Resize = "squash"
    protocol: Literal["default", "reference"] = "default"


def write_run_config(folder: Path, run: RunConfig) -> None:
    """Writes `config.json`."""
    write_json(
        folder / "config.json",
        {
            "settings": dict(run.settings),
            "model": dataclasses.asdict(run.model),
            "preprocess": dataclasses.asdict(run.preprocess),
            "synthetic": run.synthetic,
            "task": to_json(run.task),
        },
    )


def read_run_config(folder: Path) -> RunConfig:
    """Reads `config.json`.

    Raises:
      UserError: there is no run in the folder, or its file is not one of ours.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: no run here; make one with `just train stage=frozen run={folder}`"
        )
    stored: _StoredRun = read_json(path, _StoredRun, remedy=REMEDY)
    # Runs made before there was a choice name neither backbone nor protocol.
    settings = {"backbone": DEFAULT, "protocol": "default"} | stored.settings
    checked: _StoredSettings = convert(settings, _StoredSettings, f"{path}: settings")
    return RunConfig(
        settings=settings,
        model=convert(
            stored.model, config_class(checked.backbone), f"{path}: model", remedy=REMEDY
        ),
        preprocess=convert(stored.preprocess, Preprocess, f"{path}: preprocess", remedy=REMEDY),
        synthetic=stored.synthetic,
        task=stored_task(stored.task, path, REMEDY),
    )
