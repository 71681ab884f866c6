"""Figures of parts: the scans of each device, sex or other column, and whole eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from oct_jax.data.manifest import Record, column_names, summarize, values_of
from oct_jax.metrics.shares import patient_share
from oct_jax.task import Tier
from oct_jax.types import Referral, UserError

MOST_VALUES = 12
"""Different values of a column that figures are given by without being asked for."""
MOST_ASKED = 50
"""The same where they are asked for."""
BY_DEFAULT = ("device", "laterality")
"""Columns that figures are given by without being asked for, besides those of one's own."""
NOT_GIVEN = "not given"


@dataclass(frozen=True)
class Answered:
    """Scans, or eyes, and the answers to them.

    Attributes:
      probabilities: float (answers, groups).
      truth: int (answers,), indices of groups.
      patients: of each.
      referrals: of each; None where nothing is referred.
      names: of the groups.
      tiers: of the groups; None for one that has no single tier.
    """

    probabilities: Float[np.ndarray, "answers groups"]
    truth: Int[np.ndarray, "answers"]
    patients: Sequence[str]
    referrals: Sequence[Referral | None] | None
    names: Sequence[str]
    tiers: Sequence[Tier | None]

    def take(self, rows: Int[np.ndarray, "taken"]) -> Answered:
        """Those of some rows."""
        referrals = self.referrals
        return Answered(
            self.probabilities[rows],
            self.truth[rows],
            [self.patients[row] for row in rows],
            None if referrals is None else [referrals[row] for row in rows],
            self.names,
            self.tiers,
        )


def part_figures(answered: Answered) -> dict[str, Any]:
    """Accuracy, recall and referral with 95 % intervals over patients, as JSON values.

    All are shares, with the intervals of `oct_jax.metrics.shares.patient_share`.

    Args:
      answered: at least one.

    Returns:
      `count`, `patients`, and `figures`: of each name `value` and `interval`, None where no answer
      defines them.
    """
    right = answered.probabilities.argmax(1) == answered.truth
    everything = np.ones(len(right), bool)
    shares = {"accuracy": (right, everything)}
    shares |= {
        f"{name} recall": (right, answered.truth == group)
        for group, name in enumerate(answered.names)
    }
    if answered.referrals is not None:
        referred = np.array(answered.referrals, object)
        shares["deferred"] = (referred == "defer", everything)
        if None not in answered.tiers:
            due = np.array(answered.tiers, object)[answered.truth]
            decided = referred != "defer"
            shares["urgent missed"] = (decided & (referred != "urgent"), due == "urgent")
            shares["tier accuracy when answered"] = (referred == due, decided)
    patients = np.array(answered.patients, object)
    return {
        "count": len(right),
        "patients": len(set(answered.patients)),
        "figures": {
            name: _share(holds[among], patients[among].tolist())
            for name, (holds, among) in shares.items()
        },
    }


def _share(holds: Bool[np.ndarray, "answers"], patients: list[str]) -> dict[str, Any]:
    if not len(holds):
        return {"value": None, "interval": None}
    share, low, high = patient_share(holds, patients)
    return {"value": share, "interval": (low, high)}


def figures_by_column(
    answered: Answered, records: Sequence[Record], column: str | None
) -> dict[str, dict[str, dict[str, Any]]]:
    """`part_figures` for every value of a column of the manifest, or of several.

    Args:
      answered: an answer for each record.
      records: of the scans.
      column: a column of the manifest; None for `BY_DEFAULT` and the columns of one's own, where
        they have 2 to `MOST_VALUES` different values.

    Returns:
      By column, then by value.

    Raises:
      UserError: no such column, nothing in it, or more than `MOST_ASKED` different values.
    """
    return {
        name: {
            value: part_figures(answered.take(rows))
            for value, rows in _parts(values_of(records, name) or []).items()
        }
        for name in _columns(records, column)
    }


def check_column(records: Sequence[Record], column: str | None) -> None:
    """Raises UserError as `figures_by_column` does, before the work."""
    if column is None:
        return
    named = column_names(records)
    if column not in named:
        raise UserError(
            f"by={column}: no such column, or nothing in it; there are {', '.join(named)}"
        )
    values = list(_parts(values_of(records, column) or []))
    if len(values) > MOST_ASKED:
        raise UserError(
            f"by={column}: {len(values)} different values ({summarize(values)}); at most"
            f" {MOST_ASKED}"
        )


def _columns(records: Sequence[Record], column: str | None) -> list[str]:
    check_column(records, column)
    if column is not None:
        return [column]
    own = {name for record in records for name, _ in record.more}
    candidates = [name for name in column_names(records) if name in {*BY_DEFAULT, *own}]
    return [
        name
        for name in candidates
        if 2 <= len(_parts(values_of(records, name) or [])) <= MOST_VALUES
    ]


def _parts(values: Sequence[str]) -> dict[str, Int[np.ndarray, "rows"]]:
    """Rows of each value, sorted by it; what has none comes last."""
    named = np.array([value or NOT_GIVEN for value in values], object)
    order = sorted(set(named), key=lambda value: (value == NOT_GIVEN, value))
    return {value: np.flatnonzero(named == value) for value in order}
