"""Two models on the same scans: every figure of both, and their difference with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from oct_jax.data.kermany import OWN_GROUP
from oct_jax.decision.calibration import brier_score, calibration_error
from oct_jax.decision.referral import urgency
from oct_jax.metrics.classification import bootstrap, share_among
from oct_jax.metrics.groups import Group, plain_groups, task_of_groups
from oct_jax.metrics.paired import (
    AreaDifference,
    area_under_curve,
    compare_areas,
    mcnemar,
    net_benefit,
)
from oct_jax.task import Task
from oct_jax.types import UserError

FIRST, SECOND, DIFFERENCE = "first", "second", "difference"
THRESHOLDS = np.round(np.arange(1, 100) / 100, 2)
"""Of the decision curves."""
NAMED_THRESHOLDS = (0.05, 0.1, 0.2, 0.5)
"""Of these the net benefit has an interval."""
LEAST_PROBABILITY = 1e-6
"""Of the true label, in the log loss: files of predictions round to so many digits."""


@dataclass(frozen=True)
class Answers:
    """What a model says of scans.

    Attributes:
      name: of the model, as reports call it.
      probabilities: of the classes, (scans, classes); rows that sum to 1.
      called_urgent: which scans the model calls urgent, at a threshold of its own.
      urgent_by: in words, how it does.
      deferred: which scans it leaves to a person; None for a model that leaves none.
    """

    name: str
    probabilities: Float[np.ndarray, "scans classes"]
    called_urgent: Bool[np.ndarray, "scans"]
    urgent_by: str
    deferred: Bool[np.ndarray, "scans"] | None = None


@dataclass(frozen=True)
class _Truth:
    """What two models are compared against.

    Attributes:
      labels: indices into the groups.
      urgent: whether the label's tier is urgent.
      has_tier: whether the label has one tier; scans without one are left out of what is urgent.
      members: (groups, classes), which classes each group holds.
    """

    labels: Int[np.ndarray, "scans"]
    urgent: Bool[np.ndarray, "scans"]
    has_tier: Bool[np.ndarray, "scans"]
    members: Bool[np.ndarray, "groups classes"]


def compare(
    first: Answers,
    second: Answers,
    labels: Int[np.ndarray, "scans"],
    patients: tuple[str, ...],
    task: Task,
    *,
    groups: tuple[Group, ...] = (),
    urgent_prevalence: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares two models on the same scans; every interval draws patients, for both models alike.

    Args:
      first: of all scans.
      second: of the same scans, in the same order.
      labels: indices into `groups`.
      patients: of each scan.
      task: whose classes the probabilities are of.
      groups: what the labels stand for; see `oct_jax.metrics.groups`. None: each class for itself.
      urgent_prevalence: share of urgent scans for net benefit; None: that of these scans.
      resamples: draws of patients.
      seed: of these draws.

    Returns:
      JSON values: `figures` by name, each of `first`, `second` and their `difference` as value and
      95 % interval; `mcnemar`; `areas` (DeLong); `decision_curve`; counts.

    Raises:
      UserError: no scans, or answers of another number of scans.
    """
    if not len(labels) or {len(first.probabilities), len(second.probabilities)} != {len(labels)}:
        raise UserError(
            f"{len(first.probabilities)} and {len(second.probabilities)} answers to {len(labels)}"
            " labelled scans: must be of the same scans"
        )
    groups = groups or plain_groups(task)
    truth, pair = _truth_of(labels, groups, task), (first, second)
    names = [group.name for group in groups]
    owners = np.unique(np.asarray(patients, str), return_inverse=True)[1]
    measures = [_measures_of(side, truth, owners, names, task, urgent_prevalence) for side in pair]

    def of(drawn: Int[np.ndarray, "drawn"]) -> dict[str, float | None]:
        one, other = (measure(drawn) for measure in measures)
        return (
            {f"{FIRST} {name}": value for name, value in one.items()}
            | {f"{SECOND} {name}": value for name, value in other.items()}
            | {f"{DIFFERENCE} {name}": _minus(one[name], other[name]) for name in one}
        )

    values = of(np.arange(len(labels)))
    intervals = bootstrap(patients, of, resamples=resamples, seed=seed)
    figures = {
        name.removeprefix(f"{FIRST} "): {
            part: {
                "value": values[name.replace(FIRST, part, 1)],
                "interval": intervals[name.replace(FIRST, part, 1)],
            }
            for part in (FIRST, SECOND, DIFFERENCE)
        }
        for name in values
        if name.startswith(f"{FIRST} ")
    }
    known = truth.has_tier & task.refers
    return {
        "scans": len(labels),
        "patients": len(set(patients)),
        "scans_without_patient": sum(name.startswith(OWN_GROUP) for name in patients),
        "scans_by_label": {n: int((labels == i).sum()) for i, n in enumerate(names)},
        "urgent_scans": int((truth.urgent & known).sum()),
        "not_urgent_scans": int((~truth.urgent & known).sum()),
        "scans_without_tier": int((~known).sum()),
        "task": task.name,
        "groups": {group.name: list(group.classes) for group in groups},
        FIRST: {"name": first.name, "urgent_by": first.urgent_by},
        SECOND: {"name": second.name, "urgent_by": second.urgent_by},
        "resamples": resamples,
        "figures": figures,
        "mcnemar": _mcnemar_tests(pair, truth, known, patients),
        "areas": _areas(pair, truth, known, names, patients, task),
        "decision_curve": _decision_curve(pair, truth, known, task, urgent_prevalence),
    }


