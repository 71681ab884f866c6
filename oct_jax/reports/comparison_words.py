"""A comparison of two models in one paragraph, and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oct_jax.metrics.comparison import DIFFERENCE, FIRST, SECOND

_LINES = (
    "accuracy",
    "balanced accuracy",
    "urgent sensitivity",
    "urgent specificity",
    "urgent AUC",
    "log loss",
    "calibration error",
    "deferred",
    "right when answered",
)
_SURE = 0.05
_USEFUL = (0.05, 0.5)
"""Thresholds between which decision curves are told in words."""


def cautions(report: dict[str, Any]) -> list[str]:
    """What a reader must know before any figure; mostly none."""
    warnings = []
    if report["synthetic"]:
        warnings.append("SYNTHETIC: a model was trained on phantoms; nothing here is of patients")
    if report["contaminated"]:
        warnings.append(
            f"CONTAMINATED: a model was trained on {report['contaminated']} of these"
            f" {report['scans']} scans or their patients; no figure here is evidence"
        )
    if report["chose_epoch_or_thresholds"]:
        warnings.append(
            f"{report['chose_epoch_or_thresholds']} times a scan chose a model's epoch or fitted"
            " its thresholds: that model's figures are a little too good"
        )
    if report["scans_without_patient"]:
        warnings.append(
            f"{report['scans_without_patient']} of {report['scans']} scans name no patient and"
            " count as a patient each: where some are of one, intervals are too narrow and tests"
            " too sure"
        )
    return warnings


def in_words(report: dict[str, Any]) -> str:
    """The comparison in one paragraph."""
    of_patients = f" of {report['patients']} patients"
    if report["scans_without_patient"] == report["scans"]:
        of_patients = ", whose patients are not known"
    sentences = [
        f"A is {report[FIRST]['name']}, B is {report[SECOND]['name']}, on the same"
        f" {report['scans']} scans{of_patients}.",
        _accuracy(report),
    ]
    if _has(report, "urgent sensitivity"):
        what = f"Of the {report['urgent_scans']} urgent scans A calls {{}} urgent and B {{}}"
        sentences.append(_tested(report, "urgent sensitivity", what))
    if _has(report, "urgent specificity"):
        what = f"Of the {report['not_urgent_scans']} others A calls {{}} not urgent and B {{}}"
        sentences.append(_tested(report, "urgent specificity", what))
    loss = report["figures"]["log loss"]
    sentences.append(
        f"The log loss of A's probabilities is {shown(loss[FIRST]['value'])}, of B's"
        f" {shown(loss[SECOND]['value'])} (difference {_difference(report, 'log loss')}; less is"
        " better)."
    )
    if _has(report, "deferred"):
        sentences.append(
            f"A defers {_percent(report, 'deferred', FIRST)} of scans to a person and B"
            f" {_percent(report, 'deferred', SECOND)} ({_points(report, 'deferred')})"
        )
        sentences[-1] += _right_when_answered(report)
    if report["decision_curve"]:
        sentences.append(_decision(report))
    return " ".join(sentences)


def to_lines(report: dict[str, Any]) -> list[str]:
    """Warnings, the main figures of both with their difference, and the paragraph."""
    lines = [f"warning: {line}" for line in cautions(report)]
    lines.append("figure: A, B, A - B with its 95 % interval over patients")
    lines += [
        f"  {name}: {_pair(report, name)}, {_difference(report, name)}"
        for name in _LINES
        if name in report["figures"] and report["figures"][name][FIRST]["value"] is not None
    ]
    return [*lines, in_words(report)]


def shown(value: float | None, *, sign: bool = False) -> str:
    """A figure with three decimals, or `-`."""
    if value is None:
        return "-"
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def with_interval(figure: dict[str, Any], *, sign: bool = False) -> str:
    """A figure with its interval in brackets, as far as they are defined."""
    value, interval = figure["value"], figure["interval"]
    if value is None or interval is None:
        return shown(value, sign=sign)
    low, high = (shown(end, sign=sign) for end in interval)
    return f"{shown(value, sign=sign)} ({low} to {high})"


def shown_p(p: float) -> str:
    """A p-value: `p = 0.031`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _accuracy(report: dict[str, Any]) -> str:
    test = report["mcnemar"]["accuracy"]
    return (
        f"A is right on {_percent(report, 'accuracy', FIRST)} of scans and B on"
        f" {_percent(report, 'accuracy', SECOND)}: {_points(report, 'accuracy')},"
        f" {_significance(test['p_patients'])} (McNemar's test over patients,"
        f" {shown_p(test['p_patients'])}; scans that A alone has right: {test['only_first']}, B"
        f" alone: {test['only_second']})."
    )


def _tested(report: dict[str, Any], name: str, what: str) -> str:
    """A sentence about a share that McNemar's test was made of."""
    p = report["mcnemar"][name]["p_patients"]
    shares = what.format(_percent(report, name, FIRST), _percent(report, name, SECOND))
    return f"{shares} ({_points(report, name)}; {_significance(p)}, {shown_p(p)})."


def _right_when_answered(report: dict[str, Any]) -> str:
    name = "right when answered"
    if not _has(report, name):
        return "."
    return (
        f"; of the scans that each answers {_percent(report, name, FIRST)} and"
        f" {_percent(report, name, SECOND)} are right ({_points(report, name)})."
    )


def _decision(report: dict[str, Any]) -> str:
    curve, (low, high) = report["decision_curve"], _USEFUL
    chosen = [i for i, value in enumerate(curve["thresholds"]) if low <= value <= high]

    def share(side: str, floors: Sequence[Sequence[float]]) -> str:
        above = sum(all(curve[side][i] > floor[i] for floor in floors) for i in chosen)
        return f"{above / len(chosen):.0%}".replace("%", " %")

    nobody = [0.0] * len(curve["thresholds"])
    return (
        f"Where {curve['prevalence']:.0%} of scans are urgent, A has the higher net benefit at"
        f" {share(FIRST, [curve[SECOND]])} of the thresholds from {low:g} to {high:g} and B at"
        f" {share(SECOND, [curve[FIRST]])}; A is better than referring all or nobody at"
        f" {share(FIRST, [curve['all'], nobody])} of them, B at"
        f" {share(SECOND, [curve['all'], nobody])}."
    ).replace("% of scans", " % of scans")


def _significance(p: float) -> str:
    return "a significant difference" if p < _SURE else "no significant difference"


def _has(report: dict[str, Any], name: str) -> bool:
    figures = report["figures"]
    return name in figures and figures[name][DIFFERENCE]["value"] is not None


def _percent(report: dict[str, Any], name: str, side: str) -> str:
    return f"{report['figures'][name][side]['value']:.1%}".replace("%", " %")


def _points(report: dict[str, Any], name: str) -> str:
    figure = report["figures"][name][DIFFERENCE]
    text = f"{100 * figure['value']:+.1f} points"
    if figure["interval"] is not None:
        low, high = figure["interval"]
        text += f", 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    return text


def _pair(report: dict[str, Any], name: str) -> str:
    figure = report["figures"][name]
    return f"{shown(figure[FIRST]['value'])}, {shown(figure[SECOND]['value'])}"


def _difference(report: dict[str, Any], name: str) -> str:
    return with_interval(report["figures"][name][DIFFERENCE], sign=True)
