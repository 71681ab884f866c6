"""One door to every data set: a name or a folder in, a source with its splits out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from oct_jax.data.manifest import manifest_digest, read_manifest
from oct_jax.data.phantom import PhantomSource
from oct_jax.data.prepared import is_prepared, open_prepared
from oct_jax.data.source import Report, Source, open_folder
from oct_jax.types import UserError

PHANTOM = "phantom"


@dataclass(frozen=True)
class Data:
    """Scans with their splits, and how they came to them.

    Attributes:
      source: the scans.
      lines: what a person should know of them.
      report: the same as JSON values, for the provenance of a run.
    """

    source: Source
    lines: list[str]
    report: dict[str, Any]


def open_data(
    data: str,
    *,
    manifest: Path | None,
    on_bad_scan: Literal["refuse", "skip"],
    seed: int,
    phantom_patients: int,
    progress: Callable[[int, int], None] | None = None,
) -> Data:
    """Opens a data set.

    Args:
      data: `phantom`, a folder of scans, or one that `prepare` made.
      manifest: its scans and splits are used exactly.
      on_bad_scan: whether bad files are an error, or are left out and recorded.
      seed: of the split, and of the phantom.
      phantom_patients: synthetic patients.
      progress: called with (scans read, scans in all).

    Raises:
      UserError: see `open_folder` and `open_prepared`; or a manifest of other phantoms.
    """
    if data == PHANTOM:
        return _open_phantom(phantom_patients, seed, manifest)
    if is_prepared(Path(data).expanduser()):
        return _open_prepared(Path(data).expanduser(), manifest)
    source, report = open_folder(
        data, manifest=manifest, on_bad_scan=on_bad_scan, seed=seed, progress=progress
    )
    bad = [{"path": scan.path, "reason": scan.reason} for scan in report.bad]
    removed = [record.path for record in report.removed]
    details = {"root": str(source.root), "bad": bad, "removed": removed}
    return Data(source, report.lines(), _summary(report, synthetic=False) | details)


def _open_phantom(patients: int, seed: int, manifest: Path | None) -> Data:
    source = PhantomSource(patients=patients, seed=seed)
    if manifest and manifest_digest(read_manifest(manifest)) != manifest_digest(source.records):
        raise UserError(
            f"{manifest}: is not of the phantoms that phantom_patients={patients} seed={seed}"
            " make; leave manifest= out, or begin another run"
        )
    report = Report("own", source.records)
    return Data(source, report.lines(), _summary(report, synthetic=True))


def _open_prepared(folder: Path, manifest: Path | None) -> Data:
    source, description = open_prepared(folder, manifest)
    report = Report("manifest", source.records)
    told = {"prepared": description, "root": str(folder)}
    return Data(source, report.lines(), _summary(report, synthetic=False) | told)


def _summary(report: Report, *, synthetic: bool) -> dict[str, Any]:
    return {
        "synthetic": synthetic,
        "manifest_sha256": manifest_digest(report.records),
        "splits_from": report.origin,
        "counts": report.counts,
        "without_patient": report.without_patient,
    }
