"""`recalibrate eyes=true`: a run's decision rule for eyes, fitted to labelled volumes.

It is stored beside the rule for scans, in `<stage>/eyes/`, and `explain` uses it for volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from oct_jax.classifier import Classifier
from oct_jax.commands.evaluate import shortages
from oct_jax.commands.settings import RecalibrateConfig
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import Record
from oct_jax.data.volumes.members import member_of
from oct_jax.decision.rule import DecisionRule
from oct_jax.decision.storage import read_rule, write_rule
from oct_jax.eye import EyePrediction, fit_eyes, predict_eye
from oct_jax.runs.folder import exclusive
from oct_jax.runs.load import load
from oct_jax.runs.ownership import mark
from oct_jax.runs.paths import find_run
from oct_jax.runs.scans import find_overlap, refuse_overlap
from oct_jax.runs.verified import fingerprint
from oct_jax.types import UserError


@dataclass(frozen=True)
class _Labelled:
    """An eye: the record of its first B-scan, and what the classifier says of it."""

    record: Record
    prediction: EyePrediction


def recalibrate_eyes(config: RecalibrateConfig, console: Console) -> None:
    """Fits a run's rule for eyes.

    Raises:
      UserError: no run, no volumes in class folders, or eyes that the run was trained on.
    """
    folder = find_run(config.run)
    classifier = load(folder)
    if config.data is None:
        raise UserError("eyes=true: say data=FOLDER, with volumes in its class folders")
    root = Path(config.data).expanduser()
    listing = list_scans(
        root, task=classifier.task, on_bad_scan=config.on_bad_scan, require_all_classes=False
    )
    records = [record for record in listing.records if record.eye]
    if not records:
        raise UserError(f"{root}: no volumes in its class folders; eyes=true needs labelled eyes")
    overlap = find_overlap(classifier.provenance, records)
    refuse_overlap(overlap, len(records), config.allow_overlap)
    eyes = _predicted(root, records, classifier)
    rule = fit_eyes(
        [eye.prediction for eye in eyes],
        [eye.record.label for eye in eyes],
        [eye.record.patient for eye in eyes],
        coverage=config.coverage,
        sensitivity=config.sensitivity,
        model=fingerprint(classifier),
        records=[eye.record for eye in eyes],
        fitted_on={"data": str(root), "trained_on": len(overlap.trained)},
    )
    stage = folder / classifier.stage
    mark(folder)
    with exclusive(folder):
        (stage / "eyes").mkdir(exist_ok=True)
        write_rule(stage / "eyes", rule)
    patients = len({eye.record.patient for eye in eyes})
    for line in shortages(rule):
        console.print(f"warning: {line}", markup=False)
    console.print(f"{len(eyes)} eyes of {patients} patients: {stage / 'eyes'}", markup=False)


def read_eye_rule(run: Path, classifier: Classifier) -> DecisionRule | None:
    """The rule for eyes of a run; None where there is none, or it is of other weights."""
    rule = read_rule(run / classifier.stage / "eyes")
    return rule if rule is not None and rule.model == fingerprint(classifier) else None


def _predicted(root: Path, records: list[Record], classifier: Classifier) -> list[_Labelled]:
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(_volume_path(record), record)
    eyes = []
    for record in first.values():
        member = member_of(root, record.path)
        assert member is not None, "a record with an eye is a B-scan of a volume"
        eyes.append(_Labelled(record, predict_eye(classifier, member[0])))
    return eyes


def _volume_path(record: Record) -> str:
    """The path of a B-scan without its number: of one volume."""
    file, number = record.path.rsplit("#", 1)
    return f"{file}#{number.rsplit('.', 1)[0]}" if "." in number else file