def _truth_of(labels: Int[np.ndarray, "scans"], groups: tuple[Group, ...], task: Task) -> _Truth:
    tiers = np.array([tier or "" for tier in task_of_groups(groups, task).tiers])
    members = np.array([[name in group.classes for name in task.classes] for group in groups])
    return _Truth(labels, tiers[labels] == "urgent", tiers[labels] != "", members)


def _by_group(
    answers: Answers, members: Bool[np.ndarray, "groups classes"]
) -> Float[np.ndarray, "scans groups"]:
    return answers.probabilities @ members.T.astype(float)


def _measures_of(
    answers: Answers,
    truth: _Truth,
    owners: Int[np.ndarray, "scans"],
    names: list[str],
    task: Task,
    prevalence: float | None,
) -> Callable[[Int[np.ndarray, "drawn"]], dict[str, float | None]]:
    """A function from drawn scans to the figures of one model on them."""
    by_group = _by_group(answers, truth.members)
    right = by_group.argmax(1) == truth.labels
    scores = urgency(answers.probabilities, task)
    own = np.clip(by_group[np.arange(len(right)), truth.labels], LEAST_PROBABILITY, 1)
    deferred = answers.deferred

    def of(drawn: Int[np.ndarray, "drawn"]) -> dict[str, float | None]:
        labels, hits = truth.labels[drawn], right[drawn]
        recalls = [hits[labels == label].mean() for label in np.unique(labels)]
        measures: dict[str, float | None] = {
            "accuracy": float(hits.mean()),
            "balanced accuracy": float(np.mean(recalls)),
        }
        for number, name in enumerate(names):
            measures[f"{name} AUC"] = area_under_curve(by_group[drawn, number], labels == number)
        if task.refers:
            measures |= of_urgency(drawn)
        measures |= {
            "log loss": float(-np.log(own[drawn]).mean()),
            "Brier score": brier_score(by_group[drawn], labels),
            "calibration error": calibration_error(by_group[drawn], labels, owners[drawn]),
            "deferred": None if deferred is None else float(deferred[drawn].mean()),
            "right when answered": None
            if deferred is None
            else share_among(hits, ~deferred[drawn]),
        }
        return measures

    def of_urgency(drawn: Int[np.ndarray, "drawn"]) -> dict[str, float | None]:
        kept = drawn[truth.has_tier[drawn]]
        urgent, called = truth.urgent[kept], answers.called_urgent[kept]
        curve: list[float | None] = [None] * len(NAMED_THRESHOLDS)
        if urgent.any() and not urgent.all():
            curve = net_benefit(
                scores[kept], urgent, np.array(NAMED_THRESHOLDS), prevalence
            ).tolist()
        return {
            "urgent AUC": area_under_curve(scores[kept], urgent),
            "urgent sensitivity": share_among(called, urgent),
            "urgent specificity": share_among(~called, ~urgent),
        } | {
            f"net benefit at {threshold:g}": value
            for threshold, value in zip(NAMED_THRESHOLDS, curve, strict=True)
        }

    return of


