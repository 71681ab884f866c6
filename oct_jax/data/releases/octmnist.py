"""OCTMNIST of MedMNIST v2 (Yang et al. 2023): one NPZ file with the release's own splits.

`octmnist.npz` has scans of 28 pixels, `octmnist_224.npz` of 224. No patients are told: the test
scans are Kermany's official ones, most of whose patients have scans in training too.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oct_jax.arrays import ScanArray
from oct_jax.data.kermany import OWN_GROUP
from oct_jax.data.manifest import Record
from oct_jax.data.scans import Reader, Scans
from oct_jax.task import KERMANY
from oct_jax.types import UserError

SPLITS = ("train", "val", "test")
UNPACKED = "octmnist-unpacked"


@dataclass(frozen=True)
class StackReader(Reader):
    """Scans in files of one array each, read from disk as they are asked for.

    Attributes:
      places: of each scan, the file and the row in it.
    """

    places: tuple[tuple[Path, int], ...]

    def read(self, row: int) -> ScanArray:
        """See `Reader`."""
        path, index = self.places[row]
        return np.array(np.load(path, mmap_mode="r")[index])


def read_octmnist(root: Path) -> Scans:
    """OCTMNIST from its NPZ file; half of its validation scans becomes the calibration split.

    The arrays are unpacked once, beside the file, so that they need not be in memory.

    Args:
      root: the file, or a folder that holds one.

    Raises:
      UserError: no such file, or not one of OCTMNIST.
    """
    path = _file(root)
    folder = path.parent / UNPACKED / path.stem
    records, places = [], []
    for split in SPLITS:
        images = _unpacked(path, f"{split}_images", folder)
        stack = np.load(images, mmap_mode="r")
        labels = np.load(_unpacked(path, f"{split}_labels", folder)).reshape(-1)
        if stack.ndim != 3 or stack.dtype != np.uint8 or len(stack) != len(labels):
            raise UserError(f"{path}: {split}_images is {stack.dtype} of shape {stack.shape}")
        if not ((labels >= 0) & (labels < len(KERMANY.classes))).all():
            raise UserError(f"{path}: {split}_labels holds labels that are not 0 to 3")
        for index, label in enumerate(labels):
            records.append(_record(split, index, stack[index], KERMANY.classes[int(label)]))
            places.append((images, index))
    return Scans(tuple(records), KERMANY, StackReader(tuple(places)))


def _record(split: str, index: int, scan: ScanArray, label: str) -> Record:
    name = f"{split}/{index:06}"
    return Record(
        path=name,
        label=label,
        patient=OWN_GROUP + name,
        split="calibration" if split == "val" and index % 2 else split,
        width=scan.shape[1],
        height=scan.shape[0],
        bytes=scan.nbytes,
        sha256=hashlib.sha256(scan.tobytes()).hexdigest(),
    )


def _file(root: Path) -> Path:
    if root.is_file():
        return root
    if not root.is_dir():
        raise UserError(f"no such file or folder: {root}")
    files = sorted(root.glob("octmnist*.npz"))
    if len(files) != 1:
        raise UserError(f"{root}: holds {len(files)} files octmnist*.npz; name one")
    return files[0]


def _unpacked(path: Path, name: str, folder: Path) -> Path:
    """An array of an NPZ file as a file of its own; made where it is not there yet."""
    target = folder / f"{name}.npy"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        beside = target.with_suffix(".part")
        try:
            with (
                zipfile.ZipFile(path) as archive,
                archive.open(f"{name}.npy") as packed,
                beside.open("wb") as file,
            ):
                shutil.copyfileobj(packed, file, 2**20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: is no file of OCTMNIST ({error})") from error
        beside.rename(target)
    return target
