"""Checkpoints on disk, by Orbax: the last state to resume from, and the best to go on with.

Both are written in the background and committed by a rename: what has a step's name is whole.
Orbax's handlers and options stay inside this module and `best`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointRestore, CheckpointSave

from oct_jax.model.protocol import Variables
from oct_jax.runs.best import best_manager
from oct_jax.train.step import TrainState


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
                variables=ocp.args.StandardSave(variables._asdict()), meta=ocp.args.JsonSave(meta)
            ),
        )
        self.best.wait_until_finished()

    def restore_last(
        self, state: TrainState, batches: grain.DatasetIterator
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest whole checkpoint, or None; sets the position of `batches`.

        Args:
          state: a state of the same shapes, types and placement, whose values are not used.
          batches: an iterator over the same stream.
        """
        step = self.last.latest_step()
        if step is None:
            return None
        restored = self.last.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.tree.map(_abstract, state)),
                batches=CheckpointRestore(batches),
                meta=ocp.args.JsonRestore(),
            ),
        )
        return restored["state"], restored["meta"]


@contextlib.contextmanager
def open_checkpoints(stage_folder: Path) -> Generator[Checkpoints]:
    """Opens the checkpoints of a stage; on leaving, all that was saved is on disk."""
    # Two last ones are kept, so that there is a whole one while the next is being written.
    last = ocp.CheckpointManager(
        stage_folder.absolute() / "last", options=ocp.CheckpointManagerOptions(max_to_keep=2)
    )
    best = best_manager(stage_folder)
    try:
        yield Checkpoints(last, best)
    finally:
        last.close()
        best.close()


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
