"""Predictions in a CSV file, whoever made them: what `evaluate` writes, and other programs' too.

A header, then a line for each scan. Columns:

  file       path or name of the scan; `scan` and `path` mean the same
  CLASS      one column for each class, by its name: the probability, 0 to 1
  patient    where the file is compared without a folder of scans
  label      where the file is compared without a folder of scans
  referral   if the model leaves scans to a person: `defer` there, anything else elsewhere

Other columns are not read. Upper and lower case make no difference in a header.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Float

from oct_jax.data.manifest import Record, summarize
from oct_jax.task import Task
from oct_jax.types import UserError

FILE_COLUMNS = ("file", "scan", "path")
_OFF_BY = 1e-3


@dataclass(frozen=True)
class PredictionFile:
    """Predictions as a file holds them.

    Attributes:
      name: of the file.
      files: path or name of each scan, with forward slashes.
      probabilities: (scans, classes) in the order of a task; rows that sum to 1.
      patients: of each scan; None where the file has no such column.
      labels: of each scan; None where the file has no such column.
      deferred: which scans are left to a person; None where the file has no column `referral`.
    """

    name: str
    files: tuple[str, ...]
    probabilities: Float[np.ndarray, "scans classes"]
    patients: tuple[str, ...] | None
    labels: tuple[str, ...] | None
    deferred: Bool[np.ndarray, "scans"] | None

    def rows_of(self, records: Sequence[Record]) -> list[int]:
        """The row of each record: by its path, or where the file has names alone by its name.

        Raises:
          UserError: a scan without a row, or a name that several rows have.
        """
        by_path = {file: row for row, file in enumerate(self.files)}
        names = [PurePosixPath(file).name for file in self.files]
        by_name = dict(zip(names, range(len(names)), strict=True))
        rows, absent = [], []
        for record in records:
            row = by_path.get(record.path)
            if row is None and len(by_name) == len(names):
                row = by_name.get(PurePosixPath(record.path).name)
            rows.append(row)
            if row is None:
                absent.append(record.path)
        if absent:
            raise UserError(
                f"{self.name}: has no line for {len(absent)} of {len(records)} scans:"
                f" {summarize(absent)}; its column `file` must hold their paths, or names that are"
                " all different"
            )
        return [row for row in rows if row is not None]


def read_prediction_file(path: Path, task: Task) -> PredictionFile:
    """Reads predictions; see the module for the columns.

    Args:
      path: of the CSV file.
      task: whose classes are looked for in the header.

    Raises:
      UserError: no such file, a missing column, or a value that is wrong, with its line.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, line) for line in reader if line]
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read predictions {path}: {reason}") from error
    if len(lines) < 2:
        raise UserError(f"{path}: holds no predictions; a header and a line for each scan")
    (_, header), *rows = lines
    column_of = _columns(header, task, path)
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path} line {number}: {len(row)} fields instead of {len(header)}")
    files = tuple(row[column_of["file"]].replace("\\", "/") for _, row in rows)
    repeated = sorted(file for file, times in Counter(files).items() if times > 1)
    if repeated:
        raise UserError(f"{path}: names scans twice: {summarize(repeated)}; keep one line of each")
    probabilities = _probabilities(rows, [column_of[name] for name in task.classes], path)
    texts = {
        name: tuple(row[column_of[name]] for _, row in rows) if name in column_of else None
        for name in ("patient", "label", "referral")
    }
    referrals = texts["referral"]
    deferred = None
    if referrals is not None:
        deferred = np.array([word.strip().casefold() == "defer" for word in referrals])
    return PredictionFile(
        str(path), files, probabilities, texts["patient"], texts["label"], deferred
    )


def _columns(header: Sequence[str], task: Task, path: Path) -> dict[str, int]:
    """The column of `file`, of each class, and of what else is there."""
    folded = [name.strip().casefold() for name in header]
    wanted = {name: name.casefold() for name in (*task.classes, "patient", "label", "referral")}
    found = {name: folded.index(key) for name, key in wanted.items() if key in folded}
    spelt = [name for name in FILE_COLUMNS if name in folded]
    if spelt:
        found["file"] = folded.index(spelt[0])
    missing = [name for name in ("file", *task.classes) if name not in found]
    if missing:
        raise UserError(
            f"{path}: has no column {' and no '.join(missing)}; its header must name"
            f" file,{','.join(task.classes)} (patient and label too where no data= is given), and"
            f" is {','.join(header)[:120]}"
        )
    return found


def _probabilities(
    rows: Sequence[tuple[int, Sequence[str]]], columns: Sequence[int], path: Path
) -> Float[np.ndarray, "scans classes"]:
    values = np.empty((len(rows), len(columns)))
    for index, (line, row) in enumerate(rows):
        texts = [row[column] for column in columns]
        try:
            values[index] = [float(text) for text in texts]
        except ValueError:
            raise UserError(
                f"{path} line {line}: {', '.join(texts)}: a probability is a number"
            ) from None
        whole = values[index].sum()
        if not ((values[index] >= 0).all() and abs(whole - 1) <= _OFF_BY):
            raise UserError(
                f"{path} line {line}: {', '.join(texts)}: must be probabilities from 0 to 1"
                f" that sum to 1, and sum to {whole:g}"
            )
    return values / values.sum(1, keepdims=True)
