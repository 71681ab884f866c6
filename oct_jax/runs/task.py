"""The task of a run, read without its model and so without JAX, which takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from oct_jax.files import read_json
from oct_jax.task import Task, stored_task

REMEDY = "restore the file, or train another run"


class _StoredTask(Struct):
    """What is read of `config.json` here; it holds more."""

    task: dict[str, Any]


def read_run_task(run: Path) -> Task:
    """The classes of a run.

    Raises:
      UserError: its `config.json` is damaged.
    """
    path = run / "config.json"
    stored: _StoredTask = read_json(path, _StoredTask, remedy=REMEDY)
    return stored_task(stored.task, path, REMEDY)
