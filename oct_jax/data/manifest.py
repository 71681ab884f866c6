"""The manifest: which file is in which split, with its hash. Plain CSV for any program to read."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path, PurePosixPath

from oct_jax.data.readers import UnreadableScan, map_threads
from oct_jax.files import write_atomic
from oct_jax.types import SPLITS, UserError


@dataclass(frozen=True)
class Record:
    """One scan.

    Attributes:
      path: relative to the data root, with forward slashes.
      label: name of a class, or "" when unknown; `Scans` checks it against a task.
      patient: patient number, or a name of its own for a scan that tells none; never "".
      split: a name of `SPLITS`, or "" when not assigned yet.
      width: of the decoded scan, pixels.
      height: of the decoded scan, pixels.
      bytes: size of the file.
      sha256: of the file, 64 lower-case hexadecimal digits.
      eye: opaque name of the eye; "" where nobody says. This and what follows is of volumes.
      device: maker and model; "" where nobody says.
      laterality: R or L; "" where nobody says.
      axial_um: micrometres a pixel in depth; None where nobody says.
      lateral_um: micrometres a pixel along the B-scan; None where nobody says.
      position_um: of the B-scan from the centre of the scanned field; None where nobody says.
      more: columns of one's own, such as age group or sex: (name, value) each, in order.
    """

    path: str
    label: str
    patient: str
    split: str
    width: int
    height: int
    bytes: int
    sha256: str
    eye: str = ""
    device: str = ""
    laterality: str = ""
    axial_um: float | None = None
    lateral_um: float | None = None
    position_um: float | None = None
    more: tuple[tuple[str, str], ...] = ()


_EVERY_COLUMN: tuple[str, ...] = tuple(field.name for field in fields(Record))
COLUMNS = _EVERY_COLUMN[:8]
VOLUME_COLUMNS = _EVERY_COLUMN[8:-1]
"""Written only where a record has any of them, so that other manifests stay as they are."""
_file_row = attrgetter(*COLUMNS)
_volume_row = attrgetter(*VOLUME_COLUMNS)
_LARGEST = 1e6
_NAMED_IN_ERRORS = 3


def summarize(names: Sequence[str], separator: str = ", ") -> str:
    """The first few names, and how many more there are."""
    shown = separator.join(names[:_NAMED_IN_ERRORS])
    rest = len(names) - _NAMED_IN_ERRORS
    return f"{shown} and {rest} more" if rest > 0 else shown


def values_of(records: Sequence[Record], column: str) -> list[str] | None:
    """What each record has in a column, as text, "" for nothing; None where there is no column."""
    if column in _EVERY_COLUMN[:-1]:
        values = (getattr(record, column) for record in records)
        return ["" if value is None else str(value) for value in values]
    if all(column not in dict(record.more) for record in records):
        return None
    return [dict(record.more).get(column, "") for record in records]


def column_names(records: Sequence[Record]) -> tuple[str, ...]:
    """The columns of a manifest that any of the records fills."""
    own = dict.fromkeys(name for record in records for name, _ in record.more)
    names = (*_EVERY_COLUMN[:-1], *own)
    return tuple(name for name in names if any(values_of(records, name) or ()))


def write_manifest(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Writes `manifest_csv`; the file appears whole or not at all.

    Raises:
      UserError: a record that `read_manifest` would refuse, or the file cannot be written.
    """
    content = manifest_csv(records)
    try:
        write_atomic(Path(path), content)
    except OSError as error:
        raise UserError(f"cannot write manifest {path}: {error.strerror or error}") from error


def manifest_csv(records: Iterable[Record]) -> bytes:
    """CSV with a header, one line a record; names that are not valid UTF-8 keep their bytes.

    Raises:
      UserError: a record that `read_manifest` would refuse.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    records = tuple(records)
    of_volumes = any(map(_is_of_volume, records))
    more = tuple(dict.fromkeys(name for record in records for name, _ in record.more))
    writer.writerow(COLUMNS + (VOLUME_COLUMNS if of_volumes else ()) + more)
    for record in records:
        _check(record, f"record {record.path!r}")
        own = dict(record.more)
        row = _file_row(record) + (_volume_row(record) if of_volumes else ())
        writer.writerow(row + tuple(own.get(name, "") for name in more))
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_manifest(path: str | os.PathLike[str]) -> tuple[Record, ...]:
    """Reads what `write_manifest` or another program wrote; every line is checked.

    Raises:
      UserError: no such file, another header, a bad value or the same path twice; the message
        names the file and the line.
    """
    source = Path(path)
    try:  # utf-8-sig: spreadsheets begin their CSV with a byte-order mark
        with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return tuple(_parse(csv.reader(file, strict=True), source))
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read manifest {source}: {reason}") from error


def manifest_digest(records: Iterable[Record]) -> str:
    """SHA-256 over the content of all records, whatever their order, as hexadecimal digits."""
    rows = sorted(map(_digested, records))
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode("ascii")).hexdigest()


def scan_bytes(root: Path, path: str) -> bytes:
    """The bytes of a scan: of its file, or for a B-scan of a volume see `volumes.members`.

    Raises:
      OSError: the file cannot be read.
      UnreadableScan: the volume cannot be read.
    """
    if "#" in path:
        from oct_jax.data.volumes.members import as_bmp, member_of  # only volumes need it

        member = member_of(root, path)
        if member is not None:
            return as_bmp(member[0].read(member[1]))
    return (root / path).read_bytes()


def verify(
    records: Sequence[Record],
    root: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Checks that the files under `root` are those of the manifest, byte for byte.

    Args:
      records: as read from a manifest.
      root: the folder that their paths are relative to.
      progress: called with (done, total).

    Raises:
      UserError: one line that counts and names the missing and the changed files.
    """
    states = list(map_threads(lambda record: _state(record, Path(root)), records, progress))
    faults = [
        f"{sum(s == fault for s in states)} {fault} ("
        + summarize([r.path for r, s in zip(records, states, strict=True) if s == fault])
        + ")"
        for fault in ("missing", "changed")
        if fault in states
    ]
    if faults:
        raise UserError(
            f"{root} does not hold the {len(records)} scans of the manifest: "
            f"{'; '.join(faults)}; restore them or make a new manifest"
        )


