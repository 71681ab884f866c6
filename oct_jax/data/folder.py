"""Opening a folder of labelled image files, with splits that share no patient."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from oct_jax.data.kermany import BadScan, folder_task, list_scans
from oct_jax.data.manifest import Record, manifest_digest, read_manifest, summarize, verify
from oct_jax.data.scans import FileReader, Scans, count_labels
from oct_jax.data.split import (
    DEFAULT_FRACTIONS,
    Fractions,
    keep_official,
    refuse_leaks,
    split_records,
)
from oct_jax.paths import expand_home
from oct_jax.task import KERMANY, Task, of_folders
from oct_jax.types import UserError


@dataclass(frozen=True)
class Report:
    """How the scans of a folder came to their splits.

    Attributes:
      origin: where the splits are from: a manifest, the folder's official split, or our own.
      records: the scans in use.
      removed: scans of an official split that are left out because their patient is in test.
      bad: files left out because they are unreadable or wrongly named.
      without_patient: scans whose name tells no patient; each is a group of its own.
      merged: class folders that differ only in upper and lower case.
      ignored: folders that belong to no class.
      task: the classes.
    """

    origin: Literal["manifest", "official", "own"]
    records: tuple[Record, ...]
    removed: tuple[Record, ...] = ()
    bad: tuple[BadScan, ...] = ()
    without_patient: int = 0
    merged: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    task: Task = KERMANY

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Scans by split, then by class."""
        return count_labels(self.records, self.task)

    def as_json(self) -> dict[str, Any]:
        """The same for the provenance of a run."""
        return {
            "manifest_sha256": manifest_digest(self.records),
            "splits_from": self.origin,
            "counts": self.counts,
            "without_patient": self.without_patient,
        }

    def lines(self) -> list[str]:
        """What a person should know, a line each; what did not happen has no line."""
        patients = len({record.patient for record in self.records})
        origin = {
            "manifest": "splits from the manifest",
            "official": "official test split kept",
            "own": "split by patient",
        }[self.origin]
        lines = [f"{len(self.records)} scans of {patients} patients, {origin}"]
        for split, by_class in self.counts.items():
            by_name = ", ".join(f"{label} {count}" for label, count in by_class.items())
            lines.append(f"{split}: {sum(by_class.values())} ({by_name})")
        if self.removed:
            lines.append(f"{len(self.removed)} scans removed: their patients are in test too")
        if self.bad:
            named = summarize([f"{scan.path} ({scan.reason})" for scan in self.bad])
            lines.append(f"{len(self.bad)} bad files left out: {named}")
        if self.without_patient:
            lines.append(
                f"warning: {self.without_patient} scans name no patient; each counts as a patient "
                "of its own, so the splits may share patients"
            )
        if self.merged:
            lines.append(f"folders read as one class: {summarize(self.merged, '; ')}")
        if self.ignored:
            lines.append(f"folders of no class ignored: {summarize(self.ignored)}")
        return lines


def open_folder(
    root: str | os.PathLike[str],
    *,
    task: Task | None = KERMANY,
    manifest: Path | None = None,
    on_bad_scan: Literal["refuse", "skip"] = "refuse",
    fractions: Fractions = DEFAULT_FRACTIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Scans:
    """Opens a folder of labelled scans for training.

    Every file is read once: hashed and decoded, or compared with the manifest.

    Args:
      root: a folder in one of the layouts of `oct_jax.data.kermany`.
      task: the classes; None makes one of the names of the class folders.
      manifest: if given, its scans and splits are used exactly and must be unchanged on disk.
      on_bad_scan: what to do with bad files; see `list_scans`.
      fractions: shares of the splits, where they are ours to make.
      seed: of our split.
      progress: called with (done, total) as files are read.

    Returns:
      The scans, each with a split.

    Raises:
      UserError: see `list_scans`, `split_records`, `keep_official`, `read_manifest`, `verify`; or
        the manifest has scans without label or split, or a patient in two splits.
    """
    root = Path(expand_home(root))
    if manifest is not None:
        records = read_split_manifest(manifest)
        verify(records, root, progress)
        if task is None:
            task = of_folders(sorted({record.label for record in records}))
        return _described(root, Report("manifest", records, task=task))
    task = task or folder_task(root)
    listing = list_scans(root, task=task, on_bad_scan=on_bad_scan, progress=progress)
    if listing.official:
        records, removed = keep_official(listing.records, fractions=fractions, seed=seed)
    else:
        records, removed = split_records(listing.records, fractions=fractions, seed=seed), ()
    report = Report(
        origin="official" if listing.official else "own",
        records=records,
        removed=removed,
        bad=listing.bad,
        without_patient=listing.without_patient,
        merged=listing.merged,
        ignored=listing.ignored,
        task=task,
    )
    return _described(root, report)


def scans_in_files(root: Path, records: Sequence[Record], task: Task = KERMANY) -> Scans:
    """Scans in files below `root`, as the records list them; nothing is read yet."""
    paths = tuple(record.path for record in records)
    return Scans(tuple(records), task, FileReader(root, paths))


def _described(root: Path, report: Report) -> Scans:
    details = {
        "synthetic": False,
        "root": str(root),
        "bad": [{"path": scan.path, "reason": scan.reason} for scan in report.bad],
        "removed": [record.path for record in report.removed],
    }
    scans = scans_in_files(root, report.records, report.task)
    return replace(scans, lines=tuple(report.lines()), report=report.as_json() | details)


def read_split_manifest(manifest: Path) -> tuple[Record, ...]:
    """Reads a manifest to train or evaluate by: every scan has a label and a split that is sound.

    Raises:
      UserError: see `read_manifest`; or no scans, a scan without label or split, or a leak.
    """
    records = read_manifest(manifest)
    if not records:
        raise UserError(f"{manifest} lists no scans")
    incomplete = [record.path for record in records if not (record.split and record.label)]
    if incomplete:
        raise UserError(
            f"{manifest}: {len(incomplete)} scans have no label or no split: "
            f"{summarize(incomplete)}; fill them in"
        )
    refuse_leaks(records, manifest)
    return records
