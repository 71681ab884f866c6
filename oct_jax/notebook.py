"""A small card of HTML for notebooks: a picture, a title, lines, and a bar for each class."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

LARGEST_SIDE = 256
"""Of the picture in a card, pixels."""

_CARD = "display:flex;gap:1em;align-items:flex-start;font:13px system-ui,sans-serif"
_BAR = "display:inline-block;height:.7em;background:#d2691e"
_CELL = "font:13px system-ui,sans-serif;text-align:left;padding:0 .6em 0 0;border:0"


def card(
    title: str,
    lines: Sequence[str],
    shares: Mapping[str, float],
    picture: UInt8[np.ndarray, "..."] | None,
) -> str:
    """A card as HTML, its picture an inline PNG of at most 256 pixels a side.

    Args:
      title: in large letters.
      lines: below it.
      shares: of each name, in [0, 1].
      picture: uint8 of shape (rows, columns) grey or (rows, columns, 3) RGB; None for none.
    """
    rows = "".join(
        f'<tr><td style="{_CELL}">{html.escape(name)}</td><td style="{_CELL}">{share:.1%}</td>'
        f'<td style="{_CELL}"><span style="{_BAR};width:{share * 8:.2f}em"></span></td></tr>'
        for name, share in shares.items()
    )
    below = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    text = f"<div><b>{html.escape(title)}</b>{below}<table>{rows}</table></div>"
    shown = "" if picture is None else _inline(picture, title)
    return f'<div style="{_CARD}">{shown}{text}</div>'


def _inline(picture: np.ndarray, words: str) -> str:
    factor = LARGEST_SIDE / max(picture.shape[:2])
    if factor < 1:
        rows, columns = (max(1, round(side * factor)) for side in picture.shape[:2])
        picture = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    data = base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'
