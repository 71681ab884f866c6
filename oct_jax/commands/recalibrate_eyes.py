"""`recalibrate eyes=true`: a model's decision rule for eyes, fitted to labelled volumes.

A run keeps it beside the rule for scans, in `<stage>/eyes/`; of a model file another file is
written. `explain` uses it for volumes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from oct_jax.classifier import Classifier
from oct_jax.commands.evaluate import recalibrated_file, shortages
from oct_jax.commands.settings import RecalibrateConfig
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import Record
from oct_jax.data.volumes.members import member_of, volume_path
from oct_jax.decision.storage import write_rule
from oct_jax.eye import EyePrediction, fit_eyes, predict_eye
from oct_jax.runs.folder import exclusive
from oct_jax.runs.load import EYES
from oct_jax.runs.ownership import mark
from oct_jax.runs.scans import find_overlap, refuse_overlap
from oct_jax.runs.source import ModelSource
from oct_jax.runs.verified import fingerprint
from oct_jax.types import UserError


@dataclass(frozen=True)
class _Labelled:
    """An eye: the record of its first B-scan, and what the classifier says of it."""

    record: Record
    prediction: EyePrediction


def recalibrate_eyes(config: RecalibrateConfig, source: ModelSource, console: Console) -> None:
    """Fits a model's rule for eyes.

    Raises:
      UserError: no model, no volumes in class folders, eyes that the model was trained on, or a
        file that is there already.
    """
    if config.data is None:
        raise UserError("eyes=true: say data=FOLDER, with volumes in its class folders")
    out = recalibrated_file(config, source)
    if source.note:
        console.print(source.note, markup=False)
    classifier = source.load()
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
    if out is None:
        place = source.folder / classifier.stage / EYES
        mark(source.folder)
        with exclusive(source.folder):
            place.mkdir(exist_ok=True)
            write_rule(place, rule)
    else:
        place = out
        known = classifier.provenance.with_chosen(records)
        replace(classifier, eye_rule=rule, provenance=known).save(out)
    patients = len({eye.record.patient for eye in eyes})
    for line in shortages(rule):
        console.print(f"warning: {line}", markup=False)
    console.print(f"{len(eyes)} eyes of {patients} patients: {place}", markup=False)


def _predicted(root: Path, records: list[Record], classifier: Classifier) -> list[_Labelled]:
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(volume_path(record.path), record)
    eyes = []
    for record in first.values():
        member = member_of(root, record.path)
        assert member is not None, "a record with an eye is a B-scan of a volume"
        eyes.append(_Labelled(record, predict_eye(classifier, member[0])))
    return eyes
