"""Named protocols: a data set, its splits, and the published figures that may stand beside it.

A protocol's splits depend on the scans alone: on the same files everybody has the same ones, which
`splits_digest` names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oct_jax.data.folder import scans_in_files
from oct_jax.data.kermany import OWN_GROUP, list_scans
from oct_jax.data.manifest import manifest_digest
from oct_jax.data.releases import READERS
from oct_jax.data.scans import Scans
from oct_jax.data.split import grouped_folds, keep_official
from oct_jax.task import KERMANY, NEH, OCTDL, OCTID, SRINIVASAN, Task
from oct_jax.types import UserError

SEED = 0
"""Of every protocol's splits: another seed would be another protocol."""
FOLDS = 5


@dataclass(frozen=True)
class Protocol:
    """How a data set is split.

    Attributes:
      name: as on the command line.
      task: the classes.
      splits: in one sentence, how they are made and what that is worth.
      open_folds: from the folder of the data to scans with their splits, one value a fold.
    """

    name: str
    task: Task
    splits: str
    open_folds: Callable[[Path], list[Scans]]


def splits_digest(folds: Sequence[Scans]) -> str:
    """Names the splits: SHA-256 over the manifests of all folds, hexadecimal."""
    digests = "\n".join(manifest_digest(fold.records) for fold in folds)
    return hashlib.sha256(digests.encode()).hexdigest()


def has_patients(scans: Scans) -> bool:
    """Whether the data tell the patient of every scan."""
    return not any(patient.startswith(OWN_GROUP) for patient in scans.patients)


def _by_patient(root: Path) -> list[Scans]:
    records = list_scans(root).records
    # What split a release had is not asked: all scans are dealt out anew.
    return _in_folds(scans_in_files(root, [replace(record, split="") for record in records]))


def _official_clean(root: Path) -> list[Scans]:
    listing = list_scans(root)
    if not listing.official:
        raise UserError(
            f"data={root}: has no train and test folders; protocol=official_clean keeps the"
            " release's own test split, protocol=by_patient splits class folders"
        )
    records, _ = keep_official(listing.records, seed=SEED)
    return [scans_in_files(root, records)]


def _of_release(name: str) -> Callable[[Path], list[Scans]]:
    return lambda root: _in_folds(READERS[name](root))


def _in_folds(scans: Scans) -> list[Scans]:
    folds = grouped_folds(scans.records, FOLDS, seed=SEED)
    return [scans.with_records(records) for records in folds]


_FIVE = "five folds by patient, each tested once; validation and calibration are carved from the"
_FIVE += " others by patient"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("by_patient", KERMANY, f"{_FIVE}; no patient is in two splits", _by_patient),
        Protocol(
            "official_clean",
            KERMANY,
            "the release's test split; scans of train and val whose patient, or a byte-identical"
            " copy, is in test are removed, so that no patient is in two splits",
            _official_clean,
        ),
        Protocol(
            "octmnist",
            KERMANY,
            "MedMNIST's own splits, half of val calibrates; it tells no patients, and its test"
            " scans are Kermany's, most of whose patients have scans in train: the figures leak",
            lambda root: [READERS["octmnist"](root)],
        ),
        Protocol("octdl", OCTDL, f"{_FIVE}; no patient is in two splits", _of_release("octdl")),
        Protocol(
            "neh",
            NEH,
            f"{_FIVE}; scans whose own label is their patient's class; no patient is in two splits",
            _of_release("neh"),
        ),
        Protocol(
            "srinivasan",
            SRINIVASAN,
            f"{_FIVE}; 45 volumes of as many people; no patient is in two splits",
            _of_release("srinivasan"),
        ),
        Protocol(
            "octid",
            OCTID,
            "five folds by scan: the release tells no patients, so splits may share some",
            _of_release("octid"),
        ),
    )
}
"""By name."""
