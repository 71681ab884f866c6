"""What every stored decision rule has in common: a run's `rule.json` and a model file's header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct

from oct_jax.data.manifest import Record
from oct_jax.decision.calibration import COLDEST, HOTTEST
from oct_jax.decision.outliers import OutlierModel
from oct_jax.decision.reference import Reference, columns, from_columns
from oct_jax.decision.rule import DecisionRule
from oct_jax.files import Count, Share, convert
from oct_jax.task import Task
from oct_jax.types import UserError

OUTLIER_TENSORS = {
    "mean": ("channels",),
    "directions": ("channels", "directions"),
    "precisions": ("directions",),
}
"""Arrays of an `OutlierModel` by name, and their shapes."""

_Inside = Annotated[float, Meta(gt=0, lt=1)]
_PLAIN = ("temperature", "urgent_threshold", "coverage", "sensitivity", "outlier_rate", "model")


class StoredReference(Struct, forbid_unknown_fields=True):
    """A `Reference`, a list for each of its attributes."""

    scores: list[float]
    patients: list[int]
    labels: list[int]
    sizes: list[int]
    tiers: list[int]


class StoredRule(Struct, kw_only=True, forbid_unknown_fields=True):
    """A rule as JSON values, without its task, its outlier model and its calibration scans."""

    # The search for a temperature ends a little inside of its bounds or on them, up to rounding.
    temperature: Annotated[float, Meta(ge=0.99 * COLDEST, le=1.01 * HOTTEST)]
    set_thresholds: list[Share]
    urgent_threshold: Share
    coverage: _Inside
    sensitivity: Annotated[float, Meta(gt=0, le=1)]
    outlier_rate: _Inside
    model: Annotated[str, Meta(pattern="^([0-9a-f]{16})?$")]
    fitted_on: dict[str, Any]
    # Rules that were stored by earlier versions have none.
    reference: StoredReference | None = None


class _AdaptedTo(Struct):
    scans: Count


class _FittedOn(Struct):
    """Of the calibration scans; other entries are free."""

    data: str = ""
    scans: dict[str, Count] = {}
    patients: Count = 0
    patients_of: dict[str, Count] = {}
    views: Count = 1
    adapted: _AdaptedTo | None = None


def rule_values(rule: DecisionRule) -> dict[str, Any]:
    """The fields of a `StoredRule`."""
    return {
        **{name: getattr(rule, name) for name in _PLAIN},
        "set_thresholds": rule.set_thresholds.tolist(),
        "fitted_on": dict(rule.fitted_on),
        "reference": None if rule.reference is None else columns(rule.reference),
    }


def rule_from(
    stored: StoredRule,
    task: Task,
    outliers: OutlierModel | None,
    records: tuple[Record, ...] = (),
    *,
    where: str,
    remedy: str,
) -> DecisionRule:
    """A rule from its stored parts.

    Args:
      stored: the values.
      task: that the classes are of.
      outliers: the outlier model; None where there is none.
      records: the calibration scans, where they are known.
      where: names the file in errors.
      remedy: what to do about an error.

    Raises:
      UserError: not one threshold for each class, a damaged description of the scans, or a
        damaged reference.
    """
    convert(stored.fitted_on, _FittedOn, f"{where}: fitted_on", remedy=remedy)
    if len(stored.set_thresholds) != len(task.classes):
        raise UserError(
            f"{where}: {len(stored.set_thresholds)} set_thresholds of {len(task.classes)} classes;"
            f" {remedy}"
        )
    return DecisionRule(
        **{name: getattr(stored, name) for name in _PLAIN},
        set_thresholds=np.array(stored.set_thresholds, np.float32),
        outliers=outliers,
        fitted_on=stored.fitted_on,
        records=records,
        task=task,
        reference=_reference(stored.reference, len(task.classes), where, remedy),
    )


def _reference(
    stored: StoredReference | None, classes: int, where: str, remedy: str
) -> Reference | None:
    if stored is None:
        return None
    try:
        return from_columns([getattr(stored, name) for name in Reference._fields], classes)
    except ValueError as error:
        raise UserError(f"{where}: reference: {error}; {remedy}") from error


def outliers_from(
    tensors: Mapping[str, np.ndarray],
    *,
    rest_precision: float,
    threshold: float,
    no_retina: float | None,
    where: str,
    remedy: str,
) -> OutlierModel:
    """An outlier model from arrays of the shapes of `OUTLIER_TENSORS`.

    Args:
      tensors: by name.
      rest_precision: see `OutlierModel`.
      threshold: see `OutlierModel`.
      no_retina: see `OutlierModel`; None where it is infinite.
      where: names the file in errors.
      remedy: what to do about an error.

    Raises:
      UserError: precisions that are not above 0.
    """
    if not (tensors["precisions"] > 0).all():
        raise UserError(f"{where}: precisions must be above 0; {remedy}")
    return OutlierModel(
        **{name: tensors[name] for name in OUTLIER_TENSORS},
        rest_precision=rest_precision,
        threshold=threshold,
        no_retina=no_retina or float("inf"),
    )


def finite(value: float) -> float | None:
    """The value; None for infinity, which JSON does not have."""
    return None if np.isinf(value) else value
