"""Self-contained pages: style and pictures inside, readable on paper."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; } .scroll { overflow-x: auto; }
th, td { padding: .2rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr { border-bottom: 1px solid #ccc; }
img { max-width: 100%; break-inside: avoid; } figure { margin: .5rem 0; break-inside: avoid; }
.verdict { padding: .6rem 1rem; border-left: 6px solid; font-weight: 600; }
.bad { border-color: #b3261e; } .good { border-color: #2e7d32; }
code { background: #f1f1f1; padding: .1rem .3rem; } li { overflow-wrap: anywhere; }
@media (max-width: 40rem) { th, td { padding: .2rem .4rem; } }
@media print { .scroll { overflow: visible; } body { margin: 0; font-size: 11px; } }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """A whole page of sections that are HTML already."""
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style>\n<body>\n{body}\n</body></html>\n"
    )


def text(words: object) -> str:
    """Words as HTML; bytes of a file's name that are not UTF-8 become question marks."""
    return html.escape(str(words).encode("utf-8", "replace").decode())


def items(lines: Iterable[str]) -> str:
    """A list of lines."""
    return "<ul>" + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul>"


def verdict(line: str, *, good: bool) -> str:
    """A line that is seen first."""
    return f'<p class="verdict {"good" if good else "bad"}">{text(line)}</p>'


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table of words and numbers, as they are."""
    cells = "".join(f"<th>{text(cell)}</th>" for cell in head)
    lines = [f"<tr>{cells}</tr>"]
    lines += ["<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def picture(data: bytes, kind: str, words: str = "") -> str:
    """A picture (`png` or `jpeg`) with words for those who cannot see it."""
    encoded = base64.b64encode(data).decode()
    source = f"data:image/{kind};base64,{encoded}"
    return f'<figure><img alt="{text(words)}" src="{source}"></figure>'
