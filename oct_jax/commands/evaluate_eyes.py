"""Figures by eye: the B-scans of each volume pooled as `explain` pools them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oct_jax.classifier import Classifier
from oct_jax.data.manifest import Record
from oct_jax.data.scans import FileReader, Scans
from oct_jax.data.volumes.members import member_of, volume_path
from oct_jax.eye import EyePrediction, pool_eye
from oct_jax.metrics.classification import confusion
from oct_jax.metrics.evaluation import Evaluated, to_groups
from oct_jax.metrics.parts import Answered, part_figures
from oct_jax.model.inference import Outputs


@dataclass(frozen=True)
class JudgedEye:
    """An eye and what the classifier says of it.

    Attributes:
      record: of its first B-scan.
      label: index of the group that it is filed under.
      prediction: of the eye.
    """

    record: Record
    label: int
    prediction: EyePrediction


def judge_eyes(classifier: Classifier, scans: Scans, outputs: Outputs) -> list[JudgedEye]:
    """Every volume among the scans, in their order; none where there are no volumes' files.

    Args:
      classifier: that the outputs are of.
      scans: B-scans of volumes, and others, which are passed over.
      outputs: a row for each of the scans.

    Raises:
      UnreadableScan: a volume can no longer be opened.
    """
    reader, rows_of = scans.reader, {}
    if not isinstance(reader, FileReader):
        return []
    for row, record in enumerate(scans.records):
        if record.eye:
            rows_of.setdefault(volume_path(record.path), []).append(row)
    return [_judge(classifier, scans, reader, outputs, rows) for rows in rows_of.values()]


def _judge(
    classifier: Classifier, scans: Scans, reader: FileReader, outputs: Outputs, rows: list[int]
) -> JudgedEye:
    places = [member_of(reader.root, scans.records[row].path) for row in rows]
    members = [place for place in places if place is not None]
    assert len(members) == len(rows), "a record with an eye is a B-scan of a volume"
    own = Outputs(np.asarray(outputs.logits)[rows], np.asarray(outputs.pooled)[rows])
    prediction = pool_eye(classifier, members[0][0], own, [index for _, index in members])
    return JudgedEye(scans.records[rows[0]], int(scans.labels[rows[0]]), prediction)


def eye_report(eyes: Sequence[JudgedEye], evaluated: Evaluated) -> dict[str, Any]:
    """Figures of at least one eye, as JSON values; intervals are over patients."""
    names = evaluated.scans.task.classes
    predictions = [eye.prediction for eye in eyes]
    refers = predictions[0].referral is not None
    probabilities = np.stack([eye.probabilities for eye in predictions]).astype(np.float64)
    answered = Answered(
        to_groups(probabilities, evaluated.groups, evaluated.task),
        np.array([eye.label for eye in eyes]),
        [eye.record.patient for eye in eyes],
        [eye.referral for eye in predictions] if refers else None,
        names,
        evaluated.scans.task.tiers,
    )
    table = confusion(answered.probabilities, answered.truth, len(names))
    return part_figures(answered) | {
        "calibrated": all(eye.calibrated for eye in predictions),
        "confusion": {"names": list(names), "rows": table.tolist()},
    }


def eyes_csv(eyes: Sequence[JudgedEye], evaluated: Evaluated) -> bytes:
    """A line for each eye: volume, patient, side, label, prediction, probabilities, referral."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    task, names = evaluated.task, evaluated.scans.task.classes
    head = ("volume", "patient", "laterality", "label", "predicted")
    writer.writerow([*head, *task.classes, "referral", "reason"])
    for eye in eyes:
        record, said = eye.record, eye.prediction
        cells = (volume_path(record.path), record.patient, record.laterality, names[eye.label])
        shares = (f"{value:.6f}" for value in said.probabilities)
        writer.writerow([*cells, said.label, *shares, said.referral or "", said.reason])
    return text.getvalue().encode("utf-8", "surrogateescape")
