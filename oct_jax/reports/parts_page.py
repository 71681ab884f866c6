"""Figures of parts for people: by column of the manifest, and by eye."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from oct_jax.reports import html

FEW_PATIENTS = 30
"""Below so many an interval says little, and the page says so."""
_REFERRAL = ("deferred", "urgent missed", "tier accuracy when answered")


def with_interval(figure: Mapping[str, Any]) -> str:
    """A figure and its interval, as on every page."""
    if figure["value"] is None:
        return "-"
    if figure["interval"] is None:
        return f"{figure['value']:.3f}"
    low, high = figure["interval"]
    return f"{figure['value']:.3f} ({low:.3f}-{high:.3f})"


def part_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The same for the terminal."""
    eyes = report.get("eyes")
    if eyes:
        yield f"by eye: {_size(eyes, 'eye')}{_certainty(eyes)}"
        yield f"  {_figures(eyes)}"
        if eyes["patients"] < FEW_PATIENTS:
            yield f"  {_few(eyes['patients'])}"
    for column, parts in (report.get("by_column") or {}).items():
        yield f"by {column}:"
        for value, part in parts.items():
            yield f"  {value}: {_size(part, 'scan')}; {_figures(part)}"


def part_sections(report: Mapping[str, Any]) -> Iterator[str]:
    """The same for the page."""
    if report.get("eyes"):
        yield from _eyes(report["eyes"])
    for column, parts in (report.get("by_column") or {}).items():
        yield f"<h2>By {html.text(column)}</h2>"
        shown = [
            name
            for name in next(iter(parts.values()))["figures"]
            if any(part["figures"][name]["value"] is not None for part in parts.values())
        ]
        rows = [
            (value, part["count"], part["patients"], *_cells(part, shown))
            for value, part in parts.items()
        ]
        yield html.table((column, "scans", "patients", *shown), rows)


def _eyes(eyes: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>By eye</h2>"
    words = f"{_size(eyes, 'eye')}{_certainty(eyes)}."
    if eyes["patients"] < FEW_PATIENTS:
        words += f" {_few(eyes['patients'])}."
    yield f"<p>{html.text(words)}</p>"
    shown = [name for name, figure in eyes["figures"].items() if figure["value"] is not None]
    yield html.table(("figure", "value (95 %)"), list(zip(shown, _cells(eyes, shown), strict=True)))
    names, rows = eyes["confusion"]["names"], eyes["confusion"]["rows"]
    yield "<p>rows: label; columns: prediction</p>"
    yield html.table(("", *names), [(n, *row) for n, row in zip(names, rows, strict=True)])


def _cells(part: Mapping[str, Any], names: list[str]) -> list[str]:
    return [with_interval(part["figures"][name]) for name in names]


def _size(part: Mapping[str, Any], what: str) -> str:
    return f"{_counted(part['count'], what)} of {_counted(part['patients'], 'patient')}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _certainty(eyes: Mapping[str, Any]) -> str:
    return ", calibrated by eye" if eyes["calibrated"] else ", certainty not calibrated"


def _few(patients: int) -> str:
    verb = "is" if patients == 1 else "are"
    return f"{_counted(patients, 'patient')} {verb} few: the intervals say how little that shows"


def _figures(part: Mapping[str, Any]) -> str:
    names = ["accuracy", *(name for name in _REFERRAL if name in part["figures"])]
    return ", ".join(
        f"{name} {with_interval(part['figures'][name])}"
        for name in names
        if part["figures"][name]["value"] is not None
    )
