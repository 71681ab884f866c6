"""Class folders, as the data set of Kermany et al. (Cell 172:1122-1131, 2018) has them.

Three layouts: `ROOT/{train,val,test}/{CLASS}/*` (Kaggle v2), `ROOT/{train,test}/{CLASS}/*`
(Mendeley) and `ROOT/{CLASS}/*`. Files are named `CLASS-PATIENT-INDEX`; the number alone names the
patient, since one patient may have scans of several classes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Literal

from oct_jax.data.manifest import Record, printable, summarize
from oct_jax.data.readers import UnreadableScan, decode_scan, map_threads
from oct_jax.data.volumes import Volume, is_volume
from oct_jax.data.volumes.members import as_bmp, members
from oct_jax.data.volumes.opening import ONE_PICTURE
from oct_jax.paths import expand_home
from oct_jax.task import KERMANY, Task, of_folders
from oct_jax.types import UserError

OFFICIAL_SPLITS = ("train", "val", "test")
OWN_GROUP = "file:"
"""Begins the patient of a scan whose name tells none."""

_SIDECARS = ("thumbs.db", "desktop.ini", "__macosx")


@dataclass(frozen=True)
class BadScan:
    """A file that is left out, and why.

    Attributes:
      path: relative to the data root, with forward slashes.
      reason: one line.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
      records: the good scans in order of path; `split` is the official one, or "".
      official: whether the folder comes with a split.
      bad: files that were dropped.
      without_patient: scans whose name tells no patient; each is a group of its own.
      merged: folders that are one but for upper and lower case, as "CNV + cnv".
      ignored: folders that belong to no class.
    """

    records: tuple[Record, ...]
    official: bool
    bad: tuple[BadScan, ...]
    without_patient: int
    merged: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class _Folder:
    """One class folder, merged from all that differ only by case."""

    split: str
    label: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class _Layout:
    folders: tuple[_Folder, ...]
    ignored: tuple[Path, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(folder.split for folder in self.folders))


def list_scans(
    root: str | os.PathLike[str],
    *,
    task: Task = KERMANY,
    on_bad_scan: Literal["refuse", "skip"] = "refuse",
    require_all_classes: bool = True,
    allow_empty: bool = False,
    other_labels: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Listing:
    """Finds, hashes and decodes every scan under `root`.

    `root` may also be the parent of exactly one folder in a known layout, as unpacked archives are.

    Args:
      root: the data root; paths in the records are relative to it.
      task: the classes; their folders may be spelt in upper or lower case.
      on_bad_scan: "refuse" raises if a file is unreadable or named after another class than its
        folder's; "skip" drops such files and lists them.
      require_all_classes: whether every split must have every class.
      allow_empty: whether class folders may hold no scan, or none that can be used.
      other_labels: names of folders beside those of the classes; their scans have the label "".
      progress: called with (done, total) as files are checked.

    Raises:
      UserError: no such folder, no known layout, a missing or empty class, or bad scans.
    """
    root = Path(expand_home(root))
    layout = _find_layout(root, (*task.classes, *other_labels))
    _check_layout(layout, root, task.classes if require_all_classes else ())
    if not allow_empty:
        _check_nothing_empty(layout)
    files = [file for folder in layout.folders for file in _files(folder)]
    if not files:
        raise UserError(f"{root} holds no scans")
    check = partial(_check_item, root=root, task=task)
    results = [result for part in map_threads(check, files, progress) for result in part]
    bad = tuple(sorted((r for r in results if isinstance(r, BadScan)), key=lambda b: b.path))
    if bad and on_bad_scan == "refuse":
        named = summarize([f"{scan.path} ({scan.reason})" for scan in bad])
        raise UserError(
            f"{len(bad)} of {len(files)} files in {root} are bad: {named}; "
            "mend or remove them, or drop and record them with on_bad_scan=skip"
        )
    records = tuple(sorted((r for r in results if isinstance(r, Record)), key=lambda r: r.path))
    if not allow_empty:
        _check_nothing_emptied(layout, records)
    return Listing(
        records=records,
        official=layout.splits != ("",),
        bad=bad,
        without_patient=sum(record.patient.startswith(OWN_GROUP) for record in records),
        merged=tuple(
            " + ".join(_relative(path, root) for path in folder.paths)
            for folder in layout.folders
            if len(folder.paths) > 1
        ),
        ignored=tuple(_relative(path, root) for path in layout.ignored),
    )


def folder_task(root: str | os.PathLike[str]) -> Task:
    """The task whose classes are the names of the class folders below `root`.

    Those are the folders in `root`, or in its train, val and test folders, or in its only
    subfolder, as unpacked archives are. Names that differ only by case are one class.

    Raises:
      UserError: no such folder, or fewer than two class folders.
    """
    root = Path(expand_home(root))
    if not root.is_dir():
        raise UserError(f"no such folder: {root}")
    folders = _subfolders(root)
    if len(folders) == 1 and _key(folders[0]) not in OFFICIAL_SPLITS:
        root, folders = folders[0], _subfolders(folders[0])
    splits = [folder for folder in folders if _key(folder) in OFFICIAL_SPLITS]
    classes = [child for split in splits for child in _subfolders(split)] or folders
    names = {_key(folder): folder.name for folder in reversed(classes)}
    if len(names) < 2:
        raise UserError(f"{root}: {len(names)} class folders; a task needs at least two")
    return of_folders(list(names.values()))


def patient_of(file_name: str, task: Task = KERMANY) -> str | None:
    """The patient's number in `CLASS-PATIENT-INDEX`, without leading zeros; None if not so named.

    >>> patient_of("CNV-0123-1.jpeg")
    '123'
    """
    parsed = _parse_name(file_name, task.classes)
    return parsed[1] if parsed else None


def _parse_name(file_name: str, classes: tuple[str, ...]) -> tuple[str, str] | None:
    """Class and patient in a file's name; None for other names."""
    match = _name_pattern(classes).match(file_name)
    if match is None:
        return None
    spelt = {name.casefold(): name for name in classes}
    return spelt[match[1].casefold()], match[2].lstrip("0") or "0"


