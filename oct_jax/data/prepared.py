"""Scans that `prepare` has laid out for reading: TFDS records, or a cache of resized scans.

A prepared folder holds
  prepared.json  kind, and a description of the scans
  manifest.csv   every scan with its split and the hash of its file, in the order stored
  records/       kind "records": the files' own bytes, as TFDS data set `oct_kermany`
  scans.npy      kind "cache": uint8 of shape (scans, size, size)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import UInt8
from msgspec import Struct

from oct_jax.arrays import ScanArray
from oct_jax.data.folder import Report, read_split_manifest
from oct_jax.data.manifest import Record, summarize
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.readers import decode_scan
from oct_jax.data.scans import Reader, Scans
from oct_jax.files import PositiveInt, convert, read_json
from oct_jax.task import KERMANY, Task, of_folders
from oct_jax.types import Resize, UserError

DESCRIPTION, MANIFEST, RECORDS, SCANS = "prepared.json", "manifest.csv", "records", "scans.npy"
FORMAT = 1

Made: TypeAlias = tuple[int, int]
"""Of the description in a prepared folder: inode, and time of its last change in nanoseconds."""


@dataclass(frozen=True)
class RecordsReader(Reader):
    """Scans in TFDS records, decoded from the bytes of their files.

    Attributes:
      folder: the prepared folder.
      paths: of each scan, for errors.
      places: of each scan, the stored split and its index therein.
      made: identifies the records.
    """

    folder: Path
    paths: tuple[str, ...]
    places: tuple[tuple[str, int], ...]
    made: Made

    def read(self, row: int) -> ScanArray:
        """See `Reader`."""
        split, position = self.places[row]
        stored = _open_records(self.folder, self.made)[split][position]
        return decode_scan(stored["image"], self.paths[row])


@dataclass(frozen=True)
class CacheReader(Reader):
    """Scans that were resized once, for one size and one way to resize.

    Attributes:
      folder: the prepared folder.
      size: side of the stored scans.
      resize: how they were made square.
      first: where the first scan begins in the file, bytes.
      made: identifies the cache.
    """

    full_size = False

    folder: Path
    size: int
    resize: Resize
    first: int
    made: Made

    def read(self, row: int) -> ScanArray:
        """Refused: the scan at its full size is not stored.

        Raises:
          UserError: always.
        """
        raise UserError(
            f"{self.folder} is a training cache without full-size scans; name the folder it was"
            " made from"
        )

    def check(self, preprocess: Preprocess) -> None:
        """Refuses any other preprocessing than the one the scans were resized by.

        Raises:
          UserError: another size or another way to resize.
        """
        if (preprocess.size, preprocess.resize) != (self.size, self.resize):
            raise UserError(
                f"{self.folder} was made with size={self.size} resize={self.resize}, not "
                f"size={preprocess.size} resize={preprocess.resize}; prepare another cache"
            )

    def read_resized(self, row: int, preprocess: Preprocess) -> UInt8[np.ndarray, "size size"]:
        """Scan `row` as `resize_scan` made it."""
        self.check(preprocess)
        count = self.size * self.size
        # Read, not mapped: the pages of a map count as this process's memory and never leave it.
        # Opened each time, 10 microseconds: no handle is shared by threads or outlives the file.
        with (self.folder / SCANS).open("rb", buffering=0) as file:
            _refuse_remade(self.folder, self.made)
            file.seek(self.first + row * count)
            data = file.read(count)
        return np.frombuffer(data, np.uint8).reshape(self.size, self.size)


def is_prepared(folder: str | os.PathLike[str]) -> bool:
    """Whether `prepare` made this folder."""
    return (Path(folder) / DESCRIPTION).is_file()


def open_prepared(
    folder: Path, manifest: Path | None = None, *, task: Task | None = KERMANY
) -> Scans:
    """Opens a prepared folder.

    Args:
      folder: what `prepare` made.
      manifest: if given, its scans and splits are used; all must be in the folder.
      task: the classes; None makes one of the scans' labels.

    Raises:
      UserError: the folder is damaged or of another version, lacks scans of the manifest, has
        labels of another task, or the splits leak.
    """
    description, made = _describe(folder), _made(folder)
    stored = read_split_manifest(folder / MANIFEST)
    records = read_split_manifest(manifest) if manifest else stored
    rows = _rows(stored, records, folder, manifest)
    task = task or of_folders(sorted({record.label for record in stored}))
    report = Report("manifest", records, task=task)
    details = {"synthetic": False, "prepared": description, "root": str(folder)}
    return Scans(
        records,
        task,
        _reader(folder, stored, description, made),
        rows,
        lines=tuple(report.lines()),
        report=report.as_json() | details,
    )


def _rows(
    stored: Sequence[Record], records: Sequence[Record], folder: Path, manifest: Path | None
) -> tuple[int, ...]:
    row_of = {(record.path, record.sha256): row for row, record in enumerate(stored)}
    absent = [r.path for r in records if (r.path, r.sha256) not in row_of]
    if absent:
        raise UserError(
            f"{folder} lacks {len(absent)} scans of {manifest}: {summarize(absent)}; prepare it "
            "with that manifest"
        )
    return tuple(row_of[record.path, record.sha256] for record in records)


def _reader(
    folder: Path, stored: tuple[Record, ...], description: Mapping[str, Any], made: Made
) -> RecordsReader | CacheReader:
    if description["kind"] == "cache":
        size, resize = description["size"], description["resize"]
        first = _check_scans(folder, len(stored), size)
        return CacheReader(folder, size, resize, first, made)
    _open_records(folder, made)
    paths = tuple(record.path for record in stored)
    return RecordsReader(folder, paths, tuple(_places(stored)), made)


class _Description(Struct):
    format: int
    kind: Literal["records", "cache"]
    size: PositiveInt | None = None
    resize: Resize | None = None
    report: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.kind == "cache" and (self.size is None or self.resize is None):
            raise ValueError("a cache without its size and resize")


def _describe(folder: Path) -> Mapping[str, Any]:
    path, remedy = folder / DESCRIPTION, "prepare it again"
    description: dict[str, Any] = read_json(path, dict[str, Any], remedy=remedy)
    if description.get("format") != FORMAT:
        raise UserError(f"{folder} was prepared by another version; {remedy}")
    convert(description, _Description, str(path), remedy=remedy)
    return description


def _places(stored: tuple[Record, ...]) -> list[tuple[str, int]]:
    """Each scan's split and index therein: splits are stored in the order of the manifest."""
    filled: dict[str, int] = {}
    places = []
    for record in stored:
        position = filled.get(record.split, 0)
        places.append((record.split, position))
        filled[record.split] = position + 1
    return places


