"""Random access to scans: one interface for a folder, the phantom and prepared records."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from oct_jax.arrays import LabelBatch, ScanArray
from oct_jax.data.kermany import BadScan, list_scans
from oct_jax.data.manifest import Record, read_manifest, summarize, verify
from oct_jax.data.readers import read_scan
from oct_jax.data.split import (
    DEFAULT_FRACTIONS,
    Fractions,
    keep_official,
    refuse_leaks,
    split_records,
)
from oct_jax.types import CLASSES, SPLITS, UserError


@runtime_checkable
class Source(Protocol):
    """Scans by index. Immutable, picklable, and safe to read from many threads."""

    @property
    def records(self) -> tuple[Record, ...]:
        """What is known of each scan."""
        ...

    @property
    def labels(self) -> LabelBatch:
        """Indices into `CLASSES`, int32 of shape (number of scans,)."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> ScanArray:
        """Scan `index` at its full size."""
        ...

    def select(self, split: str) -> Source:
        """The scans of one split, in the same order."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """Scans in image files.

    Attributes:
      root: the folder that the records' paths are relative to.
      records: one for each scan.
    """

    root: Path
    records: tuple[Record, ...]

    @property
    def labels(self) -> LabelBatch:
        """See `Source`.

        Raises:
          UserError: a scan without a label.
        """
        return label_indices(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int) -> ScanArray:
        """Decodes scan `index`.

        Raises:
          UnreadableScan: the file is gone or damaged.
        """
        return read_scan(self.root / self.records[index].path)

    def select(self, split: str) -> FolderSource:
        """See `Source`."""
        return replace(self, records=tuple(r for r in self.records if r.split == split))


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
    """

    origin: Literal["manifest", "official", "own"]
    records: tuple[Record, ...]
    removed: tuple[Record, ...] = ()
    bad: tuple[BadScan, ...] = ()
    without_patient: int = 0
    merged: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Scans by split, then by class."""
        found = Counter((record.split, record.label) for record in self.records)
        return {split: {label: found[split, label] for label in CLASSES} for split in SPLITS}

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
            told = ", ".join(f"{label} {count}" for label, count in by_class.items())
            lines.append(f"{split}: {sum(by_class.values())} ({told})")
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
    manifest: Path | None = None,
    on_bad_scan: Literal["refuse", "skip"] = "refuse",
    fractions: Fractions = DEFAULT_FRACTIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FolderSource, Report]:
    """Opens a folder of labelled scans for training.

    Every file is read once: hashed and decoded, or compared with the manifest.

    Args:
      root: a folder in one of the layouts of `oct_jax.data.kermany`.
      manifest: if given, its scans and splits are used exactly and must be unchanged on disk.
      on_bad_scan: what to do with bad files; see `list_scans`.
      fractions: shares of the splits, where they are ours to make.
      seed: of our split.
      progress: called with (done, total) as files are read.

    Returns:
      The source, whose records all have a split, and the report.

    Raises:
      UserError: see `list_scans`, `split_records`, `keep_official`, `read_manifest`, `verify`; or
        the manifest has scans without label or split, or a patient in two splits.
    """
    root = Path(root).expanduser()
    if manifest is not None:
        records = read_split_manifest(manifest)
        verify(records, root, progress)
        return FolderSource(root, records), Report("manifest", records)
    listing = list_scans(root, on_bad_scan=on_bad_scan, progress=progress)
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
    )
    return FolderSource(root, records), report


def label_indices(records: Sequence[Record]) -> LabelBatch:
    """Indices of the records' labels into `CLASSES`, int32.

    Raises:
      UserError: a record without a label.
    """
    unlabelled = [record.path for record in records if record.label not in CLASSES]
    if unlabelled:
        raise UserError(f"{len(unlabelled)} scans have no label: {summarize(unlabelled)}")
    return np.array([CLASSES.index(record.label) for record in records], np.int32)


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
