"""Figures of a classification, and their intervals over patients.

All functions take probabilities (scans, groups) and the index of each scan's true group. A group
is a class or, in data labelled otherwise, several classes under one name; groups without a scan
are allowed. A figure that the scans do not define is None, never nan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from oct_jax.task import Task, Tier

Probabilities = Float[np.ndarray, "scans groups"]
Truth = Int[np.ndarray, "scans"]
Figures = dict[str, float | None]


def figures(probabilities: Probabilities, truth: Truth, names: Sequence[str]) -> Figures:
    """Every figure of a set of scans, by name: `accuracy`, `CNV precision`, ...

    Args:
      probabilities: rows that sum to 1.
      truth: indices into `names`.
      names: of the groups.
    """
    predicted = probabilities.argmax(1)
    groups = range(len(names))
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=groups, zero_division=np.nan
    )
    present = [group for group in groups if support[group]]
    metrics: dict[str, float | None] = {
        "accuracy": float((predicted == truth).mean()),
        "balanced accuracy": _mean([recall[group] for group in present]),
        # A class that is there and never predicted counts as 0, as in scikit-learn.
        "macro precision": _mean([np.nan_to_num(precision[group]) for group in present]),
        "macro F1": _mean([f1[group] for group in present]),
    }
    aucs, aps = [], []
    for group, name in enumerate(names):
        own = truth == group
        auc = ap = None
        if own.any() and not own.all():
            auc = float(roc_auc_score(own, probabilities[:, group]))
            ap = float(average_precision_score(own, probabilities[:, group]))
            aucs.append(auc)
            aps.append(ap)
        metrics |= {
            f"{name} precision": _or_none(precision[group]),
            f"{name} recall": _or_none(recall[group]) if support[group] else None,
            f"{name} specificity": share_among(predicted != group, truth != group),
            f"{name} F1": _or_none(f1[group]) if support[group] else None,
            f"{name} AUC": auc,
            f"{name} AP": ap,
        }
    return metrics | {"macro AUC": _mean(aucs), "macro AP": _mean(aps)}


def confusion(
    probabilities: Probabilities, truth: Truth, groups: int
) -> Int[np.ndarray, "groups groups"]:
    """Scans by true group (rows) and predicted group (columns)."""
    return confusion_matrix(truth, probabilities.argmax(1), labels=range(groups))


def weighted_error(
    probabilities: Probabilities, truth: Truth, tiers: Sequence[Tier | None], task: Task
) -> float | None:
    """Mean penalty of the mistakes over the largest, in [0, 1]; see `Task.penalties`.

    Args:
      probabilities: as above.
      truth: as above.
      tiers: of each group; None where a group has no single tier, which leaves it undefined.
      task: whose penalties count.
    """
    if None in tiers:
        return None
    cost = np.array([[task.penalty(true, other) for other in tiers] for true in tiers])  # type: ignore
    np.fill_diagonal(cost, 0)
    return float(cost[truth, probabilities.argmax(1)].mean() / task.largest_penalty)


def bootstrap(
    patients: Sequence[str],
    of: Callable[[Int[np.ndarray, "drawn"]], Mapping[str, float | None]],
    *,
    resamples: int,
    seed: int,
) -> dict[str, tuple[float, float] | None]:
    """95 % percentile intervals of figures when patients are drawn anew (Efron 1979).

    Scans of a patient are alike, so patients and not scans are drawn, with replacement, each with
    all its scans. The interval is not widened to hold the figure itself: that of a biased figure,
    like the expected calibration error, may lie to one side of it.

    Args:
      patients: of every scan.
      of: from indices of scans, some repeated, to figures.
      resamples: how often patients are drawn.
      seed: of the draws.

    Returns:
      (low, high) for each figure; None where it is undefined, or was in more than half of the
      resamples.
    """
    names, owner = np.unique(np.asarray(patients, str), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    scans_of = np.split(order, np.cumsum(np.bincount(owner))[:-1])
    rng = np.random.default_rng(seed)
    whole = of(np.arange(len(owner)))
    drawn: dict[str, list[float]] = {name: [] for name in whole}
    for _ in range(resamples):
        chosen = rng.integers(len(names), size=len(names))
        for name, value in of(np.concatenate([scans_of[one] for one in chosen])).items():
            if value is not None:
                drawn[name].append(value)
    return {name: _interval(value, drawn[name], resamples) for name, value in whole.items()}


def at_prevalence(
    confusions: Int[np.ndarray, "groups groups"], prevalence: Sequence[float]
) -> list[float | None]:
    """Precision of each group where groups are as common as stated, by Bayes' rule.

    Recall and confusion are properties of the model, precision is one of the population: a
    balanced test set flatters it.

    Args:
      confusions: scans by true (rows) and predicted group.
      prevalence: of each group, summing to 1.

    Returns:
      Precision of each group; None where a group with a prevalence has no scans, or where the
      group is never predicted.
    """
    sums = confusions.sum(1)
    if any(share > 0 and not total for share, total in zip(prevalence, sums, strict=True)):
        return [None] * len(sums)
    rates = confusions / np.maximum(sums, 1)[:, None] * np.asarray(prevalence)[:, None]
    called = rates.sum(0)
    return [
        float(rates[group, group] / called[group]) if called[group] else None
        for group in range(len(sums))
    ]


def risk_coverage(
    confidence: Float[np.ndarray, "scans"], right: Int[np.ndarray, "scans"]
) -> tuple[Float[np.ndarray, "scans"], Float[np.ndarray, "scans"]]:
    """Error among the scans that are answered when the least certain are left out.

    Geifman and El-Yaniv 2017. Returns (coverage, risk), for the 1, 2, ... most certain scans.
    """
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    # Scans of the same confidence are answered together: each counts as their mean.
    _, place, times = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = (np.bincount(place, weights=1 - right) / times)[place]
    return answered / len(order), np.cumsum(wrong[order]) / answered


def _interval(
    value: float | None, drawn: Sequence[float], resamples: int
) -> tuple[float, float] | None:
    if value is None or len(drawn) < max(1, resamples / 2):
        return None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def share_among(holds: Bool[np.ndarray, "scans"], among: Bool[np.ndarray, "scans"]) -> float | None:
    """The share of some scans for which something holds; None where there are none."""
    return float(holds[among].mean()) if among.any() else None
