"""Where the model of a run comes from, as its folder tells it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from oct_jax.data.manifest import read_manifest
from oct_jax.decision.rule import DecisionRule
from oct_jax.files import Count, Sha256, convert, read_json
from oct_jax.provenance import FaithfulnessResult, Provenance, ScanDigests
from oct_jax.runs.verified import read_report
from oct_jax.transfer import TRAINED_ON
from oct_jax.types import UserError


class _DataReport(Struct):
    manifest_sha256: Sha256 | None = None
    counts: dict[str, dict[str, Count]] | None = None


class Origin(Struct):
    """What is read of `provenance.json`; it holds more."""

    data: _DataReport = field(default_factory=_DataReport)
    weights: dict[str, Any] = {}
    seed: Count | None = None
    created: str | None = None
    versions: dict[str, str] | None = None


def read_origin(folder: Path) -> Origin:
    """A run's `provenance.json`.

    Raises:
      UserError: it is missing or damaged. Without it scans that the first weights were trained on
        would pass as new ones.
    """
    path = folder / "provenance.json"
    if not path.is_file():
        raise UserError(
            f"{path}: missing; copy it from where the run was made: it says what the run's first"
            " weights were trained on"
        )
    return read_json(path, Origin)


def provenance_of(folder: Path, model: str, rule: DecisionRule | None) -> Provenance:
    """Where the model of a run comes from; a report that is damaged is no evidence, and left out.

    Args:
      folder: of the run.
      model: fingerprint of its weights: reports of other weights are left out.
      rule: its decision rule.

    Raises:
      UserError: the manifest is missing or damaged, or provenance.json is.
    """
    origin = read_origin(folder)
    records = read_manifest(folder / "manifest.csv")
    trained = weights_trained_on(origin)
    chosen = [record for record in records if record.split == "val"]
    facts = {
        "data": {"manifest_sha256": origin.data.manifest_sha256, "scans": origin.data.counts},
        "weights": without_paths(origin.weights),
        "seed": origin.seed,
        "created": origin.created,
        "versions": origin.versions,
        "measured": _measured(folder, model),
    }
    return Provenance(
        trained=trained | ScanDigests.of(record for record in records if record.split == "train"),
        chosen=ScanDigests.of([*chosen, *(rule.records if rule else ())]),
        facts={name: value for name, value in facts.items() if value not in (None, {}, [])},
        tested=_tested(folder, model),
    )


def weights_trained_on(origin: Origin) -> ScanDigests:
    """The scans that the weights which a run began from were trained on."""
    try:
        return ScanDigests.read(convert(origin.weights.get(TRAINED_ON, {}), dict[str, str], "it"))
    except UserError as error:
        raise UserError(f"provenance.json: weights: {TRAINED_ON} is damaged; restore it") from error


def without_paths(weights: Mapping[str, Any]) -> dict[str, Any]:
    """A weight source without the folders of the machine that it was on, and without digests."""
    kept = {name: value for name, value in weights.items() if name != TRAINED_ON}
    if "path" in kept:
        kept["file"] = Path(kept.pop("path")).name
    return kept


def _tested(folder: Path, model: str) -> tuple[FaithfulnessResult, ...]:
    with contextlib.suppress(UserError):
        report = read_report(folder)
        if report is not None and report.model == model:
            return (FaithfulnessResult(report.method, report.flip, report.passed, report.scans),)
    return ()


def _measured(folder: Path, model: str) -> list[dict[str, Any]]:
    """The run's evaluations of this very model, in short."""
    measured = []
    for path in sorted(folder.glob("evaluation/**/report.json")):
        with contextlib.suppress(UserError, KeyError, TypeError):
            report: dict[str, Any] = read_json(path, dict[str, Any])
            if report.get("model") == model:
                measured.append(in_short(report))
    return measured


def in_short(report: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation's data, size and main figures, each as [value, low, high]."""
    recalls = [f"{name} recall" for name in report["groups"]]
    names = ("accuracy", "deferred", "urgent missed", *recalls)
    given = report["figures"]
    return {
        "data": Path(report["data"]).name,
        "split": report["split"],
        "groups": report["groups"],
        "scans": report["scans"],
        "patients": report["patients"],
        "without_patient": report["scans_without_patient"],
        "contaminated": report["contaminated"],
        "figures": {
            name: [given[name]["value"], *given[name]["interval"]]
            for name in names
            if name in given and given[name]["value"] is not None
        },
    }
