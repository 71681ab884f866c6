"""The comparison of two models as a page: the paragraph, tables, curves, how it was tested."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oct_jax.metrics.comparison import DIFFERENCE, FIRST, NAMED_THRESHOLDS, SECOND
from oct_jax.prediction import RESEARCH_USE
from oct_jax.reports import html
from oct_jax.reports.comparison_words import (
    cautions,
    in_words,
    shown,
    shown_p,
    with_interval,
)

_COLOURS = {FIRST: "#0b57a4", SECOND: "#c2570c"}
_ANSWERS = ("accuracy", "balanced accuracy")
_URGENT = ("urgent sensitivity", "urgent specificity", "urgent AUC")
_PROBABILITIES = ("log loss", "Brier score", "calibration error")
_DEFERRAL = ("deferred", "right when answered")
_NET = tuple(f"net benefit at {threshold:g}" for threshold in NAMED_THRESHOLDS)
_NOTES = (
    "Intervals are 95 % percentile intervals from drawing patients, each with all scans, anew; A"
    " and B are drawn together, so that the interval of a difference is of a paired comparison.",
    "Where two models do not differ on any scan, drawing patients cannot show the uncertainty: with"
    " n patients, a difference on up to 3 in n of them is compatible with none.",
    "McNemar's test over scans takes each scan as independent. The one over patients swaps the two"
    " models' answers a patient at a time, all scans of it together, and is exact; it is the one to"
    " quote where patients have several scans.",
    "DeLong's test takes each scan as independent; the clustered form is Obuchowski's of 1997. With"
    " one scan a patient the two are the same.",
    "Net benefit is true positives less false positives at the odds of the threshold, a scan"
    " (Vickers and Elkin 2006). The threshold is how probable an urgent disease must be for a"
    " person to be referred urgently.",
    "Log loss takes a probability of less than one in a million as one in a million. The"
    " calibration error is a root mean square, less what chance adds to it; 0 where chance explains"
    " all of it.",
)


def to_html(report: dict[str, Any]) -> str:
    """One page, picture and style inside.

    Args:
      report: of `oct_jax.metrics.comparison.compare`, with what the command adds.
    """
    sections = ["<h1>Two models compared</h1>"]
    sections += [html.verdict(line, good=False) for line in cautions(report)]
    sections += [f"<p>{html.text(in_words(report))}</p>", html.items(_about(report))]
    sections += ["<h2>Labels</h2>", _figures(report, _ANSWERS)]
    sections += ["<h2>Scans that one model alone has right</h2>", _tests(report)]
    if "urgent" in report["areas"] or report["urgent_scans"]:
        sections += ["<h2>Urgent or not</h2>", _figures(report, _URGENT)]
    if report["areas"]:
        sections += ["<h2>Areas under ROC curves</h2>", _areas(report)]
    sections += ["<h2>Probabilities</h2>", _figures(report, _PROBABILITIES)]
    if any(
        report["figures"][name][side]["value"] is not None
        for name in _DEFERRAL
        for side in _COLOURS
    ):
        sections += ["<h2>Deferral</h2>", _figures(report, _DEFERRAL)]
    if report["decision_curve"]:
        sections += [
            "<h2>Decision curves</h2>",
            html.picture(_curves(report), "png", "net benefit over thresholds, A, B, all and none"),
            _figures(report, _NET),
        ]
    sections += ["<h2>How it was tested</h2>", html.items(_NOTES)]
    sections.append(f"<p>{RESEARCH_USE}. Task {html.text(report['task'])}.</p>")
    return html.page("Two models compared", sections)


def _about(report: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{name} {count}" for name, count in report["scans_by_label"].items())
    lines = [
        f"A: {report[FIRST]['name']}; urgent where {report[FIRST]['urgent_by']}",
        f"B: {report[SECOND]['name']}; urgent where {report[SECOND]['urgent_by']}",
        f"data: {report['data']}, {report['split']} split",
        f"{report['scans']} scans of {report['patients']} patients: {counts}",
    ]
    if report["left_out"]:
        lines.append(
            f"{report['left_out']} scans left out, of patients that a model was trained on"
        )
    if report["scans_without_tier"] and report["urgent_scans"]:
        lines.append(
            f"{report['scans_without_tier']} scans have a label that is both urgent and not, or has"
            " no tier; figures of urgent scans, and net benefit, leave them out"
        )
    return lines


def _figures(report: dict[str, Any], names: tuple[str, ...]) -> str:
    figures = report["figures"]
    rows = [
        (
            name,
            with_interval(figures[name][FIRST]),
            with_interval(figures[name][SECOND]),
            with_interval(figures[name][DIFFERENCE], sign=True),
        )
        for name in names
        if name in figures
    ]
    return html.table(("95 % intervals", "A", "B", "A - B"), rows)


def _tests(report: dict[str, Any]) -> str:
    rows = [
        (
            name,
            test["only_first"],
            test["only_second"],
            shown_p(test["p_patients"]),
            shown_p(test["p_scans"]),
        )
        for name, test in report["mcnemar"].items()
    ]
    head = ("McNemar's test", "right in A alone", "in B alone", "over patients", "over scans")
    return html.table(head, rows)


def _areas(report: dict[str, Any]) -> str:
    rows = []
    for name, area in report["areas"].items():
        clustered, plain = area["clustered"], area["delong"]
        low, high = clustered["interval"]
        rows.append(
            (
                name,
                shown(area[FIRST]),
                shown(area[SECOND]),
                f"{shown(area[DIFFERENCE], sign=True)}"
                f" ({shown(low, sign=True)} to {shown(high, sign=True)})",
                shown_p(clustered["p"]),
                shown_p(plain["p"]),
            )
        )
    head = ("AUC", "A", "B", "A - B, clustered", "clustered", "DeLong over scans")
    return html.table(head, rows)


def _curves(report: dict[str, Any]) -> bytes:
    curve = report["decision_curve"]
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes: Axes = figure.subplots()
    thresholds = curve["thresholds"]
    axes.plot(thresholds, curve["all"], color="#8a8a8a", linestyle="--", label="refer all")
    axes.axhline(0, color="#8a8a8a", linewidth=1, label="refer none")
    for letter, side in zip("AB", _COLOURS, strict=True):
        axes.plot(thresholds, curve[side], color=_COLOURS[side], label=letter)
    highest = max(*curve[FIRST], *curve[SECOND], curve["prevalence"])
    axes.set(
        xlabel="threshold: probability of an urgent disease at which to refer urgently",
        ylabel="net benefit, a scan",
        xlim=(0, 1),
        ylim=(-0.15 * highest, 1.08 * highest),
        title=f"Decision curves, {100 * curve['prevalence']:.0f} % of scans urgent"
        + (" (SYNTHETIC)" if report["synthetic"] else ""),
    )
    axes.legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
