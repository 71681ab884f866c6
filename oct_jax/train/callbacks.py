"""What training reports while it runs, and to whom: callbacks in place of a console."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """How an epoch stands.

    Attributes:
      step: finished steps of the stage.
      total_steps: of the stage.
      loss: mean training loss of the epoch so far; nan where all of its steps were skipped.
      accuracy: mean training accuracy of the epoch so far, in [0, 1]; nan likewise.
    """

    step: int
    total_steps: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class EpochMetrics:
    """One row of the history.

    Attributes:
      epoch: 1 for the first.
      step: finished steps of the stage.
      loss: mean training loss, class-weighted and smoothed; nan where all steps were skipped.
      accuracy: on the augmented training scans, in [0, 1]; nan likewise.
      val_loss: unweighted cross-entropy of the validation scans.
      val_accuracy: in [0, 1].
      val_balanced_accuracy: mean recall of the classes, in [0, 1].
      learning_rate: of the epoch's last step; nan with an optimizer of one's own.
      skipped: steps left out so far, because a float16 gradient was not finite.
      images_per_second: training scans a second, validation included.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    val_balanced_accuracy: float
    learning_rate: float
    skipped: int
    images_per_second: float


class Callback:
    """Is called while a stage trains; override what is of interest.

    Callbacks cannot change what is computed, only end it early: a resumed stage gives the same bits
    whoever listens.
    """

    def on_start(self, step: int, total_steps: int, history: Sequence[EpochMetrics]) -> None:
        """Before the first step of this process.

        Args:
          step: finished steps of the stage; above 0 where training resumes.
          total_steps: of the stage.
          history: metrics of the finished epochs.
        """

    def on_step(self, report: StepReport) -> None:
        """Every ten steps, and at the end of an epoch; `report` says how the epoch stands."""

    def on_epoch(self, metrics: EpochMetrics) -> bool | None:
        """After an epoch was validated and saved, with its `metrics`; True ends the stage here."""

    def on_message(self, line: str) -> None:
        """Something that a person should know, in one `line`."""