@cache
def _open_records(folder: Path, made: Made) -> Mapping[str, Any]:
    """The records' splits; open as long as the process, and opened anew where they were made anew.

    Raises:
      UserError: damaged, or no longer those that the scans were listed from.
    """
    import tensorflow_datasets as tfds  # takes a second, and only this kind needs it

    _refuse_remade(folder, made)
    try:
        (built,) = (folder / RECORDS).glob("oct_kermany/prepared/*")
        builder: Any = tfds.builder_from_directory(built)
        undecoded = {"image": tfds.decode.SkipDecoding()}
        return {
            split: builder.as_data_source(split, decoders=undecoded)
            for split in builder.info.splits
        }
    except Exception as error:  # TFDS, protobuf and ArrayRecord each raise types of their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: damaged records ({reason}); prepare it again") from error


def _made(folder: Path) -> Made:
    """What tells a prepared folder from one that was made anew under the same name."""
    status = (folder / DESCRIPTION).stat()
    return status.st_ino, status.st_mtime_ns


def _refuse_remade(folder: Path, made: Made) -> None:
    if _made(folder) != made:
        raise UserError(f"{folder} was made anew while it was read; start again")


def _check_scans(folder: Path, count: int, size: int) -> int:
    """Where the first scan begins in the file, bytes."""
    try:
        scans = np.load(folder / SCANS, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / SCANS}: damaged ({error}); prepare it again") from error
    if scans.shape != (count, size, size) or scans.dtype != np.uint8:
        raise UserError(
            f"{folder / SCANS} is {scans.dtype} of shape {scans.shape}, not uint8 of "
            f"{(count, size, size)}; prepare it again"
        )
    return scans.offset
