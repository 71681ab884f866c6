"""Where a model comes from: the scans that it has met, its first weights, what was measured.

The scans are kept as SHA-256 digests of the files and of the patients' names: whoever has a scan
can ask whether the model was trained on it, and the model file lists no patient. A digest of a
short number can still be guessed, so it is no anonymisation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from msgspec import Struct
from msgspec import field as member

from oct_jax.data.kermany import OWN_GROUP
from oct_jax.data.manifest import Record
from oct_jax.files import Count, Sha256


@dataclass(frozen=True)
class ScanDigests:
    """A set of scans and of their patients.

    Attributes:
      scans: SHA-256 of each file, hexadecimal.
      patients: SHA-256 of each patient's name or number, hexadecimal.
    """

    scans: frozenset[str] = frozenset()
    patients: frozenset[str] = frozenset()

    @classmethod
    def of(cls, records: Iterable[Record]) -> ScanDigests:
        """Those of records; a scan that names no patient has none."""
        known = tuple(records)
        named = {record.patient for record in known if not record.patient.startswith(OWN_GROUP)}
        return cls(frozenset(record.sha256 for record in known), frozenset(map(_digest, named)))

    @classmethod
    def read(cls, stored: Mapping[str, str]) -> ScanDigests:
        """From `scans` and `patients` as texts of digests with spaces between them."""
        return cls(*(frozenset(stored.get(name, "").split()) for name in ("scans", "patients")))

    def holds(self, record: Record) -> bool:
        """Whether a scan, or another one of its patient, is among these."""
        return record.sha256 in self.scans or _digest(record.patient) in self.patients

    def __or__(self, other: ScanDigests) -> ScanDigests:
        return ScanDigests(self.scans | other.scans, self.patients | other.patients)

    def __bool__(self) -> bool:
        return bool(self.scans or self.patients)


@dataclass(frozen=True)
class FaithfulnessResult:
    """A faithfulness report in short.

    Attributes:
      method: of the heatmaps that were tested.
      flip: whether each was averaged with the mirrored scan's.
      passed: whether the report is passed.
      scans: number of scans that it was made of.
    """

    method: str
    flip: bool
    passed: bool
    scans: int


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes:
      trained: scans that its weights were fitted to, those of the weights it began from included.
      chosen: scans that chose its epoch or fitted its decision rule.
      facts: JSON values: `data`, `weights`, `seed`, `created`, `versions`, `licence`, `notice`, and
        `measured`, a list of evaluations in short; any of them may be missing.
      tested: faithfulness reports of this very model.
    """

    trained: ScanDigests = field(default_factory=ScanDigests)
    chosen: ScanDigests = field(default_factory=ScanDigests)
    facts: Mapping[str, Any] = field(default_factory=dict)
    tested: tuple[FaithfulnessResult, ...] = ()

    def is_verified(self, method: str, flip: bool) -> bool:
        """Whether the heatmaps of a method have passed a faithfulness report."""
        asked = (method, flip)
        return any(each.passed and (each.method, each.flip) == asked for each in self.tested)

    def with_report(self, report: FaithfulnessResult) -> Provenance:
        """The same with a faithfulness report, which replaces an earlier one of its method."""
        others = [
            each for each in self.tested if (each.method, each.flip) != (report.method, report.flip)
        ]
        return replace(self, tested=(*others, report))

    def with_chosen(self, records: Iterable[Record]) -> Provenance:
        """The same with further scans that fitted its decision rule."""
        return replace(self, chosen=self.chosen | ScanDigests.of(records))


class DataFacts(Struct):
    """`facts["data"]`: the digest of the manifest, and the scans of each split and class."""

    manifest_sha256: Sha256 | None = None
    scans: dict[str, dict[str, Count]] | None = None


class Measured(Struct):
    """One of `facts["measured"]`: an evaluation in short; each figure is (value, low, high)."""

    data: str
    split: str
    scans: Count
    figures: dict[str, tuple[float, float, float]]
    patients: Count | None = None
    contaminated: bool = False


class Facts(Struct):
    """What the package reads of `Provenance.facts`; there may be more in them."""

    data: DataFacts = member(default_factory=DataFacts)
    weights: dict[str, Any] = {}
    seed: Count | None = None
    created: str | None = None
    versions: dict[str, str] | None = None
    measured: list[Measured] = []


NO_PROVENANCE = Provenance()
"""Of a model about which nothing is known."""


def _digest(patient: str) -> str:
    return hashlib.sha256(patient.encode("utf-8", "surrogateescape")).hexdigest()
