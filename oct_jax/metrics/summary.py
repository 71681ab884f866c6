"""Metrics of anybody's predictions in one call, each with its interval over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from oct_jax.metrics.classification import bootstrap, confusion, figures, weighted_error
from oct_jax.metrics.shares import scans_behind, widen_certain
from oct_jax.task import KERMANY, Task
from oct_jax.types import UserError


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval.

    Attributes:
      value: None where the scans do not define it.
      low: None where the interval is not defined.
      high: None where the interval is not defined.
    """

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Summary:
    """Metrics of a classification.

    Attributes:
      scans: number of scans.
      patients: number of patients.
      estimates: by name: `accuracy`, `macro AUC`, `CNV recall`, ...
      confusion: scans by label (rows) and prediction (columns), in the order of the task.
    """

    scans: int
    patients: int
    estimates: Mapping[str, Estimate]
    confusion: Int[np.ndarray, "classes classes"]

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]

    def __str__(self) -> str:
        head = f"{self.scans} scans of {self.patients} patients; 95 % intervals over patients"
        return "\n".join([head, *(f"  {name}: {value}" for name, value in self.estimates.items())])


def summarise(
    probabilities: Float[np.ndarray, "_scans _classes"],
    labels: Sequence[int] | Int[np.ndarray, "_labels"],
    patients: Sequence[object] | np.ndarray,
    task: Task = KERMANY,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Summary:
    """Metrics of predictions, whoever made them.

    Args:
      probabilities: of every scan, in the order of the task's classes; rows that sum to 1.
      labels: indices of the true classes.
      patients: of every scan; intervals draw patients (Efron 1979), each with all its scans.
      task: the classes.
      resamples: draws of patients.
      seed: of these draws.

    Raises:
      UserError: no scans, lengths that differ, labels that are no class, or rows that are no
        probabilities.
    """
    truth = np.asarray(labels)
    _check(probabilities, truth, patients, task)

    def of(drawn: Int[np.ndarray, "drawn"]) -> dict[str, float | None]:
        metrics = figures(probabilities[drawn], truth[drawn], task.classes)
        metrics["weighted error"] = weighted_error(
            probabilities[drawn], truth[drawn], task.tiers, task
        )
        return metrics

    names = [str(patient) for patient in patients]
    values = of(np.arange(len(truth)))
    drawn = bootstrap(names, of, resamples=resamples, seed=seed)
    behind = scans_behind(probabilities.argmax(1), truth, task.classes)
    intervals = widen_certain(values, drawn, behind, np.array(names))
    return Summary(
        scans=len(truth),
        patients=len(set(names)),
        estimates={
            name: Estimate(value, *(intervals[name] or (None, None)))
            for name, value in values.items()
        },
        confusion=confusion(probabilities, truth, len(task.classes)),
    )


def _check(
    probabilities: np.ndarray,
    truth: np.ndarray,
    patients: Sequence[object] | np.ndarray,
    task: Task,
) -> None:
    shape = (len(truth), len(task.classes))
    if not len(truth) or probabilities.shape != shape or len(patients) != len(truth):
        raise UserError(
            f"probabilities of shape {probabilities.shape}, {len(truth)} labels and"
            f" {len(patients)} patients: must be of the same scans, with {shape[1]} classes"
        )
    if not ((truth >= 0) & (truth < shape[1])).all():
        raise UserError(f"labels must be 0 to {shape[1] - 1}")
    sums = probabilities.sum(1)
    if not (np.isfinite(sums).all() and (probabilities >= 0).all() and abs(sums - 1).max() < 1e-3):
        raise UserError("probabilities must be from 0 to 1, and each row must sum to 1")