@cache
def _name_pattern(classes: tuple[str, ...]) -> re.Pattern[str]:
    # What follows the index, as in "CNV-123-1 (1).jpeg", does not hide the patient.
    names = "|".join(map(re.escape, sorted(classes, key=len, reverse=True)))
    return re.compile(rf"({names})-([0-9]+)-[0-9]+", re.IGNORECASE)


def _find_layout(root: Path, names: Sequence[str]) -> _Layout:
    if not root.is_dir():
        raise UserError(f"no such folder: {root}")
    layout = _layout_of(root, names)
    if layout.folders:
        return layout
    below = [child for child in _subfolders(root) if _layout_of(child, names).folders]
    if len(below) == 1:
        return _layout_of(below[0], names)
    if below:
        inside = ", ".join(repr(child.name) for child in below)
        raise UserError(f"{root} holds {len(below)} data sets ({inside}); name one of them")
    raise UserError(
        f"{root} holds no class folders; expected {'/'.join(names)} in it, or in its "
        "train, val and test folders"
    )


def _layout_of(root: Path, names: Sequence[str]) -> _Layout:
    """The class folders of `root`, none if it is laid out in no known way."""
    children = _subfolders(root)
    flat = _classes_in((root,), "", names)
    splits = [
        _classes_in(tuple(c for c in children if _key(c) == split), split, names)
        for split in OFFICIAL_SPLITS
    ]
    official = [folder for layout in splits for folder in layout.folders]
    if flat.folders and official:
        raise UserError(f"{root} holds both class folders and split folders; keep one kind")
    if not official:
        return flat
    strangers = [child for child in children if _key(child) not in OFFICIAL_SPLITS]
    strangers += [path for layout in splits for path in layout.ignored]
    return _Layout(tuple(official), tuple(strangers))


def _classes_in(parents: tuple[Path, ...], split: str, names: Sequence[str]) -> _Layout:
    children = [child for parent in parents for child in _subfolders(parent)]
    by_label = {
        label: tuple(child for child in children if _key(child) == label.casefold())
        for label in names
    }
    folders = tuple(_Folder(split, label, paths) for label, paths in by_label.items() if paths)
    known = {path for paths in by_label.values() for path in paths}
    inner = [c for path in sorted(known) for c in _subfolders(path) if not is_volume(c)]
    return _Layout(folders, tuple([child for child in children if child not in known] + inner))


