"""The result of classifying one B-scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from oct_jax.task import KERMANY, Task
from oct_jax.types import Referral


@dataclass(frozen=True)
class Decision:
    """What a calibrated run advises for one B-scan.

    Attributes:
      referral: the tier of the task, or `defer` to a person where the classes of the set belong
        to several tiers, where there is none, and where the scan is an outlier; None in a task
        without tiers.
      classes: the conformal prediction set, in the order of the task; may be empty.
      outlier_score: distance from the training scans over its threshold; above 1 the scan is
        unlike them. None where the run has no density model.
    """

    referral: Referral | None
    classes: tuple[str, ...]
    outlier_score: float | None

    @property
    def is_outlier(self) -> bool:
        """Whether the scan is unlike those that the model was trained on."""
        return self.outlier_score is not None and self.outlier_score > 1


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of one B-scan.

    Attributes:
      label: the most probable class of the task.
      probabilities: float32 of shape (classes,), in the order of the task, summing to 1;
        calibrated where there is a decision.
      logits: float32 of shape (classes,), before temperature and softmax.
      decision: of the classifier's decision rule; None where it has none.
      task: whose classes these are.
    """

    label: str
    probabilities: Float32[np.ndarray, "classes"]
    logits: Float32[np.ndarray, "classes"]
    decision: Decision | None = None
    task: Task = KERMANY
