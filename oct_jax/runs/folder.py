"""The run folder: what was trained, on what, with what.

runs/<name>/
  config.json       run-wide settings, the model, the preprocessing, whether data is synthetic
  manifest.csv      every scan with its split and hash
  provenance.json   versions, git state, command, weight source, data report
  frozen/           checkpoints, decision rule, heatmap grid, metrics, curves, events
  finetune/         the same
  replaced/1/       what `restart=true` replaced; the package never deletes it

Each folder holds the marker `.oct_jax`. A folder that has files and no marker is not written to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import chz
import jax
from msgspec import Meta, Struct

from oct_jax.commands.parsing import flatten, parse
from oct_jax.commands.settings import FREE_ON_RESUME, REFERENCE, RUN_WIDE, TrainConfig
from oct_jax.data.datasets import PHANTOM
from oct_jax.data.manifest import Record, write_manifest
from oct_jax.data.preprocess import Preprocess
from oct_jax.files import Count, Positive, convert, read_json, write_json
from oct_jax.model.backbones import DEFAULT, config_class
from oct_jax.model.protocol import ModelConfig
from oct_jax.runs.ownership import (
    MARKER,
    REPLACED,
    check_claimable,
    claim_folder,
    is_marked,
    mark,
    put_aside,
)
from oct_jax.runs.paths import STAGES, has_best
from oct_jax.task import KERMANY, Task, stored_task, to_json
from oct_jax.types import Resize, UserError
from oct_jax.work_folder import lock

REPORTS = ("evaluation", "explanation", "export")
SHARED_FILES = ("config.json", "manifest.csv", "provenance.json")


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
    remedy = "restore the file, or train another run"
    stored: _StoredRun = read_json(path, _StoredRun, remedy=remedy)
    # Runs made before there was a choice name neither backbone nor protocol.
    settings = {"backbone": DEFAULT, "protocol": "default"} | stored.settings
    checked: _StoredSettings = convert(settings, _StoredSettings, f"{path}: settings")
    return RunConfig(
        settings=settings,
        model=convert(
            stored.model, config_class(checked.backbone), f"{path}: model", remedy=remedy
        ),
        preprocess=convert(stored.preprocess, Preprocess, f"{path}: preprocess", remedy=remedy),
        synthetic=stored.synthetic,
        task=stored_task(stored.task, path, remedy),
    )


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


def has_run(folder: Path) -> bool:
    """Whether a run was begun here; its frozen stage's settings are the last to be written."""
    return (folder / "frozen" / "config.json").exists()


def check_resumable(folder: Path, config: TrainConfig) -> None:
    """Checks that the stage is new, is to be restarted, or has the settings it was begun with.

    Raises:
      UserError: settings that change what is computed differ; the line names them.
    """
    path = folder / config.stage / "config.json"
    if config.restart or not path.exists():
        return
    # A setting that did not exist when the stage was begun had the value that is now its default.
    remedy = "restore it, or begin this stage anew with restart=true"
    stored: dict[str, Any] = read_json(path, dict[str, Any], remedy=remedy)
    before = flatten(TrainConfig(stage=config.stage)) | stored
    now = flatten(config)
    changed = [
        name
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name not in (*FREE_ON_RESUME, "run")
    ]
    if changed:
        was = " ".join(f"{name}={before.get(name)}" for name in changed)
        asked = " ".join(f"{name}={now.get(name)}" for name in changed)
        raise UserError(
            f"{path.parent} was begun with {was}, not {asked}: give the same settings to resume,"
            " restart=true to begin this stage anew, or another run=..."
        )


def check_startable(folder: Path, config: TrainConfig) -> None:
    """Checks that a run may begin in a folder, before anything is computed.

    Raises:
      UserError: the folder holds files that the package did not make, or a trained stage whose
        settings are gone.
    """
    if not has_run(folder):
        check_claimable(folder)
    trained = [stage for stage in STAGES if has_best(folder / stage)]
    if trained and not has_run(folder) and not config.restart:
        raise UserError(
            f"{folder}: frozen/config.json is missing, but {' and '.join(trained)} is trained: put"
            f" the file back, or give restart=true (what is there is then kept in {REPLACED}/)"
        )


@contextlib.contextmanager
def exclusive(folder: Path) -> Generator[None]:
    """Keeps other processes from changing a run; where none was begun, leaves no folder or marker.

    Raises:
      UserError: the folder holds files that the package did not make, cannot be made, or another
        process changes this run.
    """
    if has_run(folder):  # of an earlier version, which marked no folders
        mark(folder)
    new = not is_marked(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    claim_folder(folder)
    with (folder / MARKER).open("r+") as marker:
        if lock(marker) is False:
            raise UserError(
                f"{folder}: another process is changing this run; wait until it has ended, or give"
                " another run="
            )
        try:
            yield
        except BaseException:
            if new and [path.name for path in folder.iterdir()] == [MARKER]:
                (folder / MARKER).unlink()
                for path in made:
                    path.rmdir()
            raise


def begin_run(
    folder: Path, run: RunConfig, records: Sequence[Record], origin: Mapping[str, Any]
) -> Path | None:
    """Writes what the stages share.

    Returns:
      Where an earlier run's files of this folder are now; None where there were none.

    Raises:
      UserError: the folder holds files that the package did not make, or cannot be made.
    """
    claim_folder(folder)
    # What makes it a run goes last: killed in between, the same command begins here again.
    aside = put_aside(folder, [*SHARED_FILES, *REPORTS, *reversed(STAGES)])
    write_manifest(records, folder / "manifest.csv")
    write_json(folder / "provenance.json", origin)
    write_run_config(folder, run)
    return aside


def begin_stage(folder: Path, config: TrainConfig) -> Path | None:
    """Makes the stage's folder with its settings.

    Returns:
      Where the stage's earlier files are now, where `restart` replaced them; else None.
    """
    aside = put_aside(folder, [config.stage]) if config.restart else None
    mark(folder / config.stage)
    write_json(folder / config.stage / "config.json", flatten(config))
    return aside


def provenance(data: Mapping[str, Any], weights: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Where a run comes from: command, versions, machine, git state, data and weights."""
    packages = ("oct-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    device = jax.devices()[0]
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} x {device.platform} {device.device_kind}",
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "git": _git_state(),
        "seed": seed,
        "data": dict(data),
        "weights": dict(weights),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the package's checkout and whether it was changed; None outside of one."""

    def git(*words: str) -> str:
        package = Path(__file__).resolve().parent
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
