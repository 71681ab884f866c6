"""What monitoring saw, for people: lines for the terminal, and a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from oct_jax.decision.monitoring import ALARM
from oct_jax.metrics.monitor import Advice, Monitored, percent
from oct_jax.reports import html
from oct_jax.reports.overlay import RESEARCH_USE

ADVICE: dict[Advice, str] = {
    "go on": "No alarm.",
    "adapt": "No alarm; classes come up in another mix than among the calibration scans: `just"
    " adapt` moves the model to the mix of these scans.",
    "recalibrate": "ALARM: label some of these scans and fit the decision rule to them (`just"
    " recalibrate`).",
    "stop": "ALARM: do not answer such scans with this model before it is recalibrated and"
    " evaluated on labelled ones (`just recalibrate`, `just evaluate`).",
}


def cautions(about: Mapping[str, Any]) -> list[str]:
    """What limits the comparison; mostly none."""
    lines = []
    if about["synthetic"]:
        lines.append("SYNTHETIC: the model was trained on phantoms; nothing here is of patients")
    if about["scans_without_patient"]:
        lines.append(
            f"{about['scans_without_patient']} of {about['scans']} scans name no patient and count"
            " as a patient each: where some are of one, the alarm comes too easily"
        )
    if about["adapted"]:
        lines.append(
            "the model was adapted: the referrals and predictions of its calibration scans are"
            " those before"
        )
    return lines


def to_lines(monitored: Monitored, about: Mapping[str, Any]) -> list[str]:
    """The main figures, a line each."""
    before, now = monitored.periods[:2]
    lines = [f"warning: {line}" for line in cautions(about)]
    lines.append(f"{now.scans} scans of {now.patients} patients; 95 % intervals over patients")
    if monitored.no_retina:
        lines.append(f"{monitored.no_retina} pictures show no retina and were left out")
    lines.append(
        f"  outliers {percent(now.outliers)}, of the calibration scans {percent(before.outliers)}"
    )
    if now.deferred and before.deferred:
        lines.append(
            f"  deferred {percent(now.deferred)}, of the calibration scans"
            f" {percent(before.deferred)}"
        )
    lines.append(f"  {_bet_in_words(monitored)}")
    return [*lines, *(f"  {line}" for line in monitored.reasons), ADVICE[monitored.advice]]


def to_html(monitored: Monitored, about: Mapping[str, Any]) -> str:
    """One page, pictures and style inside."""
    sections = ["<h1>Monitoring</h1>"]
    sections += [html.verdict(line, good=False) for line in cautions(about)]
    sections.append(
        html.verdict(ADVICE[monitored.advice].replace("`", ""), good=not monitored.alarm)
    )
    sections.append(html.items([*monitored.reasons, *_about(monitored, about)]))
    sections += ["<h2>Beside the calibration scans</h2>", _beside(monitored), *_months(monitored)]
    sections += [
        "<h2>The bet against exchangeability</h2>",
        f"<p>{html.text(_bet_in_words(monitored))}. If nothing has changed, the capital reaches"
        f" {ALARM:g} in at most one monitoring of {ALARM:g}, however long it goes on.</p>",
        html.picture(_curve(monitored), "png", "capital after each patient"),
        f"<p>{RESEARCH_USE}. {html.text(about['run'])}, model {about['model']}.</p>",
    ]
    return html.page("Monitoring", sections)


def _about(monitored: Monitored, about: Mapping[str, Any]) -> list[str]:
    now = monitored.periods[1]
    lines = [f"data: {about['data']}, {now.scans} scans of {now.patients} patients"]
    if monitored.no_retina:
        lines.append(f"{monitored.no_retina} pictures show no retina and were left out")
    return lines


def _bet_in_words(monitored: Monitored) -> str:
    if monitored.alarm_after is not None:
        return f"exchangeability test: alarm after {monitored.alarm_after} patients"
    return (
        f"exchangeability test: largest capital {monitored.capital.max():.2g}, alarm at {ALARM:g}"
    )


def _beside(monitored: Monitored) -> str:
    """A row for each figure: of the calibration scans, and of these."""
    before, now = monitored.periods[:2]
    shares = {"outliers": (before.outliers, now.outliers)}
    shares |= {
        f"referral: {word}": (share, now.referrals[word])
        for word, share in before.referrals.items()
    }
    shares |= {
        f"predicted {name}": (share, now.predicted[name])
        for name, share in before.predicted.items()
    }
    rows: list[Sequence[object]] = [
        ("scans", before.scans, now.scans),
        ("patients", before.patients, now.patients),
        *((name, *map(percent, both)) for name, both in shares.items()),
        ("classes in a prediction set, mean", f"{before.set_size:.2f}", f"{now.set_size:.2f}"),
    ]
    return html.table(("", "calibration scans", "these scans"), rows)


def _months(monitored: Monitored) -> list[str]:
    """A row for each month; nothing where no date is known."""
    months = monitored.periods[2:]
    if not months:
        return []
    words = list(months[0].referrals)
    head = ("month", "scans", "patients", "outliers", *words, "mean set size")
    rows = [
        (
            month.name,
            month.scans,
            month.patients,
            percent(month.outliers),
            *(f"{month.referrals[word][0]:.0%}" for word in words),
            f"{month.set_size:.2f}",
        )
        for month in months
    ]
    return ["<h2>By month</h2>", html.table(head, rows)]


def _curve(monitored: Monitored) -> bytes:
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.semilogy(range(1, len(monitored.capital) + 1), monitored.capital)
    axes.axhline(ALARM, color="#b3261e", linestyle="--", label="alarm")
    axes.set(xlabel="patients", ylabel="capital, from 1")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90)
    return out.getvalue()
