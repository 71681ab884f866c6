"""What the training loop asks of checkpoints; `oct_jax.runs.checkpoints` keeps them in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import jax
import numpy as np

from oct_jax.model.protocol import Variables
from oct_jax.train.step import TrainState


class Restored(NamedTuple):
    """A restored checkpoint.

    Attributes:
      state: of training.
      meta: the JSON values saved with it.
      damaged: a line for each newer checkpoint that was damaged, and was set aside.
    """

    state: TrainState
    meta: dict[str, Any]
    damaged: Sequence[str] = ()


@runtime_checkable
class Checkpoints(Protocol):
    """Where a stage keeps what it needs to resume, and its best variables."""

    def restore_last(self, state: TrainState, batches: grain.DatasetIterator) -> Restored | None:
        """The newest saved state, in the form of `state`; None where there is none.

        Sets the position of `batches`.
        """
        ...

    def save_last(
        self, step: int, state: TrainState, batches: grain.DatasetIterator, meta: dict[str, Any]
    ) -> None:
        """Saves all that a resumed stage needs.

        Args:
          step: finished steps of the stage.
          state: after that step; read before this returns, for its buffers are donated.
          batches: whose position is that of the next batch.
          meta: JSON values.
        """
        ...

    def save_best(self, step: int, variables: Variables, meta: dict[str, Any]) -> None:
        """Saves `variables` that replace the best so far, with JSON values `meta`.

        Returns when they are saved; `step` is the number of finished steps.
        """
        ...

    def restore_best(self, shapes: Variables) -> tuple[Variables, dict[str, Any]]:
        """The best variables, of these `shapes`, as NumPy arrays, and what was saved with them."""
        ...


class InMemory:
    """Checkpoints of a stage that ends with its process: the best variables alone are kept."""

    def __init__(self) -> None:
        self._best: tuple[Variables, dict[str, Any]] | None = None

    def restore_last(self, state: TrainState, batches: grain.DatasetIterator) -> None:
        """See `Checkpoints`."""

    def save_last(
        self, step: int, state: TrainState, batches: grain.DatasetIterator, meta: dict[str, Any]
    ) -> None:
        """See `Checkpoints`."""

    def save_best(self, step: int, variables: Variables, meta: dict[str, Any]) -> None:
        """See `Checkpoints`."""
        self._best = jax.tree.map(np.array, variables), meta

    def restore_best(self, shapes: Variables) -> tuple[Variables, dict[str, Any]]:
        """See `Checkpoints`."""
        assert self._best is not None, "no epoch was finished"
        return self._best