def _mcnemar_tests(
    pair: tuple[Answers, Answers],
    truth: _Truth,
    known: Bool[np.ndarray, "scans"],
    patients: tuple[str, ...],
) -> dict[str, Any]:
    """McNemar's test of the labels, and of what is called urgent among urgent and other scans."""
    owners = np.asarray(patients, object)
    right = [_by_group(side, truth.members).argmax(1) == truth.labels for side in pair]
    everywhere = np.ones(len(owners), bool)
    calls = [side.called_urgent == truth.urgent for side in pair]
    asked = {
        "accuracy": (right, everywhere),
        "urgent sensitivity": (calls, known & truth.urgent),
        "urgent specificity": (calls, known & ~truth.urgent),
    }
    return {
        name: mcnemar(hits[0][chosen], hits[1][chosen], owners[chosen])._asdict()
        for name, (hits, chosen) in asked.items()
        if chosen.any()
    }


def _areas(
    pair: tuple[Answers, Answers],
    truth: _Truth,
    known: Bool[np.ndarray, "scans"],
    names: list[str],
    patients: tuple[str, ...],
    task: Task,
) -> dict[str, Any]:
    """Areas under ROC curves by DeLong, scans as independent and in clusters of patients."""
    owners = np.asarray(patients, object)
    grouped = [_by_group(side, truth.members) for side in pair]
    everywhere = np.ones(len(owners), bool)
    asked = {
        name: ([g[:, number] for g in grouped], truth.labels == number, everywhere)
        for number, name in enumerate(names)
    }
    if task.refers:
        urgent = [urgency(side.probabilities, task) for side in pair]
        asked["urgent"] = (urgent, truth.urgent, known)
    areas = {}
    for name, (scores, positive, chosen) in asked.items():
        drawn = [score[chosen] for score in scores]
        try:
            plain = compare_areas(*drawn, positive[chosen])
            clustered = compare_areas(*drawn, positive[chosen], owners[chosen])
        except UserError:
            continue  # a label without two patients has no variance
        areas[name] = {
            FIRST: plain.areas[0],
            SECOND: plain.areas[1],
            DIFFERENCE: plain.difference,
            "delong": _tested(plain),
            "clustered": _tested(clustered),
        }
    return areas


def _tested(area: AreaDifference) -> dict[str, Any]:
    return {"interval": (area.low, area.high), "p": area.p}


def _decision_curve(
    pair: tuple[Answers, Answers],
    truth: _Truth,
    known: Bool[np.ndarray, "scans"],
    task: Task,
    prevalence: float | None,
) -> Mapping[str, Any] | None:
    """Net benefit of referring urgently, over thresholds of the probability of being urgent."""
    urgent = truth.urgent[known]
    if not urgent.any() or urgent.all():
        return None
    curves = [urgency(side.probabilities, task)[known] for side in pair]
    curves.append(np.ones(len(urgent)))
    first, second, everyone = (
        net_benefit(scores, urgent, THRESHOLDS, prevalence).tolist() for scores in curves
    )
    return {
        "prevalence": float(urgent.mean()) if prevalence is None else prevalence,
        "thresholds": THRESHOLDS.tolist(),
        FIRST: first,
        SECOND: second,
        "all": everyone,
        "none": 0.0,
    }


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second
