"""Phantoms as a data set: scans of many patients, split by patient."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from oct_jax.arrays import ScanArray
from oct_jax.data.manifest import Record
from oct_jax.data.phantom.anatomy import draw_anatomy
from oct_jax.data.phantom.scan import PhantomScan, phantom_scan
from oct_jax.data.readers import map_threads
from oct_jax.data.scans import Reader, Scans
from oct_jax.task import KERMANY

_SCANS_PER_PATIENT = (1, 4)


@dataclass(frozen=True)
class PhantomReader(Reader):
    """Phantoms: nothing is stored, a scan is made from (seed, patient, scan) when it is read.

    Attributes:
      seed: fixes every pixel.
      keys: of each scan, the number of the patient and that of the scan.
    """

    seed: int
    keys: tuple[tuple[int, int], ...]

    def read(self, row: int) -> ScanArray:
        """Makes scan `row`."""
        return _make(self.seed, *self.keys[row]).image

    def lesion(self, row: int) -> Bool[np.ndarray, "height width"]:
        """Where the lesion of scan `row` is; all false for NORMAL."""
        return _make(self.seed, *self.keys[row]).lesion


@functools.lru_cache(maxsize=2)
def phantom_scans(*, patients: int, seed: int) -> Scans:
    """Synthetic scans of Kermany's four classes, split by patient; `Scans.lesion` is known.

    Classes take turns; each patient has one class and 1 to 4 scans. Each scan is made once here
    for the hash in its record, which is of its pixels; a second call with the same arguments gives
    the same value.

    Args:
      patients: how many; a multiple of 4 gives every class the same number of scans.
      seed: fixes every pixel and the split.

    Raises:
      UserError: too few patients for every split.
    """
    keys = tuple(
        (patient, scan) for patient in range(patients) for scan in range(_scan_count(seed, patient))
    )
    records = list(map_threads(lambda key: _record(seed, *key), keys))
    scans = Scans(tuple(records), KERMANY, PhantomReader(seed, keys))
    return scans.split_by_patient(seed=seed)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _label(patient: int) -> str:
    return KERMANY.classes[patient % len(KERMANY.classes)]


def _scan_count(seed: int, patient: int) -> int:
    # The same for the patients of a round through the classes, which keeps the classes balanced.
    fewest, most = _SCANS_PER_PATIENT
    return int(_generator(seed, patient // len(KERMANY.classes), 0, 0).integers(fewest, most + 1))


def _make(seed: int, patient: int, scan: int) -> PhantomScan:
    anatomy = draw_anatomy(_generator(seed, patient, 1, 0))
    return phantom_scan(_label(patient), _generator(seed, patient, 2, scan), anatomy)


def _record(seed: int, patient: int, scan: int) -> Record:
    image = _make(seed, patient, scan).image
    return Record(
        path=f"{_label(patient)}-{patient}-{scan}",
        label=_label(patient),
        patient=str(patient),
        split="",
        width=image.shape[1],
        height=image.shape[0],
        bytes=image.nbytes,
        sha256=hashlib.sha256(image.data).hexdigest(),
    )
