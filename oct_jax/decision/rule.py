"""The decision rule of a model: fitted on calibration scans, applied to outputs of any scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int8

from oct_jax.arrays import SameArray, namespace_of, widest
from oct_jax.data.manifest import Record
from oct_jax.decision.calibration import fit_temperature, softmax
from oct_jax.decision.conformal import (
    Patients,
    patient_ids,
    prediction_sets,
    promised_share,
    set_thresholds,
)
from oct_jax.decision.outliers import (
    OutlierModel,
    outlier_threshold,
    squared_distance,
)
from oct_jax.decision.reference import Reference, make_reference
from oct_jax.decision.referral import tier_codes, to_referrals, urgency, urgent_threshold
from oct_jax.model.inference import Outputs
from oct_jax.task import KERMANY, Task
from oct_jax.types import Referral, UserError

COVERAGE, SENSITIVITY, OUTLIER_RATE = 0.9, 0.99, 0.01
"""What is asked for by default."""

PROMISE = (
    "Coverage and sensitivity are promised for patients like the calibration patients alone. On"
    " scans that nobody curated and on another hospital's they were measured not to be kept"
    " (experiments/README.md): fit the rule to labelled scans of your own with `just recalibrate`."
)


@dataclass(frozen=True)
class DecisionRule:
    """From logits and pooled features to probabilities, prediction sets and referrals.

    Attributes:
      temperature: that logits are divided by.
      set_thresholds: calibrated probability at and above which a class is in the prediction set.
      urgent_threshold: probability of the urgent classes together at and above which a scan is
        urgent.
      coverage: asked of the sets, in every class.
      sensitivity: asked of the urgent threshold.
      outlier_rate: share of scans like the calibration scans that may be called outliers.
      outliers: outlier model of the pooled features; None where there was none to fit.
      fitted_on: data, number of scans of each class, number of patients.
      model: fingerprint of the weights that it was fitted for.
      records: the calibration scans.
      task: that the classes are of.
      reference: what the rule says of calibration scans as they are, to compare later scans to;
        None without an outlier model, and of rules that were stored without it.
    """

    temperature: float
    set_thresholds: Float32[np.ndarray, "classes"]
    urgent_threshold: float
    coverage: float
    sensitivity: float
    outlier_rate: float
    outliers: OutlierModel | None
    fitted_on: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    records: tuple[Record, ...] = ()
    task: Task = KERMANY
    reference: Reference | None = None

    @property
    def arrays(self) -> RuleArrays:
        """All that decides, as a pytree for `apply_rule`."""
        return RuleArrays(
            self.temperature, self.set_thresholds, self.urgent_threshold, self.outliers
        )


class RuleArrays(NamedTuple):
    """The numbers of a `DecisionRule`: a pytree of arrays and floats.

    Attributes:
      temperature: that logits are divided by; above 0.
      set_thresholds: of each class, in [0, 1].
      urgent_threshold: in [0, 1].
      outliers: outlier model of the pooled features, or None.
    """

    temperature: Any
    set_thresholds: Float32[SameArray, "classes"]
    urgent_threshold: Any
    outliers: OutlierModel | None


class RuleOutputs(NamedTuple):
    """What a rule says of scans, as arrays: a pytree.

    Attributes:
      probabilities: calibrated, (scans, classes), rows that sum to 1.
      sets: which classes are in each prediction set.
      tiers: the referral of each scan, an index into `oct_jax.decision.referral.REFERRALS`
        (urgent, routine, observe, defer); -1 in a task without tiers.
      outlier_scores: squared distance over its threshold; above 1 is an outlier, nan where the
        rule has no outlier model.
      no_retina: which outliers show no retina at all.
    """

    probabilities: Float[SameArray, "scans classes"]
    sets: Bool[SameArray, "scans classes"]
    tiers: Int8[SameArray, "scans"]
    outlier_scores: Float[SameArray, "scans"]
    no_retina: Bool[SameArray, "scans"]


class Decisions(NamedTuple):
    """What a rule says of scans.

    Attributes:
      probabilities: calibrated, (scans, classes).
      sets: which classes are in each prediction set.
      referrals: the tier of each scan, or `defer`; None in a task without tiers.
      outlier_scores: squared distance over its threshold; above 1 is an outlier, nan where the
        rule has no outlier model.
      no_retina: which outliers show no retina at all.
    """

    probabilities: Float[np.ndarray, "scans classes"]
    sets: Bool[np.ndarray, "scans classes"]
    referrals: list[Referral | None]
    outlier_scores: Float[np.ndarray, "scans"]
    no_retina: Bool[np.ndarray, "scans"]


def fit_rule(
    calibration: Outputs,
    labels: Int[np.ndarray, "scans"],
    outliers: OutlierModel | None,
    *,
    patients: Patients | None = None,
    coverage: float = COVERAGE,
    sensitivity: float = SENSITIVITY,
    outlier_rate: float = OUTLIER_RATE,
    fitted_on: Mapping[str, Any],
    model: str = "",
    records: tuple[Record, ...] = (),
    task: Task = KERMANY,
) -> DecisionRule:
    """Fits everything that calibration scans decide.

    Temperature and thresholds come from the same scans: temperature has one number to fit, and
    does not change the order of scans by a class's probability by much; the coverage that is
    reached is measured on test scans.

    Args:
      calibration: outputs of scans that the model was not trained on; at least one.
      labels: of these, indices into the classes.
      outliers: of training features (`fit_outliers`); None for no outlier score.
      patients: of each calibration scan; without them every scan counts as a patient of its own.
      coverage: asked of the prediction sets, in (0, 1).
      sensitivity: asked of the urgent threshold, in (0, 1].
      outlier_rate: of scans like these, in (0, 1).
      fitted_on: what to write down of the calibration scans.
      model: fingerprint of the weights.
      records: the calibration scans.
      task: that the classes are of.

    Raises:
      UserError: no scans, or logits that are not finite.
    """
    logits = np.asarray(calibration.logits)
    if not len(logits):
        raise UserError("no calibration scans: nothing to fit a decision rule on")
    if not np.isfinite(logits).all():
        raise UserError(
            f"{(~np.isfinite(logits)).any(1).sum()} scans have logits that are not"
            " finite: the model is broken; train it again"
        )
    temperature = fit_temperature(logits, labels, patients)
    probabilities = softmax(logits, temperature)
    if outliers is not None:
        distances = squared_distance(outliers, np.asarray(calibration.pooled))
        threshold = outlier_threshold(distances, outlier_rate, patients)
        no_retina = max(outliers.no_retina, threshold)
        outliers = outliers._replace(threshold=threshold, no_retina=no_retina)
    scores = urgency(probabilities, task)
    lowest_urgent = urgent_threshold(scores, labels, sensitivity, task, patients)
    rule = DecisionRule(
        temperature=temperature,
        # Rounded down, so that the calibration scan that sets a threshold is at it in float32 too.
        set_thresholds=_below(set_thresholds(probabilities, labels, coverage, patients)),
        urgent_threshold=float(_below(np.array([lowest_urgent]))[0]),
        coverage=coverage,
        sensitivity=sensitivity,
        outlier_rate=outlier_rate,
        outliers=outliers,
        fitted_on={
            **fitted_on,
            "promised": _promised(
                labels, patient_ids(patients, len(labels)), task, coverage, sensitivity
            ),
        },
        model=model,
        records=records,
        task=task,
    )
    return with_reference(rule, calibration, patients)


def with_reference(
    rule: DecisionRule, outputs: Outputs, patients: Patients | None = None
) -> DecisionRule:
    """The rule with what it says of calibration scans as they are; see `Reference`.

    Args:
      rule: fitted to these scans, or to augmented views of them.
      outputs: of the scans, not augmented.
      patients: of each scan; without them every scan counts as a patient of its own.
    """
    if rule.outliers is None:
        return rule
    host = Outputs(np.asarray(outputs.logits), np.asarray(outputs.pooled))
    applied = apply_rule(rule.arrays, host, rule.task)
    reference = make_reference(
        np.asarray(applied.outlier_scores),
        np.asarray(applied.probabilities).argmax(1),
        np.asarray(applied.sets).sum(1),
        np.asarray(applied.tiers).astype(np.int64),
        patients,
    )
    return replace(rule, reference=reference)


def _promised(
    labels: Int[np.ndarray, "scans"],
    patients: np.ndarray,
    task: Task,
    coverage: float,
    sensitivity: float,
) -> dict[str, Any]:
    """What so many patients can promise of what is asked, for `DecisionRule.promised`."""
    urgent = np.array(task.urgent)[labels]
    return {
        "coverage": {
            name: promised_share(len(np.unique(patients[labels == label])), coverage)
            for label, name in enumerate(task.classes)
        },
        "sensitivity": promised_share(len(np.unique(patients[urgent])), sensitivity),
    }


def decide(rule: DecisionRule, outputs: Outputs) -> Decisions:
    """Applies a rule to outputs of scans, in float64."""
    host = Outputs(np.asarray(outputs.logits), np.asarray(outputs.pooled))
    decided = apply_rule(rule.arrays, host, rule.task)
    return Decisions(
        decided.probabilities,
        decided.sets,
        to_referrals(decided.tiers),
        decided.outlier_scores,
        decided.no_retina,
    )


def apply_rule(rule: RuleArrays, outputs: Outputs, task: Task) -> RuleOutputs:
    """Applies a rule to outputs of scans: a pure function of pytrees.

    It may be jitted, vmapped and differentiated by JAX over `rule` and `outputs`; `task` is static.
    Of NumPy arrays it computes in float64, as `decide` does, of JAX arrays in float32.

    Args:
      rule: `DecisionRule.arrays`.
      outputs: float32 logits (scans, classes) and pooled features (scans, channels).
      task: that the classes are of.
    """
    numpy = namespace_of(outputs.logits)
    probabilities = softmax(outputs.logits, rule.temperature)
    sets = prediction_sets(probabilities, widest(numpy.asarray(rule.set_thresholds)))
    if rule.outliers is None:
        scores = numpy.full(sets.shape[:1], numpy.nan)
        no_retina = numpy.zeros(sets.shape[:1], bool)
    else:
        distances = squared_distance(rule.outliers, outputs.pooled)
        scores = distances / rule.outliers.threshold
        no_retina = distances > rule.outliers.no_retina
    urgent = urgency(probabilities, task) >= rule.urgent_threshold
    codes = tier_codes(sets, urgent, scores > 1, task)
    return RuleOutputs(probabilities, sets, codes, scores, no_retina)


def _below(values: Float[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
    """The largest float32 numbers that are not above these."""
    rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-1)), rounded)
