"""The page of one explained scan: heatmap over the scan, scores, referral, and every caution.

Drawn by OpenCV and Pillow: Matplotlib would double the time to the first page.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from oct_jax.arrays import ScanArray
from oct_jax.explain.drawing import Picture, encode_png, overlay
from oct_jax.explanation import Explanation
from oct_jax.prediction import RESEARCH_USE, Prediction, advice, certainty

__all__ = ["RESEARCH_USE", "advice", "certainty", "encode_png", "overlay", "page"]

_BACKGROUND, _INK, _FAINT, _WARNING = (24, 24, 28), (236, 236, 236), (150, 150, 155), (255, 196, 0)
_BAR, _CHOSEN = (92, 92, 100), (238, 120, 60)
_PANEL_WIDTH, _PANEL_HEIGHT, _MARGIN, _LINE = 300, 400, 14, 17
_SMALLEST_SIDE, _LARGEST_SIDE = 160, 4096
_MOST_CLASSES, _NAME_LETTERS = 10, 9


def page(scan: ScanArray, explanation: Explanation, marks: Sequence[str]) -> Picture:
    """The scan in its own resolution under its heatmap, beside a panel of what the model says.

    Very small scans are enlarged by a whole factor, and those with a side above 4096 pixels are
    reduced to it; the panel grows with large ones.

    Args:
      scan: grey, of the explanation's `scan_shape`.
      explanation: of the scan.
      marks: cautions, a line each.
    """
    shown, explanation = _reduced(scan, explanation)
    picture = overlay(shown, explanation.heatmap)
    zoom = max(1, min(_SMALLEST_SIDE // min(shown.shape), _LARGEST_SIDE // max(shown.shape)))
    picture = picture.repeat(zoom, 0).repeat(zoom, 1)
    scale = max(1.0, picture.shape[0] / 600)
    panel = _panel(explanation, marks, scale)
    height = max(picture.shape[0], panel.height)
    canvas = Image.new("RGB", (picture.shape[1] + panel.width, height), _BACKGROUND)
    canvas.paste(Image.fromarray(picture))
    canvas.paste(panel, (picture.shape[1], 0))
    return np.array(canvas)


def _reduced(
    scan: UInt8[np.ndarray, "_height _width"], explanation: Explanation
) -> tuple[UInt8[np.ndarray, "_height _width"], Explanation]:
    """Both on fewer pixels, where the scan has more than a page can show."""
    factor = _LARGEST_SIDE / max(scan.shape)
    if factor >= 1:
        return scan, explanation
    height, width = (max(1, round(side * factor)) for side in scan.shape)
    smaller = cv2.resize(scan, (width, height), interpolation=cv2.INTER_AREA)
    where = explanation.geometry.of_resized((height, width))
    return smaller, dataclasses.replace(explanation, geometry=where)


def _panel(explanation: Explanation, marks: Sequence[str], scale: float) -> Image.Image:
    prediction = explanation.prediction
    wrapped = [line for mark in marks for line in textwrap.wrap(mark, 44)]
    shown = _most_probable(prediction)
    below = 96 + 24 * len(shown)
    height = _PANEL_HEIGHT + 24 * max(0, len(shown) - 4) + max(0, len(wrapped) - 4) * _LINE
    image = Image.new("RGB", (round(_PANEL_WIDTH * scale), round(height * scale)), _BACKGROUND)
    draw = ImageDraw.Draw(image)

    def write(row: float, text: str, size: int = 13, ink: tuple[int, int, int] = _INK) -> None:
        draw.text((_MARGIN * scale, row * scale), text, ink, _font(size, scale))

    def box(left: float, top: float, width: float, tall: float, fill: tuple[int, int, int]) -> None:
        corners = (left * scale, top * scale, (left + width) * scale, (top + tall) * scale)
        draw.rectangle(corners, fill)

    share = float(prediction.probabilities.max())
    write(10, f"{prediction.label}  {share:.1%}", 24)
    write(44, advice(prediction), 17)
    write(68, certainty(prediction), 12, _FAINT)
    for number, (name, probability) in enumerate(shown):
        row = 96 + 24 * number
        write(row, textwrap.shorten(name, _NAME_LETTERS, placeholder="...") or name[:_NAME_LETTERS])
        box(86, row + 2, 130, 12, _BAR)
        if probability > 0:
            box(86, row + 2, 130 * probability, 12, _CHOSEN)
        draw.text((226 * scale, row * scale), f"{probability:.1%}", _INK, _font(13, scale))
    write(below + 12, f"evidence for {explanation.target} ({explanation.method})")
    _scale_bar(image, below + 36, scale)
    write(below + 52, "none", 12, _FAINT)
    right = ((_PANEL_WIDTH - _MARGIN) * scale, (below + 52) * scale)
    draw.text(right, "this scan's peak", _FAINT, _font(12, scale), anchor="ra")
    for number, line in enumerate(wrapped):
        write(below + 82 + _LINE * number, line, 12, _WARNING)
    write(height - 30, RESEARCH_USE, 12)
    return image


def _most_probable(prediction: Prediction) -> list[tuple[str, float]]:
    """The classes that the panel has room for, in the task's order, with their probabilities."""
    chosen = sorted(np.argsort(-prediction.probabilities, kind="stable")[:_MOST_CLASSES])
    return [(prediction.task.classes[i], float(prediction.probabilities[i])) for i in chosen]


def _scale_bar(image: Image.Image, row: float, scale: float) -> None:
    """The colours as they look over mid-grey, from 0 to 1."""
    width, tall = round((_PANEL_WIDTH - 2 * _MARGIN) * scale), round(12 * scale)
    ramp = np.tile(np.linspace(0, 1, width, dtype=np.float32), (tall, 1))
    bar = overlay(np.full((tall, width), 96, np.uint8), ramp)
    image.paste(Image.fromarray(bar), (round(_MARGIN * scale), round(row * scale)))


def _font(size: int, scale: float):
    return ImageFont.load_default(size * scale)
