"""Checkpoints on disk, by Orbax: the last state to resume from, and the best to go on with.

Both are written in the background and committed by a rename: what has a step's name is whole.
Orbax's handlers and options stay inside this module and `best`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointRestore, CheckpointSave
from orbax.checkpoint._src.path.step import TMP_DIR_SUFFIX

from oct_jax.model.protocol import Variables
from oct_jax.runs.best import best_manager, manager_options, restore_best
from oct_jax.runs.checksums import damage_of, system_errors
from oct_jax.runs.processes import write_once
from oct_jax.train.checkpointing import Restored
from oct_jax.train.step import TrainState
from oct_jax.types import UserError


@dataclass(frozen=True)
class Checkpoints:
    """The two series of checkpoints of a stage; make one with `open_checkpoints`."""

    last: ocp.CheckpointManager
    best: ocp.CheckpointManager

    def save_last(
        self, step: int, state: TrainState, batches: grain.DatasetIterator, meta: dict[str, Any]
    ) -> None:
        """Saves all that a resumed run needs: state, position in the data, and JSON values."""
        self.last.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                batches=CheckpointSave(batches),
                meta=ocp.args.JsonSave(meta),
            ),
        )

    def save_best(self, step: int, variables: Variables, meta: dict[str, Any]) -> None:
        """Saves what a later stage or a user of the model needs.

        Waits until it is on disk: the last checkpoint, written after it, says which one is best.
        """
        if step in self.best.all_steps():
            return  # a resumed run has come here again, to the same bits
        self.best.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(variables._asdict()),
                meta=ocp.args.JsonSave(meta),
            ),
        )
        self.best.wait_until_finished()

    def restore_last(self, state: TrainState, batches: grain.DatasetIterator) -> Restored | None:
        """The newest checkpoint that is whole, or None where none was saved.

        Sets the position of `batches`. Newer checkpoints that are damaged are moved to the stage's
        `damaged/`: training comes to their steps again.

        Args:
          state: a state of the same shapes, types and placement, whose values are not used.
          batches: an iterator over the same stream.

        Raises:
          UserError: no checkpoint is whole, or another number of processes saved them.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self.last.all_steps(), reverse=True):
            folder = Path(self.last.directory) / str(step)
            _check_processes(folder)
            reason = damage_of(folder)
            if reason is None:
                try:
                    restored = self._restore(step, state, batches)
                except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
                    # What Orbax and TensorStore make of a file that is missing or cut.
                    reason = " ".join(str(error).split())[:200]
                else:
                    write_once(lambda: self._set_aside(damaged))
                    self.last.reload()
                    lines = [f"{folder.parent / str(n)}: {line}" for n, line in damaged.items()]
                    return Restored(restored["state"], restored["meta"], lines)
            damaged[step] = reason
        if not damaged:
            return None
        reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
        raise UserError(
            f"{self.last.directory}: no checkpoint can be restored ({reasons}); put back a copy, or"
            " begin this stage anew with restart=true"
        )

    def _set_aside(self, steps: Iterable[int]) -> None:
        aside = Path(self.last.directory).parent / "damaged"
        for step in steps:
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / str(step), ignore_errors=True)
            os.replace(Path(self.last.directory) / str(step), aside / str(step))

    def _restore(self, step: int, state: TrainState, batches: grain.DatasetIterator) -> Any:
        return self.last.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.tree.map(_abstract, state)),
                batches=CheckpointRestore(batches),
                meta=ocp.args.JsonRestore(),
            ),
        )

    def restore_best(self, shapes: Variables) -> tuple[Variables, dict[str, Any]]:
        """See `oct_jax.runs.best.restore_best`."""
        self.best.wait_until_finished()
        return restore_best(Path(self.best.directory).parent, shapes)


@contextlib.contextmanager
def open_checkpoints(stage_folder: Path) -> Generator[Checkpoints]:
    """Opens the checkpoints of a stage; on leaving, all that was saved is on disk.

    Raises:
      OSError: a checkpoint cannot be written; those before it are kept, of it nothing is left.
    """
    # Two last ones are kept, so that there is a whole one while the next is being written.
    with system_errors(stage_folder):
        last = ocp.CheckpointManager(
            stage_folder.absolute() / "last", options=manager_options(keep=2)
        )
        best = best_manager(stage_folder)
        try:
            yield Checkpoints(last, best)
        finally:
            try:
                last.close()
                best.close()
            finally:
                _remove_unfinished(stage_folder)


def _remove_unfinished(stage_folder: Path) -> None:
    if jax.process_index() == 0:
        for folder in stage_folder.glob(f"*/*{TMP_DIR_SUFFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _check_processes(folder: Path) -> None:
    """Each process saves its own position in the data: as many must restore it."""
    saved = {path.stem.rpartition("-of-")[2] for path in (folder / "batches").glob("*-of-*")}
    if saved and saved != {str(jax.process_count())}:
        raise UserError(
            f"{folder}: saved by {', '.join(sorted(saved))} processes, not {jax.process_count()};"
            " resume with as many, or begin this stage anew with restart=true"
        )


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
