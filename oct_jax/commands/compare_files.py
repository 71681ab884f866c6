"""What two sides are compared on where both are files of predictions, and answers from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oct_jax.commands.settings import CompareConfig
from oct_jax.data.kermany import OWN_GROUP
from oct_jax.data.manifest import summarize
from oct_jax.metrics.comparison import Answers
from oct_jax.metrics.groups import Group
from oct_jax.runs.prediction_file import PredictionFile
from oct_jax.runs.scans import parse_groups
from oct_jax.task import Task
from oct_jax.types import UserError

BY_CLASS = "the most probable class is an urgent one"


@dataclass(frozen=True)
class Compared:
    """What two sides answer for.

    Attributes:
      labels: indices into `groups`.
      patients: of each scan.
      groups: what the labels stand for.
      data: its name, for reports.
      split: which part of the data.
      lines: what a person should know first.
      about: JSON values for the report.
    """

    labels: np.ndarray
    patients: tuple[str, ...]
    groups: tuple[Group, ...]
    data: str
    split: str
    lines: tuple[str, ...]
    about: dict[str, Any]


def of_file(file: PredictionFile, rows: Sequence[int], task: Task) -> Answers:
    """Answers from these rows of a file, in this order."""
    answers = without_rule(file.name, file.probabilities[rows], task)
    return replace(answers, deferred=None if file.deferred is None else file.deferred[rows])


def without_rule(name: str, probabilities: np.ndarray, task: Task) -> Answers:
    """Answers of a model that has no threshold of its own for what is urgent, and defers nothing.

    Args:
      name: of the model.
      probabilities: (scans, classes).
      task: that the classes are of.
    """
    called = np.array(task.urgent)[probabilities.argmax(1)]
    return Answers(name, probabilities, called, BY_CLASS)


def on_lines(
    config: CompareConfig, first: PredictionFile, second: PredictionFile, task: Task
) -> tuple[Compared, list[Answers]]:
    """Answers in two files, whose own labels and patients count."""
    groups = parse_groups(config.labels, task)
    names = {group.name.casefold(): number for number, group in enumerate(groups)}
    members = [(name, number) for number, group in enumerate(groups) for name in group.classes]
    names |= {name.casefold(): number for name, number in members if name.casefold() not in names}
    if first.labels is None or first.patients is None:
        lacking = "label" if first.labels is None else "patient"
        raise UserError(
            f"{first.name}: has no column {lacking}; without data=FOLDER the first file must tell"
            " the label and the patient of each scan"
        )
    if len(first.files) != len(second.files) or {*first.files} != {*second.files}:
        only = sorted({*first.files} ^ {*second.files})
        raise UserError(
            f"{first.name} and {second.name} are not of the same scans: {len(only)} are in one of"
            f" them alone: {summarize(only)}"
        )
    row_of = {file: row for row, file in enumerate(second.files)}
    rows = [row_of[file] for file in first.files]
    unknown = sorted({label for label in first.labels if label.strip().casefold() not in names})
    if unknown:
        raise UserError(
            f"{first.name}: labels {summarize(unknown)} are not among"
            f" {', '.join(group.name for group in groups)}; say labels=LABEL:CLASS+CLASS"
        )
    _check_same("label", first, second, rows)
    _check_same("patient", first, second, rows)
    patients = tuple(
        patient or OWN_GROUP + file
        for patient, file in zip(first.patients, first.files, strict=True)
    )
    labels = np.array([names[label.strip().casefold()] for label in first.labels])
    about = {"contaminated": 0, "chose_epoch_or_thresholds": 0, "left_out": 0, "models": []}
    compared = Compared(
        labels, patients, groups, first.name, "all", (), about | {"synthetic": False}
    )
    everything = list(range(len(first.files)))
    return compared, [of_file(first, everything, task), of_file(second, rows, task)]


def _check_same(
    column: str, first: PredictionFile, second: PredictionFile, rows: Sequence[int]
) -> None:
    """Raises UserError where two files say different things of a scan."""
    mine = first.labels if column == "label" else first.patients
    theirs = second.labels if column == "label" else second.patients
    if mine is None or theirs is None:
        return
    differing = [
        f"{file} ({mine[index]}, {theirs[row]})"
        for index, (file, row) in enumerate(zip(first.files, rows, strict=True))
        if mine[index].strip().casefold() != theirs[row].strip().casefold()
    ]
    if differing:
        raise UserError(
            f"{first.name} and {second.name}: another {column} for {len(differing)} scans:"
            f" {summarize(differing)}"
        )
