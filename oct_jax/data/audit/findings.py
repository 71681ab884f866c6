"""The audit of a folder: all its findings, and splits without the leaks."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from oct_jax.data.audit.duplicates import Pair, identical_pairs, linked_patients, near_pairs
from oct_jax.data.audit.measuring import Measured, measure_file
from oct_jax.data.audit.shortcut import Shortcut, shortcut_test
from oct_jax.data.kermany import BadScan, Listing, folder_task, list_scans
from oct_jax.data.manifest import Record
from oct_jax.data.readers import map_threads
from oct_jax.data.split import keep_official, leaking_patients, split_records
from oct_jax.paths import expand_home
from oct_jax.task import KERMANY, Task
from oct_jax.types import UserError

# Published counts: (train, test) scans.
_RELEASES = {
    "Kaggle v2": (("train", "val", "test"), 83_484, 968),
    "Mendeley v2": (("train", "test"), 83_484, 1_000),
    "Mendeley v3": (("train", "test"), 108_309, 1_000),
}


@dataclass(frozen=True)
class Audit:
    """The findings in one folder.

    Attributes:
      root: the folder.
      listing: its scans, and the files that cannot be used.
      measured: of every scan in `listing.records`, in the same order.
      pairs: byte-identical files (each with the first of its kind) and near duplicates.
      shortcut: None where there are too few patients or classes to cross-validate.
      task: the classes.
    """

    root: Path
    listing: Listing
    measured: tuple[Measured, ...]
    pairs: tuple[Pair, ...]
    shortcut: Shortcut | None
    task: Task = KERMANY

    @property
    def records(self) -> tuple[Record, ...]:
        """The readable scans."""
        return self.listing.records

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Readable scans by split (all for a folder without), then by class."""
        scans = Counter((record.split or "all", record.label) for record in self.records)
        splits = dict.fromkeys(record.split or "all" for record in self.records)
        return {
            split: {label: scans[split, label] for label in self.task.classes} for split in splits
        }

    @cached_property
    def scans_per_patient(self) -> dict[str, int]:
        """Scans of each patient."""
        return dict(Counter(record.patient for record in self.records))

    @cached_property
    def patients_in_classes(self) -> dict[str, tuple[str, ...]]:
        """Patients with scans of several classes, and which."""
        labels: dict[str, set[str]] = defaultdict(set)
        for record in self.records:
            labels[record.patient].add(record.label)
        return {
            p: tuple(sorted(several)) for p, several in sorted(labels.items()) if len(several) > 1
        }

    @cached_property
    def patients_in_splits(self) -> tuple[str, ...]:
        """Patients with scans in several splits."""
        return leaking_patients(self.records)

    @cached_property
    def leaking_pairs(self) -> tuple[Pair, ...]:
        """Pictures that are in several splits."""
        return tuple(pair for pair in self.pairs if "split" in pair.across)

    @cached_property
    def contradictions(self) -> tuple[Pair, ...]:
        """Byte-identical files that are filed under two classes: one of the labels is wrong."""
        return tuple(pair for pair in self.pairs if pair.identical and "label" in pair.across)

    @property
    def leaks(self) -> bool:
        """Whether splits share patients or pictures, so that scores would be too good."""
        return bool(self.patients_in_splits or self.leaking_pairs)

    @cached_property
    def odd(self) -> tuple[BadScan, ...]:
        """Readable files that are stored oddly."""
        return tuple(BadScan(m.record.path, m.odd) for m in self.measured if m.odd)

    @cached_property
    def release(self) -> str:
        """Which published release this is, by layout and counts."""
        return recognise(Counter(record.split for record in self.records), len(self.listing.bad))


def audit(
    root: str | os.PathLike[str],
    progress: Callable[[str, int, int], None] | None = None,
    *,
    task: Task | None = KERMANY,
) -> Audit:
    """Reads and measures every scan below `root`.

    Args:
      root: a folder in one of the layouts of `oct_jax.data.kermany`; classes may be missing.
      progress: called with (what is done, done, total).
      task: the classes; None makes one of the names of the class folders.

    Raises:
      UserError: no such folder, no known layout, or a file that vanished.
    """

    def progress_of(step: str) -> Callable[[int, int], None] | None:
        return partial(progress, step) if progress else None

    root = Path(expand_home(root))
    task = task or folder_task(root)
    listing = list_scans(
        root,
        task=task,
        on_bad_scan="skip",
        require_all_classes=False,
        allow_empty=True,
        progress=progress_of("checking files"),
    )
    measure = partial(measure_file, root=root)
    measured = tuple(map_threads(measure, listing.records, progress_of("measuring scans")))
    pairs = (
        *identical_pairs(listing.records),
        *near_pairs(measured, progress_of("finding duplicates")),
    )
    return Audit(root, listing, measured, pairs, shortcut_test(measured), task)


def recognise(scans: Counter[str], bad: int = 0) -> str:
    """Names the release that has so many scans in its splits, `bad` files left out.

    >>> recognise(Counter(train=83_484, val=32, test=968))
    'Kaggle v2'
    """
    for name, (splits, train, test) in _RELEASES.items():
        missing = train + test - scans["train"] - scans["test"]
        if set(scans) == set(splits) and scans["test"] <= test and 0 <= missing <= bad:
            return name
    if set(scans) == {""}:
        return "own (class folders, no split)"
    return f"own (folders {', '.join(sorted(scans))}; counts of no published release)"


def clean_records(audit: Audit, *, seed: int) -> tuple[Record, ...]:
    """Splits that share neither patients nor pictures.

    An official test split is kept and training scans of its patients are removed; other folders
    are split by patient. Patients that share a picture, or a near duplicate, stay together.

    Raises:
      UserError: a class has too few patients, or none.
    """
    absent = [
        label for label in audit.task.classes if not any(r.label == label for r in audit.records)
    ]
    if absent:
        raise UserError(f"{audit.root} has no scans of {', '.join(absent)}: no split can be made")
    known_as = {record.path: record.patient for record in audit.records}
    linked = linked_patients(audit.pairs)
    grouped = [replace(r, patient=linked.get(r.patient, r.patient)) for r in audit.records]
    if audit.listing.official:
        split, _ = keep_official(grouped, seed=seed)
    else:
        split = split_records(grouped, seed=seed)
    return tuple(replace(record, patient=known_as[record.path]) for record in split)
