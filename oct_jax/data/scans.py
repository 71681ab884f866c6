"""Scans with labels, patients and splits: one value from any data set to training and metrics.

    scans = open_folder("OCT2017")                       # class folders, split by patient
    scans = from_arrays(images, labels, task=task)       # NumPy arrays in memory
    scans = scans.split_by_patient(seed=0)
    train = scans.select("train")
    train.read(0), train.labels[0], train.records[0].patient

Where the pixels are is the business of a `Reader`; a new kind of storage is a new reader.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, UInt8

from oct_jax.arrays import LabelBatch, ScanArray
from oct_jax.data.manifest import Record, summarize
from oct_jax.data.preprocess import Preprocess, resize_scan
from oct_jax.data.readers import read_scan, shape_problem
from oct_jax.data.split import DEFAULT_FRACTIONS, Fractions, split_records
from oct_jax.task import KERMANY, Task
from oct_jax.types import SPLITS, UserError

if TYPE_CHECKING:
    from oct_jax.data.volumes import Volume


class Reader(ABC):
    """Reads scans by number. Immutable, picklable, and safe to use from many threads."""

    full_size = True
    """Whether scans are stored at their full size."""

    @abstractmethod
    def read(self, row: int) -> ScanArray:
        """Scan `row` at its full size, uint8 grey of shape (height, width)."""

    def read_resized(self, row: int, preprocess: Preprocess) -> UInt8[np.ndarray, "size size"]:
        """Scan `row` as `resize_scan` makes it for `preprocess`, uint8."""
        return resize_scan(self.read(row), preprocess)

    def check(self, preprocess: Preprocess) -> None:
        """Raises UserError where scans were resized already, in another way than `preprocess`'s."""
        return None

    def lesion(self, row: int) -> Bool[np.ndarray, "height width"] | None:
        """Where the lesion of scan `row` is; None where the data do not say."""
        return None


@dataclass(frozen=True)
class FileReader(Reader):
    """Image files, and B-scans of volumes in files (`eye.vol#12`).

    Attributes:
      root: the folder that the paths are relative to.
      paths: of each scan, with forward slashes.
    """

    root: Path
    paths: tuple[str, ...]

    def read(self, row: int) -> ScanArray:
        """See `Reader`.

        Raises:
          UnreadableScan: the file is gone or damaged.
        """
        member = self._member(row)
        return (
            read_scan(self.root / self.paths[row]) if member is None else member[0].read(member[1])
        )

    def read_resized(self, row: int, preprocess: Preprocess) -> UInt8[np.ndarray, "size size"]:
        """See `Reader`; a volume's size of pixels is used."""
        member = self._member(row)
        if member is None:
            return resize_scan(self.read(row), preprocess)
        volume, index = member
        return resize_scan(volume.read(index), preprocess, volume.spacing)

    def _member(self, row: int) -> tuple[Volume, int] | None:
        """The volume and index of a scan that is a B-scan of one."""
        if "#" not in self.paths[row]:
            return None
        from oct_jax.data.volumes.members import member_of  # only volumes need it

        return member_of(self.root, self.paths[row])


@dataclass(frozen=True, eq=False)
class ArrayReader(Reader):
    """Arrays in memory.

    Attributes:
      images: of each scan, uint8 grey of shape (height, width).
    """

    images: tuple[np.ndarray, ...]

    def read(self, row: int) -> ScanArray:
        """See `Reader`."""
        return self.images[row]


