"""`evaluate monitor`: scans without labels beside a model's calibration scans.

<run>/monitoring/<folder>/
  report.json  advice, alarm, figures of all scans and by month
  report.html  the same as a page, with the course of the bet
  scans.csv    a line for each scan, in the order of the bet
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain
from pathlib import Path

import numpy as np
from rich.console import Console

from oct_jax.classifier import Classifier
from oct_jax.commands.scan_files import Jobs
from oct_jax.commands.settings import MonitorConfig
from oct_jax.data.kermany import OWN_GROUP, patient_of
from oct_jax.data.preprocess import resize_scan
from oct_jax.data.readers import UnreadableScan, read_scan
from oct_jax.decision.rule import decide
from oct_jax.files import json_text, write_together
from oct_jax.metrics.monitor import as_json, monitor
from oct_jax.model.inference import Outputs, batch_slices, make_forward, predict_all
from oct_jax.reports.monitor_page import to_html, to_lines
from oct_jax.runs.ownership import check_claimable, claim_folder
from oct_jax.runs.source import ModelSource
from oct_jax.runs.verified import fingerprint
from oct_jax.types import UserError

_COLUMNS = ("path", "patient", "date")


@dataclass(frozen=True)
class _Scan:
    """A file to look at.

    Attributes:
      path: of the file.
      name: as the reports call it.
      patient: or a name of its own for a scan whose patient nobody says.
      day: ISO date; "" where nobody says.
    """

    path: Path
    name: str
    patient: str
    day: str = ""


def monitor_scans(config: MonitorConfig, jobs: Jobs, source: ModelSource, console: Console) -> None:
    """Compares the scans of a folder with a model's calibration scans, and writes what it saw.

    Raises:
      UserError: no model, a model whose rule keeps nothing to compare with, no readable scan, or a
        manifest that is wrong.
      SystemExit: with code 1, where there is an alarm.
    """
    root = Path(config.data)
    out = Path(config.out) if config.out else source.folder / "monitoring" / root.resolve().name
    check_claimable(out)
    if source.note:
        console.print(source.note, markup=False)
    classifier = source.load()
    rule = classifier.rule
    if rule is None or rule.reference is None:
        raise UserError(
            f"{source.name}: keeps no calibration scores to compare with (a model of an earlier"
            " version, or one without a decision rule); `just recalibrate` adds them"
        )
    listed = _listed(config, root, jobs, classifier)
    for line in jobs.lines():
        console.print(line, markup=False)
    if jobs.volumes:
        console.print(
            f"{len(jobs.volumes)} volumes left out: scans alone are compared", markup=False
        )
    scans, outputs = _predicted(classifier, listed, console)
    months = [scan.day[:7] for scan in scans]
    monitored = monitor(
        rule,
        outputs,
        [scan.patient for scan in scans],
        months if any(months) else None,
        seed=config.seed,
    )
    about = {
        "data": str(root),
        "model": fingerprint(classifier),
        "run": source.name,
        "scans": len(scans),
        "scans_without_patient": sum(scan.patient.startswith(OWN_GROUP) for scan in scans),
        "synthetic": classifier.synthetic,
        "adapted": "adapted" in rule.fitted_on,
    }
    report = as_json(monitored) | about
    if config.out is None:
        claim_folder(out.parent)
    claim_folder(out)
    write_together(
        {
            out / "report.json": json_text(report),
            out / "report.html": to_html(monitored, about),
            out / "scans.csv": _table(classifier, scans, outputs),
        }
    )
    for line in to_lines(monitored, about):
        console.print(line, markup=False)
    console.print(f"report: {out / 'report.html'}", markup=False)
    if monitored.alarm:
        raise SystemExit(1)


def _listed(config: MonitorConfig, root: Path, jobs: Jobs, classifier: Classifier) -> list[_Scan]:
    """The scans in the order in which they came: by date where it is known, else by name."""
    files = [
        (job.scan, job.scan.relative_to(root).as_posix() if root.is_dir() else job.scan.name)
        for job in jobs.scans
    ]
    known = _read_manifest(Path(config.manifest), root) if config.manifest else None
    scans = []
    for path, name in files:
        if known is not None and name not in known:
            continue
        patient, day = known[name] if known is not None else ("", "")
        patient = patient or patient_of(path.name, classifier.task) or f"{OWN_GROUP}{name}"
        scans.append(_Scan(path, name, patient, day))
    if not scans:
        raise UserError(f"data={config.data}: holds no scans" + " of the manifest" * bool(known))
    return sorted(scans, key=lambda scan: (scan.day, scan.name))


def _read_manifest(path: Path, root: Path) -> dict[str, tuple[str, str]]:
    """Patient and date by path; UserError where a line is wrong, or names a file that is gone."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"manifest={path}: cannot be read ({error})") from error
    if not rows or "path" not in rows[0]:
        raise UserError(f"manifest={path}: needs a column path; may have {', '.join(_COLUMNS[1:])}")
    known = {}
    for number, row in enumerate(rows, start=2):
        name, day = row["path"] or "", row.get("date") or ""
        if not (root / name).is_file():
            raise UserError(f"manifest={path}: line {number}: {name!r} is not in {root}")
        known[name] = (row.get("patient") or "", _iso_day(day, f"manifest={path}: line {number}"))
    return known


def _iso_day(text: str, where: str) -> str:
    if not text:
        return ""
    try:
        return date.fromisoformat(text[:10]).isoformat()
    except ValueError as error:
        raise UserError(f"{where}: date {text!r}: write 2026-11-24") from error


def _predicted(
    classifier: Classifier, listed: Sequence[_Scan], console: Console
) -> tuple[list[_Scan], Outputs]:
    """The readable scans and the model's outputs; unreadable ones are named and left out."""
    readable: list[_Scan] = []

    def batches() -> Iterator[np.ndarray]:
        for rows in batch_slices(len(listed)):
            batch = []
            for scan in listed[rows]:
                try:
                    batch.append(resize_scan(read_scan(scan.path), classifier.preprocess))
                except UnreadableScan as error:
                    console.print(f"skipped: {error}", markup=False)
                else:
                    readable.append(scan)
            if batch:
                yield np.stack(batch)

    forward = make_forward(classifier.model, classifier.preprocess)
    rest = batches()
    first = next(rest, None)
    if first is None:
        raise UserError(f"none of {len(listed)} files is a readable scan")
    return readable, predict_all(forward, classifier.variables, chain([first], rest))


def _table(classifier: Classifier, scans: Sequence[_Scan], outputs: Outputs) -> bytes:
    assert classifier.rule is not None, "checked before"
    decisions = decide(classifier.rule, outputs)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "patient", "date", "predicted", "referral", "outlier_score"])
    labels = decisions.probabilities.argmax(1)
    for row, scan in enumerate(scans):
        writer.writerow(
            [
                scan.name,
                scan.patient,
                scan.day,
                classifier.task.classes[labels[row]],
                decisions.referrals[row] or "",
                f"{decisions.outlier_scores[row]:.4f}",
            ]
        )
    return text.getvalue().encode("utf-8", "surrogateescape")
