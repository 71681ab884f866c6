"""Scans without labels beside the calibration scans: what changed, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from oct_jax.decision.monitoring import ALARM, watch
from oct_jax.decision.reference import Reference
from oct_jax.decision.referral import REFERRALS
from oct_jax.decision.rule import DecisionRule, apply_rule
from oct_jax.metrics.shares import patient_share
from oct_jax.model.inference import Outputs
from oct_jax.task import Task
from oct_jax.types import UserError

Advice: TypeAlias = Literal["go on", "adapt", "recalibrate", "stop"]

MOST_OUTLIERS, MOST_DEFERRED = 0.25, 0.5
"""Shares of the scans beyond which, once the alarm is raised, the advice is to stop: fixed numbers,
between what was measured on uncurated scans of the training scans' devices and on another
hospital's (experiments/README.md)."""

Estimate: TypeAlias = tuple[float, float, float]
"""A share and its 95 % interval over patients."""


@dataclass(frozen=True)
class Period:
    """Scans of a time, or the calibration scans.

    Attributes:
      name: `all`, `calibration`, or a month as 2026-11.
      scans: that show a retina.
      patients: of these scans.
      outliers: share of outliers among them.
      deferred: share that is deferred; None in a task without tiers.
      referrals: share of each tier, and of `defer`; empty in a task without tiers.
      predicted: share of each class among the most probable classes.
      set_size: mean number of classes in the prediction sets.
    """

    name: str
    scans: int
    patients: int
    outliers: Estimate
    deferred: Estimate | None
    referrals: dict[str, Estimate]
    predicted: dict[str, Estimate]
    set_size: float


@dataclass(frozen=True)
class Monitored:
    """What monitoring saw.

    Attributes:
      advice: what to do.
      reasons: why, a line each.
      alarm: whether the scans are not exchangeable with the calibration scans.
      alarm_after: patients after which that was clear; None where it is not.
      capital: of the bet against exchangeability after each patient; see `watch`.
      no_retina: pictures that show no retina, which are left out of everything else.
      periods: the calibration scans, all new ones, then months where dates are known.
    """

    advice: Advice
    reasons: tuple[str, ...]
    alarm: bool
    alarm_after: int | None
    capital: Float[np.ndarray, "patients"]
    no_retina: int
    periods: tuple[Period, ...]


def monitor(
    rule: DecisionRule,
    outputs: Outputs,
    patients: Sequence[str],
    months: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> Monitored:
    """Compares scans without labels with the calibration scans of a rule.

    Args:
      rule: with a reference.
      outputs: of the scans, in the order in which they came.
      patients: of each scan.
      months: of each scan; "" where it is not known. None where no date is known.
      seed: of the draws of `watch`.

    Raises:
      UserError: the rule has no reference, or no scan shows a retina.
    """
    if rule.reference is None:
        raise UserError("the decision rule keeps no calibration scores to compare with")
    applied = apply_rule(rule.arrays, Outputs(*map(np.asarray, outputs)), rule.task)
    seen = np.flatnonzero(~np.asarray(applied.no_retina))
    if not len(seen):
        raise UserError(f"none of {len(patients)} pictures shows a retina: nothing to compare")
    _, owners = np.unique(np.asarray(patients, str), return_inverse=True)
    new = Reference(
        np.asarray(applied.outlier_scores)[seen],
        owners[seen],
        np.asarray(applied.probabilities).argmax(1)[seen],
        np.asarray(applied.sets).sum(1)[seen],
        np.asarray(applied.tiers).astype(np.int64)[seen],
    )
    known = rule.reference
    capital = watch(known.scores, known.patients, new.scores, new.patients, seed=seed)
    beyond = np.flatnonzero(capital >= ALARM)
    before = _period("calibration", known, rule.task)
    now = _period("all", new, rule.task)
    advice, reasons = _advise(bool(len(beyond)), before, now)
    return Monitored(
        advice,
        tuple(reasons),
        alarm=bool(len(beyond)),
        alarm_after=int(beyond[0]) + 1 if len(beyond) else None,
        capital=capital,
        no_retina=len(patients) - len(seen),
        periods=(before, now, *_by_month(new, months, seen, rule.task)),
    )


def _by_month(
    new: Reference, months: Sequence[str] | None, seen: Int[np.ndarray, "seen"], task: Task
) -> list[Period]:
    if months is None:
        return []
    of = np.asarray(months, str)[seen]
    return [
        _period(name or "no date", Reference(*(column[of == name] for column in new)), task)
        for name in sorted(set(of.tolist()))
    ]


def _period(name: str, scans: Reference, task: Task) -> Period:
    def share(holds: Bool[np.ndarray, "scans"]) -> Estimate:
        return patient_share(holds, scans.patients)

    words = enumerate(REFERRALS) if task.refers else ()
    referrals: dict[str, Estimate] = {word: share(scans.tiers == code) for code, word in words}
    return Period(
        name,
        scans=len(scans.scores),
        patients=len(np.unique(scans.patients)),
        outliers=share(scans.scores > 1),
        deferred=referrals.get("defer"),
        referrals=referrals,
        predicted={label: share(scans.labels == index) for index, label in enumerate(task.classes)},
        set_size=float(scans.sizes.mean()),
    )


def _advise(alarm: bool, before: Period, now: Period) -> tuple[Advice, list[str]]:
    """What to do, and why."""
    deferred = now.deferred[0] if now.deferred else 0.0
    if alarm:
        reasons = ["the scans are unlike the calibration scans, by more than chance"]
        if now.outliers[0] > MOST_OUTLIERS or deferred > MOST_DEFERRED:
            reasons.append(
                f"{now.outliers[0]:.0%} are outliers and {deferred:.0%} are deferred: answers on"
                " such scans have no evidence behind them"
            )
            return "stop", reasons
        reasons.append("what was promised for coverage and sensitivity does not hold for them")
        return "recalibrate", reasons
    changed = [
        f"{name} is predicted for {percent(share)} of the scans, of the calibration scans for"
        f" {percent(before.predicted[name])}"
        for name, share in now.predicted.items()
        if _apart(share, before.predicted[name])
    ]
    if changed:
        return "adapt", ["the scans look like the calibration scans", *changed]
    return "go on", ["no difference from the calibration scans beyond chance"]


def _apart(first: Estimate, second: Estimate) -> bool:
    return first[2] < second[1] or second[2] < first[1]


def percent(share: Estimate) -> str:
    """A share with its interval, for people."""
    return f"{share[0]:.0%} ({share[1]:.0%} to {share[2]:.0%})"


def as_json(monitored: Monitored) -> dict[str, Any]:
    """The same as JSON values."""
    periods = [{**vars(period), "outliers": list(period.outliers)} for period in monitored.periods]
    return {
        "advice": monitored.advice,
        "reasons": list(monitored.reasons),
        "alarm": monitored.alarm,
        "alarm_after_patients": monitored.alarm_after,
        "alarm_at_capital": ALARM,
        "largest_capital": float(monitored.capital.max()),
        "no_retina": monitored.no_retina,
        "periods": periods,
    }