def _check_layout(layout: _Layout, root: Path, required: Sequence[str]) -> None:
    if layout.splits != ("",) and not {"train", "test"} <= set(layout.splits):
        raise UserError(
            f"{root} has only {' and '.join(layout.splits)} of the official split; "
            "it needs train and test, or class folders alone"
        )
    for split in layout.splits:
        present = {folder.label for folder in layout.folders if folder.split == split}
        missing = [label for label in required if label not in present]
        if missing:
            raise UserError(f"{root / split} has no folder {' and no '.join(missing)}")


def _check_nothing_empty(layout: _Layout) -> None:
    for folder in layout.folders:
        if not _files(folder):
            raise UserError(f"{folder.paths[0]} holds no scans")


def _check_nothing_emptied(layout: _Layout, records: tuple[Record, ...]) -> None:
    left = {(record.split, _key(Path(record.path).parent)) for record in records}
    for folder in layout.folders:
        if (folder.split, folder.label.casefold()) not in left:
            raise UserError(f"{folder.paths[0]} holds bad scans only; nothing of it can be used")


def _files(folder: _Folder) -> list[tuple[_Folder, Path]]:
    """The files of a class folder, and the folders in it that are volumes."""
    return [
        (folder, path)
        for parent in folder.paths
        for path in _visible(parent)
        if path.is_file() or is_volume(path)
    ]


def _subfolders(parent: Path) -> list[Path]:
    return [path for path in _visible(parent) if path.is_dir()]


def _visible(parent: Path) -> Iterator[Path]:
    for path in sorted(parent.iterdir()):
        if not path.name.startswith(".") and path.name.casefold() not in _SIDECARS:
            yield path


def _key(folder: Path) -> str:
    return folder.name.casefold()


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _check_item(
    item: tuple[_Folder, Path], *, root: Path, task: Task
) -> tuple[Record | BadScan, ...]:
    """The record of a file, or those of a volume's B-scans."""
    folder, path = item
    if path.suffix.casefold() in ONE_PICTURE or not is_volume(path):
        return (_check_file(folder, path, root=root, task=task),)
    relative = _relative(path, root)
    if not printable(relative):
        return (BadScan(repr(relative), "its name holds a control character"),)
    label = folder.label if folder.label in task.classes else ""
    try:
        return tuple(
            _member_record(*member, group=OWN_GROUP + relative, label=label, split=folder.split)
            for member in members(path, relative)
        )
    except UnreadableScan as error:
        return (BadScan(relative, error.reason),)


def _member_record(
    path: str, volume: Volume, index: int, *, group: str, label: str, split: str
) -> Record:
    scan = volume.read(index)
    data = as_bmp(scan)
    axial, lateral = volume.spacing or (None, None)
    return Record(
        path=path,
        label=label,
        patient=volume.patient or group,
        split=split,
        width=scan.shape[1],
        height=scan.shape[0],
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        eye=volume.eye or group.removeprefix(OWN_GROUP),
        device=volume.device,
        laterality=volume.laterality or "",
        axial_um=axial,
        lateral_um=lateral,
        position_um=round(volume.distances[index], 1) if volume.distances else None,
    )


def _check_file(folder: _Folder, path: Path, *, root: Path, task: Task) -> Record | BadScan:
    relative = _relative(path, root)
    named = _parse_name(path.name, task.classes)
    if not printable(relative):
        return BadScan(repr(relative), "its name holds a control character")
    label = folder.label if folder.label in task.classes else ""
    if label and named is not None and named[0] != label:
        return BadScan(relative, f"its name says {named[0]}, its folder {folder.label}")
    try:
        data = path.read_bytes()
        height, width = decode_scan(data, relative).shape
    except UnreadableScan as error:
        return BadScan(relative, error.reason)
    except OSError as error:
        return BadScan(relative, error.strerror or str(error))
    return Record(
        path=relative,
        label=label,
        patient=named[1] if named else OWN_GROUP + str(PurePosixPath(relative).with_suffix("")),
        split=folder.split,
        width=width,
        height=height,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
