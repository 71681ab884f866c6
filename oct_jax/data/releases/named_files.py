"""Releases of picture files whose labels and patients are in folders, file names or a CSV.

OCTDL       OCTDL/{AMD,DME,ERM,NO,RAO,RVO,VID}/*.jpg and OCTDL_labels.csv
            (file_name, disease, patient_id, ...); Kulyabin et al. 2024, doi:10.17632/sncdhf53xc
NEH-UT      NEH_UT_2021RetinalOCTDataset/{CNV,DRUSEN,NORMAL}/PATIENT/.../NUMBER_LABEL.jpg, patients
            numbered in each class anew; Sotoudeh-Paima et al. 2022, doi:10.17632/8kt969dhx6
Srinivasan  Publication_Dataset/{AMD,DME,NORMAL}N/TIFFs/8bitTIFFs/*.tif, a folder a patient;
            Srinivasan et al. 2014
OCTID       {AMRD,CSR,DR,MH,NORMAL}/*.jpeg, without patients; Gholami et al. 2020
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from oct_jax.data.folder import scans_in_files
from oct_jax.data.kermany import OWN_GROUP, list_scans
from oct_jax.data.manifest import Record, printable, summarize
from oct_jax.data.readers import UnreadableScan, decode_scan, map_threads
from oct_jax.data.scans import Scans
from oct_jax.task import NEH, OCTDL, OCTID, SRINIVASAN, Task
from oct_jax.types import UserError

OCTDL_CSV = "OCTDL_labels.csv"
_OCTDL_COLUMNS = ("file_name", "disease", "patient_id")
_PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
_NEH_LABEL = re.compile(r"_([a-z]+)$", re.IGNORECASE)
_EIGHT_BIT = "8bitTIFFs"
_SRINIVASAN_FOLDER = re.compile(r"(AMD|DME|NORMAL)(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class LabelledFile:
    """A file with what its release says of it.

    Attributes:
      path: of the file.
      label: name of a class.
      patient: as the release numbers them.
    """

    path: Path
    label: str
    patient: str


def read_octdl(root: Path) -> Scans:
    """OCTDL, by its CSV.

    Raises:
      UserError: no CSV, a missing column or file, or a disease that is not of the task.
    """
    table = _find(root, OCTDL_CSV)
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        column_of = {(name or "").strip().casefold(): name for name in reader.fieldnames or ()}
        missing = [name for name in _OCTDL_COLUMNS if name not in column_of]
        if missing:
            raise UserError(f"{table}: has no column {', '.join(missing)}")
        rows = [[row[column_of[name]].strip() for name in _OCTDL_COLUMNS] for row in reader]
    path_of = {path.stem.casefold(): path for path in _pictures(table.parent)}
    absent = [name for name, _, _ in rows if _stem(name) not in path_of]
    if absent:
        raise UserError(f"{table}: {len(absent)} files are not there: {summarize(absent)}")
    files = [LabelledFile(path_of[_stem(name)], label, who) for name, label, who in rows]
    return _scans(table.parent, files, OCTDL)


def read_neh(root: Path) -> Scans:
    """NEH-UT 2021: scans whose own label is their patient's class, as its authors use them.

    A patient with CNV has scans that show drusen or nothing; the published figures leave these out.

    Raises:
      UserError: no class folders, or none of the scans has its label in its name.
    """
    base = _holder(root, NEH.classes)
    files = []
    for name in NEH.classes:
        for path in _pictures(base / name):
            inside = path.relative_to(base / name).parts
            label = _NEH_LABEL.search(path.stem)
            if len(inside) > 1 and label and label[1].upper() == name:
                files.append(LabelledFile(path, name, f"{name}/{inside[0]}"))
    if not files:
        raise UserError(f"{base}: no file is called CLASS/PATIENT/.../NUMBER_LABEL.jpg")
    return _scans(base, files, NEH)


def read_srinivasan(root: Path) -> Scans:
    """Srinivasan et al. 2014: 45 volumes, a folder each.

    Raises:
      UserError: no folders AMD1, DME1, NORMAL1, ...
    """
    pictures = list(_pictures(root))
    eight_bit = [path for path in pictures if path.parent.name == _EIGHT_BIT]
    files = []
    for path in eight_bit or pictures:
        inside = path.parent.relative_to(root.parent).parts
        matches = [match for part in inside if (match := _SRINIVASAN_FOLDER.fullmatch(part))]
        if matches:
            name, number = matches[-1].groups()
            files.append(LabelledFile(path, name.upper(), f"{name.upper()}{number}"))
    if not files:
        raise UserError(f"{root}: has no folders AMD1, DME1, NORMAL1 with TIFFs/8bitTIFFs/*.tif")
    return _scans(root, files, SRINIVASAN)


def read_octid(root: Path) -> Scans:
    """OCTID: class folders of scans that name no patient.

    Raises:
      UserError: as of `list_scans`.
    """
    base = _holder(root, OCTID.classes)
    return scans_in_files(base, list_scans(base, task=OCTID).records, OCTID)


def _scans(root: Path, files: Sequence[LabelledFile], task: Task) -> Scans:
    unknown = sorted({file.label for file in files} - set(task.classes))
    if unknown:
        raise UserError(
            f"{root}: labels {', '.join(unknown)} are not of {task.name}, which has"
            f" {', '.join(task.classes)}"
        )
    results = list(map_threads(partial(_record, root=root), files))
    bad = [str(result) for result in results if isinstance(result, UnreadableScan)]
    if bad:
        raise UserError(f"{len(bad)} of {len(files)} files are bad: {summarize(bad, '; ')}")
    records = sorted((r for r in results if isinstance(r, Record)), key=lambda record: record.path)
    return scans_in_files(root, records, task)


def _record(file: LabelledFile, *, root: Path) -> Record | UnreadableScan:
    relative = file.path.relative_to(root).as_posix()
    try:
        data = file.path.read_bytes()
        height, width = decode_scan(data, relative).shape
    except UnreadableScan as error:
        return error
    except OSError as error:
        return UnreadableScan(relative, error.strerror or str(error))
    if not printable(relative):
        return UnreadableScan(repr(relative), "its name holds a control character")
    return Record(
        path=relative,
        label=file.label,
        patient=file.patient or OWN_GROUP + relative,
        split="",
        width=width,
        height=height,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _pictures(folder: Path) -> Iterator[Path]:
    """Picture files below a folder, in order; hidden ones and those of macOS's archives are not."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        if path.suffix.casefold() in _PICTURES and not hidden:
            yield path


def _find(root: Path, name: str) -> Path:
    """A file of this name below `root`; the one nearest to it."""
    if not root.is_dir():
        raise UserError(f"no such folder: {root}")
    found = sorted(root.rglob(name), key=lambda path: (len(path.parts), path))
    if not found:
        raise UserError(f"{root}: holds no {name}, which tells labels and patients")
    return found[0]


def _holder(root: Path, names: Sequence[str]) -> Path:
    """The folder that holds a folder of each name: `root`, or the nearest one below it."""
    if not root.is_dir():
        raise UserError(f"no such folder: {root}")
    below = sorted(
        (path for path in root.rglob(names[0]) if path.is_dir()), key=lambda p: (len(p.parts), p)
    )
    for path in below:
        if all((path.parent / name).is_dir() for name in names):
            return path.parent
    raise UserError(f"{root}: has no folders {', '.join(names)}")


def _stem(name: str) -> str:
    return Path(name).stem.casefold() if Path(name).suffix in _PICTURES else name.casefold()
