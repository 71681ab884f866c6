"""Reporting checklists filled from a run's own files, as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from oct_jax.reports import html
from oct_jax.reports.sheet.answer import Answer
from oct_jax.reports.sheet.items import CLAIM, TRIPOD_AI, Item
from oct_jax.runs.facts import RunFacts

_STYLE = """
.sheet table { table-layout: fixed; width: 100%; }
.sheet th, .sheet td { text-align: left; vertical-align: top; font-size: 13px; padding: .3rem .4rem;
  overflow-wrap: anywhere; }
.sheet th:nth-child(1) { width: 5%; } .sheet th:nth-child(2) { width: 16%; }
.sheet th:nth-child(4) { width: 17%; } .sheet th:nth-child(5) { width: 18%; }
.sheet .blank { color: #b3261e; font-style: italic; }
"""
BLANK = "**left blank**: the run's files do not say"
SOURCES = {
    "CLAIM 2024": (
        CLAIM,
        "Items in our words after Tejani et al. 2024, Radiology: Artificial Intelligence"
        " 6(4):e240300, doi:10.1148/ryai.240300; the published wording counts.",
    ),
    "TRIPOD+AI": (
        TRIPOD_AI,
        "Items in our words after Collins et al. 2024, BMJ 385:e078378,"
        " doi:10.1136/bmj-2023-078378; the published wording counts.",
    ),
}


class Row(NamedTuple):
    """An item with its answer; None where it is left blank."""

    item: Item
    answer: Answer | None


def fill(items: Sequence[Item], facts: RunFacts) -> list[Row]:
    """Every item with the answer that the run's files give."""
    return [Row(item, item.answer(facts) if item.answer else None) for item in items]


def counts(rows: Sequence[Row]) -> str:
    """How many items are answered, in part, and blank."""
    whole = sum(row.answer is not None and not row.answer.missing for row in rows)
    partly = sum(row.answer is not None and bool(row.answer.missing) for row in rows)
    return (
        f"{len(rows)} items: {whole} answered, {partly} in part, {len(rows) - whole - partly} left"
        " blank for people to fill in"
    )


def to_markdown(name: str, facts: RunFacts) -> str:
    """A checklist as Markdown."""
    items, source = SOURCES[name]
    rows = fill(items, facts)
    lines = [
        f"# {name}: run {facts.folder.name}",
        "",
        f"{source} {counts(rows)}. Places are files in the run folder.",
        "",
        "| item | asks for | answer | place | still missing |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def to_html(facts: RunFacts) -> str:
    """Both checklists as one page."""
    sections = [f"<h1>Reviewer's sheet: run {html.text(facts.folder.name)}</h1>"]
    if facts.config.synthetic:
        sections.append(html.verdict("SYNTHETIC: the model was trained on phantoms", good=False))
    for name, (items, source) in SOURCES.items():
        rows = fill(items, facts)
        cells = [[cell.replace("**", "").replace("`", "") for cell in _cells(row)] for row in rows]
        sections += [
            f"<h2>{html.text(name)}</h2><p>{html.text(source)} {html.text(counts(rows))}.</p>",
            _wide(html.table(("item", "asks for", "answer", "place", "still missing"), cells)),
        ]
    return html.page("Reviewer's sheet", sections)


def _cells(row: Row) -> list[str]:
    item, answer = row
    if answer is None:
        return [item.number, item.asks, BLANK, "", "all of it"]
    cells = [item.number, item.asks, answer.words, answer.place, answer.missing]
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]


def _wide(table: str) -> str:
    """A table of sentences: aligned to the left, in columns that fit the page, blanks marked."""
    blank = f"<td>{html.text(BLANK.replace('**', ''))}</td>"
    marked = table.replace(blank, blank.replace("<td>", '<td class="blank">'))
    return f'<style>{_STYLE}</style><div class="sheet">{marked}</div>'
