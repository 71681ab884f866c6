"""The pictures of an eye's page: evidence over the localizer, and probabilities over the volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from oct_jax.task import Task

_SIDE = 640
"""Of the localizer on the page, pixels."""
_OPACITY = 0.75
_FRAME, _TELLING, _OUTLINE = (150, 150, 150), (255, 255, 255), (0, 0, 0)
_FONT = cv2.FONT_HERSHEY_SIMPLEX

Picture = UInt8[np.ndarray, "_rows _columns 3"]
Evidence = Float32[np.ndarray, "bscans places"]


def evidence_on_localizer(
    localizer: UInt8[np.ndarray, "_height _width"],
    paths: Sequence[Float[np.ndarray, "_points 2"]],
    evidence: Evidence,
    telling: Mapping[int, int],
    laterality: str | None,
) -> Picture:
    """The localizer with the evidence along the line of every B-scan.

    Colour and opacity rise with the evidence, as in heatmaps, so that a line without evidence
    leaves the picture as it is. A thin frame shows the scanned field, white lines the B-scans that
    are shown large.

    Args:
      localizer: grey.
      paths: of each B-scan over the localizer, pixels (x, y).
      evidence: of each B-scan, in [0, 1].
      telling: of the B-scans that are shown large, row in `paths` to number.
      laterality: R or L draws the letters of the temporal and the nasal side.
    """
    zoom = _SIDE / max(localizer.shape)
    size = tuple(max(1, round(side * zoom)) for side in localizer.shape[::-1])
    grey = cv2.resize(localizer, size, interpolation=cv2.INTER_AREA)
    canvas = np.repeat(grey[..., None], 3, axis=2)
    drawn = [(path + 0.5) * zoom for path in paths]
    strength = np.zeros(grey.shape, np.float32)
    width = _line_width(drawn)
    for path, values in zip(drawn, evidence, strict=True):
        _draw_evidence(strength, path, values, width)
    canvas = _tint(canvas, strength)
    for path in (drawn[0], drawn[-1]):
        _polyline(canvas, path, _FRAME)
    for row, number in telling.items():
        _polyline(canvas, drawn[row], _TELLING)
        x, y = np.rint(drawn[row][-1]).astype(int)
        cv2.putText(canvas, str(number), (int(x) + 4, int(y) + 4), _FONT, 0.45, _TELLING, 1, 16)
    if laterality is not None:
        _letters(canvas, laterality)
    return canvas


def evidence_map(evidence: Evidence, telling: Mapping[int, int]) -> Picture:
    """The evidence without a localizer: a row for each B-scan, the first at the top."""
    rows = max(2, min(12, 400 // len(evidence)))
    strength = np.repeat(np.repeat(evidence, rows, axis=0), 8, axis=1)
    canvas = _tint(np.full((*strength.shape, 3), 40, np.uint8), strength)
    for row, number in telling.items():
        y = row * rows + rows // 2
        cv2.putText(canvas, str(number), (4, y + 4), _FONT, 0.4, _TELLING, 1, 16)
        cv2.line(canvas, (30, y), (canvas.shape[1] - 1, y), _TELLING, 1)
    return canvas


def probability_strip(
    probabilities: Float[np.ndarray, "bscans classes"],
    numbers: Sequence[int],
    central: Sequence[bool],
    telling: Sequence[int],
    task: Task,
) -> str:
    """An SVG of stacked probabilities, a column for each B-scan.

    Args:
      probabilities: of each readable B-scan.
      numbers: of those in the acquisition.
      central: whether each lies in the middle.
      telling: numbers of the B-scans that are shown large.
      task: that the classes are of.
    """
    width, height, first, last = 900.0, 120.0, min(numbers), max(numbers)
    step = width / (last - first + 1)
    parts = [f'<rect width="{width:.0f}" height="{height:.0f}" fill="#eee"/>']
    for row, number in zip(probabilities, numbers, strict=True):
        left, top = (number - first) * step, 0.0
        for share, colour in zip(row, task.colours, strict=True):
            tall = float(share) * height
            parts.append(
                f'<rect x="{left:.2f}" y="{top:.2f}" width="{step + 0.3:.2f}"'
                f' height="{tall:.2f}" fill="{colour}"/>'
            )
            top += tall
    middle = [number for number, inside in zip(numbers, central, strict=True) if inside]
    if middle:
        start, end = (min(middle) - first) * step, (max(middle) - first + 1) * step
        parts.append(
            f'<rect x="{start:.2f}" y="{height + 4:.0f}" width="{end - start:.2f}" height="4"'
            ' fill="#444"/>'
        )
    for number in telling:
        place = (number - first + 0.5) * step
        where = f'x="{place:.1f}" y="{height + 26:.0f}"'
        parts.append(f'<text {where} text-anchor="middle">&#9650;{number}</text>')
    return (
        f'<svg viewBox="0 0 {width:.0f} {height + 30:.0f}" role="img" font-size="13"'
        ' font-family="sans-serif" aria-label="probabilities of each B-scan">'
        f"{''.join(parts)}</svg>"
    )


def _draw_evidence(strength: np.ndarray, path: np.ndarray, values: np.ndarray, width: int) -> None:
    points = _along(path, len(values))
    ends = np.concatenate([points[:1], (points[1:] + points[:-1]) / 2, points[-1:]])
    line = np.zeros_like(strength)
    for (start, end), value in zip(
        pairwise(np.rint(ends).astype(int).tolist()), values, strict=True
    ):
        cv2.line(line, start, end, float(value), width)
    np.maximum(strength, line, out=strength)


def _along(path: np.ndarray, count: int) -> np.ndarray:
    """`count` points at equal distances along a polyline."""
    lengths = np.concatenate([[0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])
    wanted = np.linspace(0, lengths[-1], count)
    return np.stack([np.interp(wanted, lengths, path[:, axis]) for axis in (0, 1)], axis=1)


def _line_width(paths: Sequence[np.ndarray]) -> int:
    """As wide as neighbouring lines are apart, at most twelve pixels."""
    if len(paths) < 2:
        return 6
    apart = np.median([np.linalg.norm(a[0] - b[0]) for a, b in pairwise(paths)])
    return int(np.clip(round(float(apart)), 2, 12))


def _tint(canvas: np.ndarray, strength: np.ndarray) -> Picture:
    levels = np.rint(np.clip(strength, 0, 1) * 255).astype(np.uint8)
    colour = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = (_OPACITY * np.clip(strength, 0, 1))[..., None]
    return np.rint(canvas * (1 - opacity) + colour * opacity).astype(np.uint8)


def _polyline(canvas: np.ndarray, path: np.ndarray, ink: tuple[int, int, int]) -> None:
    cv2.polylines(canvas, [np.rint(path).astype(np.int32)], False, ink, 1, cv2.LINE_AA)


def _letters(canvas: np.ndarray, laterality: str) -> None:
    left, right = ("T", "N") if laterality == "R" else ("N", "T")
    height, width = canvas.shape[:2]
    for letter, x in ((left, 8), (right, width - 22)):
        for ink, thickness in ((_OUTLINE, 4), (_TELLING, 1)):
            cv2.putText(canvas, letter, (x, height // 2), _FONT, 0.6, ink, thickness, 16)
