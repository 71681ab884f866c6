"""What experiments on folds share: scans of Kermany's classes, a log, one set of words a folder.

Training goes through the library (`oct_jax.runs.folds`): values in, a classifier out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from oct_jax import Scans, UserError
from oct_jax.commands.stage_words import THREADS, read_stage, stage_values
from oct_jax.data.manifest import Record
from oct_jax.data.scans import FileReader
from oct_jax.files import read_json, write_json
from oct_jax.model.protocol import Variables
from oct_jax.runs import folds
from oct_jax.runs.folds import Fold, calibrated, store_test
from oct_jax.task import KERMANY, Task
from oct_jax.train import Callback, EpochMetrics, StageSettings

__all__ = [
    "THREADS",
    "Fold",
    "Log",
    "calibrated",
    "read_stage",
    "same_words",
    "scans_of",
    "stage_values",
    "store_test",
    "train_stage",
]


class Log(Callback):
    """Prints a row for each epoch, and every message."""

    def __init__(self, console: Console, stage: str) -> None:
        self.console, self.stage = console, stage

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self.console.print(
            f"{self.stage} {metrics.epoch}: loss {metrics.loss:.4f},"
            f" validation accuracy {metrics.val_accuracy:.4f}"
        )

    def on_message(self, line: str) -> None:
        self.console.print(line, markup=False)


def scans_of(records: Sequence[Record], root: Path, task: Task = KERMANY) -> Scans:
    """Image files under a folder, with the labels, patients and splits of their records."""
    reader = FileReader(root, tuple(record.path for record in records))
    return Scans(tuple(records), task, reader)


def same_words(path: Path, words: dict[str, str]) -> None:
    """Refuses to mix folds that were trained with other settings."""
    if path.exists() and read_json(path) != words:
        raise UserError(f"{path.parent}: was begun with other settings; say another out=")
    write_json(path, words)


def train_stage(
    fold: Fold, variables: Variables, settings: StageSettings, folder: Path, console: Console
) -> Variables:
    """`oct_jax.runs.folds.train_stage`, with a row for each epoch."""
    log = Log(console, settings.stage)
    return folds.train_stage(fold, variables, settings, folder, [log])