@dataclass(frozen=True)
class Scans:
    """Scans with what is known of each; immutable, and as picklable as its reader.

    Attributes:
      records: one for each scan: name, label, patient, split, size and hash.
      task: the classes that labels are names of.
      reader: gives the pixels.
      rows: of each scan, its number in the reader; in the reader's order if not given.
      lines: what a person should know of them, a line each.
      report: the same as JSON values, for the provenance of a run.

    Raises:
      UserError: a label that is none of the task's classes.
    """

    records: tuple[Record, ...]
    task: Task
    reader: Reader = field(repr=False)
    rows: tuple[int, ...] = field(default=(), repr=False)
    lines: tuple[str, ...] = field(default=(), repr=False, compare=False)
    report: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.records):
            assert not self.rows, "one row for each record"
            object.__setattr__(self, "rows", tuple(range(len(self.records))))
        known = {"", *self.task.classes}
        strange = [f"{r.path} ({r.label})" for r in self.records if r.label not in known]
        if strange:
            raise UserError(
                f"{len(strange)} scans have a label that is not of task {self.task.name}"
                f" ({', '.join(self.task.classes)}): {summarize(strange)}"
            )

    def __len__(self) -> int:
        return len(self.records)

    @property
    def labels(self) -> LabelBatch:
        """Indices into `task.classes`, int32 of shape (scans,).

        Raises:
          UserError: a scan without a label.
        """
        return label_indices(self.records, self.task)

    @property
    def patients(self) -> tuple[str, ...]:
        """Patient of each scan."""
        return tuple(record.patient for record in self.records)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Scans by split, then by class."""
        return count_labels(self.records, self.task)

    def read(self, index: int) -> ScanArray:
        """Scan `index` at its full size, uint8 grey of shape (height, width).

        Raises:
          UserError: it is gone, damaged, or stored resized only.
        """
        return self.reader.read(self.rows[index])

    def read_resized(self, index: int, preprocess: Preprocess) -> UInt8[np.ndarray, "size size"]:
        """Scan `index` as `resize_scan` makes it for `preprocess`, uint8."""
        return self.reader.read_resized(self.rows[index], preprocess)

    def lesion(self, index: int) -> Bool[np.ndarray, "height width"] | None:
        """Where the lesion of scan `index` is, all false for none; None where nobody knows."""
        return self.reader.lesion(self.rows[index])

    def select(self, split: str) -> Scans:
        """The scans of a `split`, one of `oct_jax.types.SPLITS`, in the same order."""
        return self.take([i for i, record in enumerate(self.records) if record.split == split])

    def take(self, indices: Iterable[int]) -> Scans:
        """The scans of these `indices`, in this order."""
        chosen = [int(index) for index in indices]
        return replace(
            self,
            records=tuple(self.records[index] for index in chosen),
            rows=tuple(self.rows[index] for index in chosen),
        )

    def with_records(self, records: Sequence[Record]) -> Scans:
        """The scans of these `records`, by path, in their order, with their labels and splits.

        Raises:
          UserError: a path that is not among them.
        """
        index_of = {record.path: index for index, record in enumerate(self.records)}
        absent = [record.path for record in records if record.path not in index_of]
        if absent:
            raise UserError(f"{len(absent)} scans are not among these: {summarize(absent)}")
        chosen = self.take(index_of[record.path] for record in records)
        return replace(chosen, records=tuple(records))

    def split_by_patient(self, *, fractions: Fractions = DEFAULT_FRACTIONS, seed: int = 0) -> Scans:
        """The same scans in splits of our own, which part no patient; see `split_records`.

        Args:
          fractions: of the scans in each split.
          seed: of the draw; the same seed gives the same split.
        """
        return self.with_records(split_records(self.records, fractions=fractions, seed=seed))


def from_arrays(
    images: Sequence[np.ndarray] | UInt8[np.ndarray, "scans height width"],
    labels: Sequence[int] | Sequence[str] | np.ndarray,
    *,
    task: Task = KERMANY,
    patients: Sequence[object] | np.ndarray | None = None,
    splits: Sequence[str] | None = None,
) -> Scans:
    """Scans in memory.

    Args:
      images: uint8 grey, each of shape (height, width), 0 dark to 255 bright.
      labels: names of the task's classes, or indices into them.
      task: the classes.
      patients: of each scan; without them every scan counts as a patient of its own.
      splits: of each scan, a name of `SPLITS`; without them `split_by_patient` makes some.

    Raises:
      UserError: lengths that differ, an array that is no scan, an unknown label or split.
    """
    parts = {"labels": labels, "patients": patients, "splits": splits}
    for name, values in parts.items():
        if values is not None and len(values) != len(images):
            raise UserError(f"{len(images)} images and {len(values)} {name}")
    names = [_class_name(label, task) for label in labels]
    unknown = sorted({split for split in splits or () if split not in SPLITS})
    if unknown:
        raise UserError(f"splits: {', '.join(map(repr, unknown))}; use {', '.join(SPLITS)}")
    width = len(str(len(images)))
    records = tuple(
        _record_of_array(
            f"array-{index:0{width}}",
            image,
            names[index],
            str(index if patients is None else patients[index]),
            splits[index] if splits else "",
        )
        for index, image in enumerate(images)
    )
    return Scans(records, task, ArrayReader(tuple(images)))


def label_indices(records: Sequence[Record], task: Task = KERMANY) -> LabelBatch:
    """Indices of the records' labels into the task's classes, int32.

    Raises:
      UserError: a record without a label.
    """
    index_of = {name: index for index, name in enumerate(task.classes)}
    unlabelled = [record.path for record in records if record.label not in index_of]
    if unlabelled:
        raise UserError(f"{len(unlabelled)} scans have no label: {summarize(unlabelled)}")
    return np.array([index_of[record.label] for record in records], np.int32)


def count_labels(records: Iterable[Record], task: Task) -> dict[str, dict[str, int]]:
    """Scans by split, then by class; a split or class without scans counts 0."""
    counts = Counter((record.split, record.label) for record in records)
    return {split: {name: counts[split, name] for name in task.classes} for split in SPLITS}


def _class_name(label: Any, task: Task) -> str:
    if isinstance(label, str):
        return task.classes[task.index(label)]
    if not 0 <= int(label) < len(task.classes):
        raise UserError(f"label {label}: task {task.name} has classes 0 to {len(task.classes) - 1}")
    return task.classes[int(label)]


def _record_of_array(name: str, image: Any, label: str, patient: str, split: str) -> Record:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    if dtype != np.uint8 or shape is None or len(shape) != 2:
        raise UserError(
            f"{name}: {dtype} of shape {shape}; a scan is uint8 grey of shape (height, width)"
        )
    problem = shape_problem(*shape)
    if problem or not patient:
        raise UserError(f"{name}: {problem or 'its patient is empty'}")
    digest = hashlib.sha256(repr(shape).encode() + np.ascontiguousarray(image).tobytes())
    return Record(
        path=name,
        label=label,
        patient=patient,
        split=split,
        width=shape[1],
        height=shape[0],
        bytes=image.nbytes,
        sha256=digest.hexdigest(),
    )