def _state(record: Record, root: Path) -> str:
    try:
        data = scan_bytes(root, record.path)
    except (OSError, UnreadableScan):
        return "missing"
    return "" if hashlib.sha256(data).hexdigest() == record.sha256 else "changed"


def _parse(reader: Iterator[list[str]], source: Path) -> Iterator[Record]:
    header = tuple(next(reader, ()))
    _check_header(header, f"{source} line 1")
    first_line: dict[str, int] = {}
    for line, row in enumerate(reader, 2):  # no field holds a line break, so records are lines
        where = f"{source} line {line}"
        if len(row) != len(header):
            raise UserError(f"{where}: {len(row)} fields instead of {len(header)}")
        record = _record(dict(zip(header, row, strict=True)), where)
        if record.path in first_line:
            raise UserError(f"{where}: {record.path} is on line {first_line[record.path]} already")
        first_line[record.path] = line
        yield record


def _check_header(header: tuple[str, ...], where: str) -> None:
    rest = header[len(COLUMNS) :]
    of_volumes = rest[: len(VOLUME_COLUMNS)] == VOLUME_COLUMNS
    own = rest[len(VOLUME_COLUMNS) :] if of_volumes else rest
    if header[: len(COLUMNS)] != COLUMNS or set(own) & set(_EVERY_COLUMN):
        raise UserError(
            f"{where}: the header must be {','.join(COLUMNS)}, of volumes then"
            f" {','.join(VOLUME_COLUMNS)} too, then columns of your own"
        )
    if len(set(own)) < len(own) or not all(name and printable(name) for name in own):
        raise UserError(f"{where}: give each column of your own a name, and no two the same")


def _record(row: dict[str, str], where: str) -> Record:
    record = Record(
        path=row["path"],
        label=row["label"],
        patient=row["patient"],
        split=row["split"],
        width=_number(row, "width", where),
        height=_number(row, "height", where),
        bytes=_number(row, "bytes", where),
        sha256=row["sha256"],
        eye=row.get("eye", ""),
        device=row.get("device", ""),
        laterality=row.get("laterality", ""),
        axial_um=_micrometres(row, "axial_um", where),
        lateral_um=_micrometres(row, "lateral_um", where),
        position_um=_micrometres(row, "position_um", where),
        more=tuple((name, value) for name, value in row.items() if name not in _EVERY_COLUMN),
    )
    _check(record, where)
    return record


def _is_of_volume(record: Record) -> bool:
    return any(value not in ("", None) for value in _volume_row(record))


def _digested(record: Record) -> tuple:
    """Without columns that only volumes have, so that digests of other records stay."""
    volume = tuple("" if v is None else str(v) for v in _volume_row(record))
    own = tuple(part for pair in record.more for part in pair)
    return _file_row(record) + (volume if _is_of_volume(record) else ()) + own


def _micrometres(row: dict[str, str], column: str, where: str) -> float | None:
    text = row.get(column, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < _LARGEST:  # false of NaN too
        raise UserError(f"{where}: {column} is {text!r}, not a number of micrometres")
    return value


def _number(row: dict[str, str], column: str, where: str) -> int:
    text = row[column]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise UserError(f"{where}: {column} is {text!r}, not a whole number")
    return int(text)


def _check(record: Record, where: str) -> None:
    parts = PurePosixPath(record.path).parts
    if record.path != "/".join(parts) or ".." in parts or not parts:
        raise UserError(f"{where}: path {record.path!r} is not a plain path below the data root")
    own = (part for pair in record.more for part in pair)
    words = (record.path, record.patient, record.label, record.eye, record.device, *own)
    if not all(map(printable, words)):
        raise UserError(f"{where}: a text holds a line break or another control character")
    if record.laterality not in ("", "R", "L"):
        raise UserError(f"{where}: laterality is {record.laterality!r}, not R or L")
    if record.split not in ("", *SPLITS):
        raise UserError(f"{where}: split is {record.split!r}, not one of {', '.join(SPLITS)}")
    if not record.patient:
        raise UserError(f"{where}: patient is empty")
    if min(record.width, record.height, record.bytes) < 1:
        raise UserError(f"{where}: width, height and bytes must be positive")
    if len(record.sha256) != 64 or not set(record.sha256) <= set("0123456789abcdef"):
        raise UserError(f"{where}: sha256 is {record.sha256!r}, not 64 lower-case hex digits")


def printable(name: str) -> bool:
    """Whether a name has no control character, so that it stays one field of one CSV line."""
    return not any(ord(character) < 32 or ord(character) == 127 for character in name)
