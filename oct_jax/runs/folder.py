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
from collections.abc import Collection, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from oct_jax.data.manifest import Record, write_manifest
from oct_jax.files import read_json, write_json
from oct_jax.runs.config import RunConfig, write_run_config
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
from oct_jax.types import UserError
from oct_jax.work_folder import lock

REPORTS = ("evaluation", "explanation", "export")
SHARED_FILES = ("config.json", "manifest.csv", "provenance.json")


def has_run(folder: Path) -> bool:
    """Whether a run was begun here; its frozen stage's settings are the last to be written."""
    return (folder / "frozen" / "config.json").exists()


def check_resumable(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any],
    free: Collection[str] = (),
) -> None:
    """Checks that a stage is new, or has the settings that it was begun with.

    Args:
      folder: of the stage.
      settings: flat, as `begin_stage` writes them.
      defaults: of settings that did not exist when the stage was begun.
      free: names of settings that change nothing of what is computed.

    Raises:
      UserError: settings that change what is computed differ; the line names them.
    """
    path = folder / "config.json"
    if not path.exists():
        return
    remedy = "restore it, or begin this stage anew with restart=true"
    stored: dict[str, Any] = read_json(path, dict[str, Any], remedy=remedy)
    before = {**defaults, **stored}
    changed = [
        name
        for name in sorted(before.keys() | settings.keys())
        if before.get(name) != settings.get(name) and name not in (*free, "run")
    ]
    if changed:
        was = " ".join(f"{name}={before.get(name)}" for name in changed)
        asked = " ".join(f"{name}={settings.get(name)}" for name in changed)
        raise UserError(
            f"{path.parent} was begun with {was}, not {asked}: give the same settings to resume,"
            " restart=true to begin this stage anew, or another run=..."
        )


def check_startable(folder: Path, *, restart: bool = False) -> None:
    """Checks that a run may begin in a folder, before anything is computed.

    Raises:
      UserError: the folder holds files that the package did not make, or a trained stage whose
        settings are gone.
    """
    if not has_run(folder):
        check_claimable(folder)
    trained = [stage for stage in STAGES if has_best(folder / stage)]
    if trained and not has_run(folder) and not restart:
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


def begin_stage(
    folder: Path, stage: str, settings: Mapping[str, Any], *, restart: bool = False
) -> Path | None:
    """Makes a stage's folder with its settings.

    Args:
      folder: of the run.
      stage: the stage's name.
      settings: flat, as JSON values.
      restart: whether what the stage has already is put aside.

    Returns:
      Where the stage's earlier files are now, where `restart` replaced them; else None.
    """
    aside = put_aside(folder, [stage]) if restart else None
    mark(folder / stage)
    write_json(folder / stage / "config.json", settings)
    return aside
