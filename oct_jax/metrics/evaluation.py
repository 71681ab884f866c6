"""Outputs and labels in, every figure with its interval out; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from oct_jax.data.kermany import OWN_GROUP
from oct_jax.data.scans import Scans
from oct_jax.decision.calibration import (
    calibration_error,
    calibration_figures,
    reliability,
    softmax,
)
from oct_jax.decision.conformal import coverage_range, patient_mean
from oct_jax.decision.referral import urgency
from oct_jax.decision.rule import DecisionRule, Decisions, decide
from oct_jax.metrics.classification import (
    at_prevalence,
    bootstrap,
    confusion,
    figures,
    risk_coverage,
    share_among,
    weighted_error,
)
from oct_jax.metrics.groups import Group, members_of, plain_groups
from oct_jax.metrics.shares import scans_behind, widen_certain
from oct_jax.metrics.unseen import Unseen, unseen_figures
from oct_jax.model.inference import Outputs
from oct_jax.task import Task, Tier
from oct_jax.types import UserError

ANSWERED = (1.0, 0.95, 0.9, 0.8)
"""Shares of scans that are answered, at which the error is reported."""


@dataclass(frozen=True)
class Evaluated:
    """Scans with what the model says of them.

    Attributes:
      scans: with their labels, which are the names of the groups.
      groups: disjoint; together they hold every class.
      task: whose classes the model tells apart.
      logits: float32 (scans, classes).
      probabilities: of the classes; calibrated where there is a rule.
      decisions: of the rule; None without one.
      report: the figures as JSON values.
      unseen: scans of diseases outside of the task; None where there are none.
    """

    scans: Scans
    groups: tuple[Group, ...]
    task: Task
    logits: Float[np.ndarray, "scans classes"]
    probabilities: Float[np.ndarray, "scans classes"]
    decisions: Decisions | None
    report: dict[str, Any]
    unseen: Unseen | None = None

    @property
    def by_group(self) -> Float[np.ndarray, "scans groups"]:
        """Probabilities of the groups."""
        return to_groups(self.probabilities, self.groups, self.task)


def appraise(
    outputs: Outputs,
    rule: DecisionRule | None,
    scans: Scans,
    *,
    groups: tuple[Group, ...] = (),
    task: Task | None = None,
    prevalence: Mapping[str, float] | None = None,
    unseen: Unseen | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluated:
    """Computes every figure.

    Args:
      outputs: of the scans.
      rule: calibrates and refers; None for a model without one.
      scans: with their labels.
      groups: what the labels stand for, where they are coarser than the classes; see
        `oct_jax.metrics.groups`. None: every class for itself.
      task: whose classes the model tells apart; the scans' own if not given.
      prevalence: of each class; None for none but the scans' own.
      unseen: scans of diseases outside of the task, with the rule's decisions; None for none.
      resamples: draws of patients for the intervals.
      seed: of these draws.

    Raises:
      UserError: logits that are not finite.
    """
    logits, truth = np.asarray(outputs.logits), scans.labels
    broken = ~np.isfinite(logits).all(1)
    if broken.any():
        raise UserError(
            f"{broken.sum()} of {len(logits)} scans have logits that are not finite: the model is"
            " broken; train it again, in precision=float32"
        )
    decisions = None if rule is None else decide(rule, outputs)
    probabilities = softmax(logits) if decisions is None else decisions.probabilities
    task = task or scans.task
    groups, names = groups or plain_groups(task), scans.task.classes
    by_group = to_groups(probabilities, groups, task)
    tiers, patients = scans.task.tiers, scans.patients
    owners = np.unique(patients, return_inverse=True)[1]
    plain = all(group.classes == (group.name,) for group in groups)
    members = np.array([[name in group.classes for name in task.classes] for group in groups])
    shares = None
    if prevalence is not None:
        shares = [sum(prevalence[name] for name in group.classes) for group in groups]

    def of(drawn: Int[np.ndarray, "drawn"]) -> dict[str, float | None]:
        metrics = figures(by_group[drawn], truth[drawn], names)
        metrics["weighted error"] = weighted_error(by_group[drawn], truth[drawn], tiers, task)
        metrics["calibration error"] = calibration_error(
            by_group[drawn], truth[drawn], owners[drawn]
        )
        if shares is not None:
            table = confusion(by_group[drawn], truth[drawn], len(groups))
            there = at_prevalence(table, shares)
            metrics |= {f"{n} precision there": v for n, v in zip(names, there, strict=True)}
        if decisions is not None and rule is not None:
            metrics |= _referral_figures(drawn, decisions, rule, truth, tiers, members)
        return metrics

    values = of(np.arange(len(truth)))
    behind = scans_behind(by_group.argmax(1), truth, names)
    if decisions is not None:
        behind |= _scans_behind_referral(decisions, truth, tiers)
    intervals = widen_certain(
        values, bootstrap(patients, of, resamples=resamples, seed=seed), behind, owners
    )
    table = confusion(by_group, truth, len(groups))
    right = (by_group.argmax(1) == truth).astype(int)
    _, risk = risk_coverage(by_group.max(1), right)
    report: dict[str, Any] = {
        "scans": len(truth),
        "patients": len(set(patients)),
        "scans_without_patient": sum(patient.startswith(OWN_GROUP) for patient in patients),
        "groups": {group.name: list(group.classes) for group in groups},
        "scans_by_group": dict(zip(names, table.sum(1).tolist(), strict=True)),
        "figures": {
            name: {"value": value, "interval": intervals[name]} for name, value in values.items()
        },
        "confusion": {"names": list(names), "rows": table.tolist()},
        "task": task.name,
        "prevalence": None if shares is None else dict(zip(names, shares, strict=True)),
        "risk_coverage": {
            "area": float(risk.mean()),
            "error_when_answering": {
                f"{share:g}": float(risk[max(0, int(np.ceil(share * len(risk))) - 1)])
                for share in ANSWERED
            },
        },
        "calibration": None,
        "sets": None,
        "referral": None,
        "outliers": None,
        "unseen": None,
    }
    if decisions is not None and rule is not None:
        if plain:
            change = calibration_figures(logits, truth, rule.temperature, owners)
            report["calibration"] = {"temperature": rule.temperature, **change}
        report["sets"] = _set_figures(decisions, rule, truth, owners, groups, task)
        if task.refers:
            report["referral"] = _referral_table(decisions, rule, truth, names)
        if rule.outliers is not None:
            report["outliers"] = {
                "asked_rate": rule.outlier_rate,
                "rate": float((decisions.outlier_scores > 1).mean()),
                "no_retina": float(decisions.no_retina.mean()),
            }
        report["rule_fitted_on"] = dict(rule.fitted_on)
        if unseen is not None:
            report["unseen"] = unseen_figures(
                unseen, decisions, patients, resamples=resamples, seed=seed
            )
    return Evaluated(scans, groups, task, logits, probabilities, decisions, report, unseen)


def to_groups(
    probabilities: Float[np.ndarray, "scans classes"], groups: tuple[Group, ...], task: Task
) -> Float[np.ndarray, "scans groups"]:
    """Probability of each group: the sum over its classes."""
    return np.stack([probabilities[:, members_of(group, task)].sum(1) for group in groups], axis=1)


def parse_prevalence(text: str | None, task: Task) -> dict[str, float] | None:
    """`CNV:0.05,DME:0.05` as shares of all classes.

    What is left belongs to the one class whose tier is `observe`, unless that is named.

    Raises:
      UserError: not of this form, a class twice, or shares not from 0 to 1 and 1 together.
    """
    if text is None:
        return None
    shares = dict.fromkeys(task.classes, 0.0)
    names = {name.casefold(): name for name in task.classes}
    try:
        given = [part.partition(":") for part in text.split(",")]
        named = [names[name.strip().casefold()] for name, _, _ in given]
        shares |= {name: float(share) for name, (_, _, share) in zip(named, given, strict=True)}
    except (ValueError, KeyError) as error:
        raise UserError(
            f"prevalence={text}: write CLASS:SHARE,... with the classes {', '.join(task.classes)}"
        ) from error
    healthy = [n for n, tier in zip(task.classes, task.tiers, strict=True) if tier == "observe"]
    if len(healthy) == 1 and healthy[0] not in named:
        shares[healthy[0]] = round(1 - sum(shares.values()), 9) + 0.0
    whole = len(named) == len(set(named)) and abs(sum(shares.values()) - 1) < 1e-6
    if not whole or not all(0 <= share <= 1 for share in shares.values()):
        raise UserError(f"prevalence={text}: each class once, shares that are 1 together")
    return shares


def reliability_rows(evaluated: Evaluated) -> list[tuple[float, float, int]]:
    """(confidence, accuracy, scans) of the bins that hold scans, over groups."""
    count, confidence, accuracy = reliability(evaluated.by_group, evaluated.scans.labels)
    rows = zip(confidence.tolist(), accuracy.tolist(), count.tolist(), strict=True)
    return [row for row in rows if row[2]]


def _set_figures(
    decisions: Decisions,
    rule: DecisionRule,
    truth: Int[np.ndarray, "scans"],
    owners: Int[np.ndarray, "scans"],
    groups: tuple[Group, ...],
    task: Task,
) -> dict[str, Any]:
    """Coverage of each group beside what sampling allows, and the sizes of sets.

    A group's coverage is over patients: that is what is promised. `owners` numbers them.
    """
    inside = np.stack(
        [decisions.sets[:, members_of(group, task)].any(1) for group in groups], axis=1
    )
    covered = inside[np.arange(len(truth)), truth]
    fitted = rule.fitted_on.get("patients_of", {})
    promised = rule.fitted_on.get("promised", {}).get("coverage", {})
    # Of several classes the group has several thresholds, of augmented views harder scans than
    # these: neither has such a simple law.
    as_they_are = rule.fitted_on.get("views", 1) == 1
    by_group = {}
    for number, group in enumerate(groups):
        own = truth == number
        if not own.any():
            continue
        on = sum(fitted.get(name, 0) for name in group.classes)
        by_group[group.name] = {
            "coverage": patient_mean(covered[own].astype(float), owners[own]),
            "promised": min(promised.get(name, rule.coverage) for name in group.classes),
            "scans": int(own.sum()),
            "patients": (tested := len(np.unique(owners[own]))),
            "calibration_patients": on,
            "sampling_range": list(coverage_range(rule.coverage, on, tested))
            if as_they_are and len(group.classes) == 1
            else None,
        }
    sizes = decisions.sets.sum(1)
    return {
        "asked": rule.coverage,
        "coverage": float(covered.mean()),
        "by_group": by_group,
        "mean_size": float(sizes.mean()),
        "sizes": {str(size): int((sizes == size).sum()) for size in range(len(task.classes) + 1)},
    }


def _referral_figures(
    drawn: Int[np.ndarray, "drawn"],
    decisions: Decisions,
    rule: DecisionRule,
    truth: Int[np.ndarray, "scans"],
    tiers: Sequence[Tier | None],
    members: Bool[np.ndarray, "groups classes"],
) -> dict[str, float | None]:
    """Figures of sets and referral on the drawn scans; of urgency where every group has a tier."""
    referred = np.array(decisions.referrals)[drawn]
    covered = decisions.sets[drawn] & members[truth[drawn]]
    metrics: dict[str, float | None] = {
        "coverage of prediction sets": float(covered.any(1).mean()),
    }
    if not rule.task.refers:
        return metrics
    metrics["deferred"] = float((referred == "defer").mean())
    if None in tiers:
        return metrics
    wanted = np.array(tiers)[truth[drawn]]
    alarm = urgency(decisions.probabilities[drawn], rule.task) >= rule.urgent_threshold
    urgent, answered = wanted == "urgent", referred != "defer"
    return metrics | {
        "urgent sensitivity": share_among(alarm, urgent),
        "urgent specificity": share_among(~alarm, ~urgent),
        "urgent missed": share_among(answered & (referred != "urgent"), urgent),
        "tier accuracy when answered": share_among(referred == wanted, answered),
    }


def _scans_behind_referral(
    decisions: Decisions, truth: Int[np.ndarray, "scans"], tiers: Sequence[Tier | None]
) -> dict[str, Bool[np.ndarray, "scans"]]:
    """Which scans a share of `_referral_figures` is over."""
    everything = np.ones(len(truth), bool)
    urgent = np.array([tier == "urgent" for tier in tiers])[truth]
    return {
        "coverage of prediction sets": everything,
        "deferred": everything,
        "urgent sensitivity": urgent,
        "urgent missed": urgent,
        "urgent specificity": ~urgent,
        "tier accuracy when answered": np.array(decisions.referrals) != "defer",
    }


def _referral_table(
    decisions: Decisions,
    rule: DecisionRule,
    truth: Int[np.ndarray, "scans"],
    names: Sequence[str],
) -> dict[str, Any]:
    referred = np.array(decisions.referrals)
    columns = ("urgent", "routine", "observe", "defer")
    return {
        "urgent_threshold": rule.urgent_threshold,
        "asked_sensitivity": rule.sensitivity,
        "promised_sensitivity": rule.fitted_on.get("promised", {}).get("sensitivity"),
        "columns": list(columns),
        "rows": {
            name: [int(((truth == number) & (referred == column)).sum()) for column in columns]
            for number, name in enumerate(names)
        },
    }
