"""One door to every data set: a name or a folder in, scans with their splits out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from oct_jax.data.folder import Report, open_folder
from oct_jax.data.manifest import manifest_digest, read_manifest
from oct_jax.data.phantom import phantom_scans
from oct_jax.data.prepared import is_prepared, open_prepared
from oct_jax.data.scans import Scans
from oct_jax.paths import expand_home
from oct_jax.task import KERMANY, Task
from oct_jax.types import UserError

PHANTOM = "phantom"


def open_data(
    data: str,
    *,
    task: Task | None = KERMANY,
    manifest: Path | None = None,
    on_bad_scan: Literal["refuse", "skip"] = "refuse",
    seed: int = 0,
    phantom_patients: int = 240,
    progress: Callable[[int, int], None] | None = None,
) -> Scans:
    """Opens a data set.

    Args:
      data: `phantom`, a folder of scans, or one that `prepare` made.
      task: the classes; None makes one of the names of the class folders. Phantoms have
        Kermany's four classes.
      manifest: its scans and splits are used exactly.
      on_bad_scan: whether bad files are an error, or are left out and recorded.
      seed: of the split, and of the phantom.
      phantom_patients: synthetic patients.
      progress: called with (scans read, scans in all).

    Returns:
      The scans, each with a split; `lines` and `report` describe them.

    Raises:
      UserError: see `open_folder` and `open_prepared`; or a manifest of other phantoms, or another
        task for phantoms.
    """
    if data == PHANTOM:
        return _open_phantom(phantom_patients, seed, manifest, task or KERMANY)
    folder = Path(expand_home(data))
    if is_prepared(folder):
        return open_prepared(folder, manifest, task=task)
    return open_folder(
        folder, task=task, manifest=manifest, on_bad_scan=on_bad_scan, seed=seed, progress=progress
    )


def _open_phantom(patients: int, seed: int, manifest: Path | None, task: Task) -> Scans:
    if task.classes != KERMANY.classes:
        raise UserError(
            f"data={PHANTOM}: phantoms are {', '.join(KERMANY.classes)}; task={task.name} needs"
            " scans of its own classes"
        )
    scans = phantom_scans(patients=patients, seed=seed)
    if manifest and manifest_digest(read_manifest(manifest)) != manifest_digest(scans.records):
        raise UserError(
            f"{manifest}: is not of the phantoms that phantom_patients={patients} seed={seed}"
            " make; leave manifest= out, or begin another run"
        )
    report = Report("own", scans.records)
    summary = {"synthetic": True} | report.as_json()
    return replace(scans, lines=tuple(report.lines()), report=summary)
