"""Answers about the scans."""

from __future__ import annotations

from pathlib import Path

from oct_jax.reports.sheet.answer import Answer, data_report, left_out
from oct_jax.runs.facts import RunFacts
from oct_jax.types import SPLITS


def sources(facts: RunFacts) -> Answer:
    """Where the scans come from."""
    name = Path(str(facts.config.settings["data"])).name
    count, patients = len(facts.records), len({record.patient for record in facts.records})
    kind = "SYNTHETIC phantoms" if facts.config.synthetic else f"data `{name}`"
    return Answer(
        f"{kind}: {count} scans of {patients} patients; manifest SHA-256"
        f" `{data_report(facts).get('manifest_sha256', 'unknown')}`",
        "manifest.csv, provenance.json",
        "release, clinics, dates, why these data and whom they represent",
    )


def exclusion(facts: RunFacts) -> Answer | None:
    """Files that were left out."""
    words = left_out(facts)
    return Answer(words, "provenance.json", "clinical criteria") if words else None


def subset(facts: RunFacts) -> Answer:
    """Which part of the data was used."""
    return Answer(
        f"all readable scans of the class folders; on_bad_scan="
        f"{facts.config.settings['on_bad_scan']}",
        "config.json, manifest.csv",
        "how the data set itself was selected",
    )


def missing(facts: RunFacts) -> Answer | None:
    """Missing data."""
    data = data_report(facts)
    if "without_patient" not in data:
        return None
    return Answer(
        f"{data['without_patient']} scans name no patient, each counted as a patient of its own;"
        f" {left_out(facts)}; the model needs no other data than the scan",
        "provenance.json",
    )


def acquisition(facts: RunFacts) -> Answer | None:
    """Devices, where the manifest knows them."""
    devices = sorted({record.device for record in facts.records if record.device})
    if not devices:
        return None
    return Answer(f"devices: {', '.join(devices)}", "manifest.csv", "protocols and settings")


def labels(facts: RunFacts) -> Answer:
    """What a label is."""
    meanings = ", ".join(
        f"{info.name} ({info.meaning})" if info.meaning else info.name
        for info in facts.config.task.infos
    )
    return Answer(
        f"one label for each scan, by the folder that it lies in: {meanings}",
        "config.json, manifest.csv",
        "how and by whom the labels were made",
    )


def partitions(facts: RunFacts) -> Answer:
    """The splits."""
    origin = {
        "own": "drawn by patient, stratified by class",
        "official": "the official test split is kept, scans of its patients are removed from the"
        " rest; the rest is drawn by patient",
        "manifest": "as a manifest lists them",
    }
    made = origin.get(str(data_report(facts).get("splits_from")), "as the manifest lists them")
    counts = "; ".join(
        f"{split} {scans} scans of {patients} patients"
        for split, (scans, patients) in facts.counts().items()
    )
    return Answer(f"{made}: {counts}", "provenance.json, manifest.csv")


def disjoint(facts: RunFacts) -> Answer:
    """At which level the splits are disjoint, counted anew."""
    splits: dict[str, set[str]] = {}
    for record in facts.records:
        splits.setdefault(record.patient, set()).add(record.split)
    shared = sum(len(of) > 1 for of in splits.values())
    return Answer(
        f"patient: {shared} of {len(splits)} patients have scans in more than one split",
        "manifest.csv",
        "the other eye or later visits, where the file names do not tell",
    )


def flow(facts: RunFacts) -> Answer:
    """Numbers of scans and patients by split and class."""
    rows = [
        f"{label}: "
        + ", ".join(
            f"{split} {scans} ({patients} patients)"
            for split, (scans, patients) in facts.counts(label).items()
        )
        for label in facts.config.task.classes
    ]
    excluded = left_out(facts)
    if excluded:
        rows.append(excluded)
    return Answer("; ".join(rows), "manifest.csv, provenance.json")


def characteristics(facts: RunFacts) -> Answer:
    """What is known of the patients: their classes."""
    shares = []
    for split in SPLITS:
        total = max(facts.counts()[split][0], 1)
        parts = ", ".join(
            f"{label} {facts.counts(label)[split][0] / total:.0%}"
            for label in facts.config.task.classes
        )
        shares.append(f"{split}: {parts}")
    return Answer(
        f"shares of the classes: {'; '.join(shares)}",
        "manifest.csv",
        "age, sex, ethnicity, severity, treatments: the run's files do not hold them",
    )


def data_sharing(facts: RunFacts) -> Answer:
    """The list of scans."""
    return Answer(
        "the manifest lists every scan with its SHA-256; scans are not part of the run",
        "manifest.csv",
        "where the scans can be had, under what terms",
    )
