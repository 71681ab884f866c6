"""What a person sees of training, and what is kept of it: progress, rows, events, curves."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from oct_jax.files import write_atomic
from oct_jax.runs.checksums import system_errors
from oct_jax.train.callbacks import Callback, EpochMetrics, StepReport

# Column of the table: its heading and its format.
_COLUMNS = {
    "epoch": ("epoch", ".0f"),
    "loss": ("loss", ".4f"),
    "accuracy": ("accuracy", ".4f"),
    "val_loss": ("val loss", ".4f"),
    "val_accuracy": ("val accuracy", ".4f"),
    "val_balanced_accuracy": ("val balanced", ".4f"),
    "images_per_second": ("images/s", ".0f"),
}
_WIDTH = 12
# Protocol buffers make their classes when they are imported: no type checker sees them.
_messages: Any = event_pb2


class Reporter(Callback):
    """Rows of one stage, on the terminal and in its folder; a context manager.

    `metrics.jsonl` has one row an epoch; TensorBoard's events hold the same numbers. Both are
    written anew from the checkpoint's history when training resumes, so they are complete whatever
    happened to them. A live line shows loss, accuracy, images a second and the time left; none in a
    pipe.
    """

    def __init__(self, folder: Path, console: Console, batch_size: int, *, writes: bool = True):
        """Of several processes one `writes`; the others only keep the rows."""
        self._folder = folder
        self._path = folder / "metrics.jsonl"
        self._console = console
        self._batch_size = batch_size
        self._writes = writes
        self._header_shown = False
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> Reporter:
        self._exit = ExitStack()
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()

    def on_start(self, step: int, total_steps: int, history: Sequence[EpochMetrics]) -> None:
        """Writes the rows of the epochs so far."""
        self.rows = [_row_of(metrics) for metrics in history]
        self._write_rows()
        if self._writes:
            self._events = _Events(self._folder)
            self._exit.callback(self._events.close)
            for row in self.rows:
                self._events.add(row)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        hidden = not self._console.is_terminal
        progress = Progress(*columns, console=self._console, disable=hidden, transient=True)
        self._progress = self._exit.enter_context(progress)
        self._progress.add_task("steps", total=total_steps, completed=step, state="compiling")

    def on_step(self, report: StepReport) -> None:
        """Moves the live line."""
        (bar,) = self._progress.tasks
        speed = (bar.speed or 0) * self._batch_size
        self._progress.update(
            bar.id,
            completed=report.step,
            state=f"loss {report.loss:.3f}  accuracy {report.accuracy:.3f}  {speed:.0f} images/s",
        )

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Keeps one epoch's row and shows it; what is not a number is null there."""
        row = _row_of(metrics)
        self.rows.append(row)
        self._write_rows()
        if self._writes:
            self._events.add(row)
        if not self._header_shown:
            self._print(heading for heading, _ in _COLUMNS.values())
            self._header_shown = True
        self._print(
            "-" if row[name] is None else f"{row[name]:{form}}"
            for name, (_, form) in _COLUMNS.items()
        )

    def on_message(self, line: str) -> None:
        """Shows a line."""
        self._console.print(line, markup=False)

    def _print(self, cells: Iterable[str]) -> None:
        self._console.print("".join(f" {cell:>{_WIDTH}}" for cell in cells))

    def _write_rows(self) -> None:
        if self._writes:
            write_atomic(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))


def _row_of(metrics: EpochMetrics) -> dict[str, Any]:
    """Metrics as JSON values; what is not a number is null."""
    values = dataclasses.asdict(metrics).items()
    return {name: None if math.isnan(value) else value for name, value in values}


class _Events:
    """TensorBoard's events of a stage, which replace those that earlier processes wrote.

    Written by the calling thread: tensorboardX's `SummaryWriter` has a thread of its own, which
    dies of a full disk unseen, and whoever closes it then waits for ever.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        with system_errors(folder):
            self._writer = RecordWriter(str(folder / name))
            self._write(file_version="brain.Event:2")
            # TensorBoard drops what earlier files say of these steps and later ones.
            start = _messages.SessionLog(status=_messages.SessionLog.START)
            self._write(step=0, session_log=start)

    def add(self, row: dict[str, Any]) -> None:
        """Writes one epoch's row.

        Raises:
          OSError: it cannot be written; names the folder.
        """
        with system_errors(self._folder):
            for name, value in row.items():
                if value is not None:
                    self._write(step=row["step"], summary=scalar(name, value))
            self._writer.flush()

    def close(self) -> None:
        """Closes the file; all that was added is in it."""
        with contextlib.suppress(OSError):  # what could not be written was reported by `add`
            self._writer.close()

    def _write(self, **fields: Any) -> None:
        event = _messages.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())


def draw_curves(rows: list[dict[str, Any]], path: Path, *, title: str) -> None:
    """Writes loss, accuracy and learning rate over the epochs as a PNG."""
    from matplotlib.figure import Figure  # 1 s of import that only this picture needs

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    loss.plot(epochs, [row["loss"] for row in rows], ".-", label="train (weighted, smoothed)")
    loss.plot(epochs, [row["val_loss"] for row in rows], ".-", label="validation")
    loss.set(title="cross-entropy", xlabel="epoch")
    accuracy.plot(epochs, [row["accuracy"] for row in rows], ".-", label="train")
    accuracy.plot(epochs, [row["val_accuracy"] for row in rows], ".-", label="validation")
    accuracy.plot(
        epochs, [row["val_balanced_accuracy"] for row in rows], ".--", label="validation, balanced"
    )
    accuracy.set(title="accuracy", xlabel="epoch", ylim=(0, 1.02))
    rate.plot(epochs, [row["learning_rate"] for row in rows], ".-")
    rate.set(title="learning rate at the epoch's end", xlabel="epoch")
    loss.legend()
    accuracy.legend()
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    write_atomic(path, picture.getvalue())
