"""The page of an explained eye, and the page of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from oct_jax.data.readers import UnreadableScan
from oct_jax.data.volumes import Volume
from oct_jax.decision.referral import NOT_REFERRED, WORDS
from oct_jax.eye import EyeExplanation, EyePrediction
from oct_jax.reports import html
from oct_jax.reports.eye_pictures import evidence_map, evidence_on_localizer, probability_strip
from oct_jax.reports.overlay import RESEARCH_USE, overlay

NOT_CALIBRATED = (
    "The certainty of this answer is not calibrated: no labelled eyes were at hand. Probabilities"
    " are the model's own, made for single scans through the fovea, and the limits of the referral"
    " are fixed and cautious."
)
_SIDES = {"R": "Right eye", "L": "Left eye", None: "Eye (side not given)"}
_COLOURS = {"urgent": "#b3261e", "routine": "#a86400", "observe": "#2e7d32", "defer": "#555"}
_STYLE = """<style>
.answer { border-left: 8px solid; padding: .3rem 1rem; margin: 1rem 0; }
.answer b { font-size: 1.7rem; } .answer .then { font-size: 1.2rem; font-weight: 600; }
.side { display: flex; gap: 1.5rem; flex-wrap: wrap; align-items: flex-start; }
.side figure { flex: 1 1 22rem; max-width: 34rem; } .side > div { flex: 1 1 16rem; }
.bar { display: inline-block; height: .8rem; vertical-align: middle; }
.key span { display: inline-block; width: .9rem; height: .9rem; margin: 0 .3rem 0 .9rem;
  vertical-align: -2px; } .small { color: #555; font-size: .85rem; } svg { width: 100%; }
td:nth-child(2), .eyes td, .eyes th { text-align: left; } .caution { color: #8a4b00; }
</style>"""


def eye_page(
    volume: Volume,
    explanation: EyeExplanation,
    marks: Sequence[str],
    doubts: Mapping[int, Sequence[str]],
    facts: Sequence[tuple[str, str]],
) -> str:
    """The page of one eye, pictures inside.

    Args:
      volume: of the eye; its localizer and the telling B-scans are read again.
      explanation: of the eye.
      marks: cautions for the whole page.
      doubts: cautions for the heatmap of each telling B-scan, by its index in the volume.
      facts: of the run, as rows of a table.
    """
    prediction = explanation.prediction
    title = f"{volume.name}: {prediction.label}, {advice(prediction)}"
    return html.page(
        title,
        [
            _STYLE,
            f"<h1>{html.text(volume.name)}: {_SIDES[volume.laterality]}</h1>",
            _answer(prediction),
            _lines(marks, "caution"),
            '<div class="side">',
            _where(volume, explanation),
            f"<div>{_probabilities(prediction)}{_facts(volume, prediction, facts)}</div></div>",
            *_strip(volume, explanation),
            *_telling(volume, explanation, doubts),
            f'<p class="small">{RESEARCH_USE}.</p>',
        ],
    )


def eyes_page(rows: Sequence[Mapping[str, Any]], failed: Sequence[str]) -> str:
    """The page of many eyes, as the rows are ordered.

    Args:
      rows: of each eye: name, link, laterality, label, probability, referral, reason.
      failed: volumes that could not be explained, a line each.
    """
    head = "".join(f"<th>{name}</th>" for name in ("referral", "eye", "side", "label", "", "why"))
    lines = [
        f'<tr><td style="color:{_COLOURS.get(row["referral"], "#555")}">'
        f"<b>{html.text(row['advice'])}</b></td>"
        f'<td><a href="{html.text(row["link"])}">{html.text(row["name"])}</a></td>'
        f"<td>{row['laterality'] or ''}</td><td>{html.text(row['label'])}</td>"
        f"<td>{row['probability']:.0%}</td><td>{html.text(row['reason'])}</td></tr>"
        for row in rows
    ]
    return html.page(
        f"{len(rows)} eyes by urgency",
        [
            _STYLE,
            f"<h1>{len(rows)} eyes by urgency</h1>",
            f'<table class="eyes"><tr>{head}</tr>{"".join(lines)}</table>',
            _lines(failed, "caution"),
            f'<p class="small">{RESEARCH_USE}.</p>',
        ],
    )


def advice(prediction: EyePrediction) -> str:
    """The referral in words."""
    return NOT_REFERRED if prediction.referral is None else WORDS[prediction.referral]


def _answer(prediction: EyePrediction) -> str:
    colour = _COLOURS.get(prediction.referral or "", "#555")
    certainty = (
        "Calibrated on labelled eyes." if prediction.calibrated else html.text(NOT_CALIBRATED)
    )
    label, then = html.text(prediction.label), html.text(advice(prediction))
    if prediction.referral == "defer":
        label, then = then, f"likeliest class: {label} {prediction.probabilities.max():.0%}"
    return (
        f'<div class="answer" style="border-color:{colour}"><b>{label}</b>'
        f' &nbsp; <span class="then" style="color:{colour}">{then}</span>'
        f"<br>{html.text(prediction.reason)}</div>"
        f'<p class="small">{certainty}</p>'
    )


def _where(volume: Volume, explanation: EyeExplanation) -> str:
    """The evidence over the localizer, or over nothing where there is none."""
    indices = explanation.prediction.indices
    row_of = {index: row for row, index in enumerate(indices)}
    telling = {row_of[index]: volume.numbers[index] for index, _ in explanation.telling}
    localizer = None
    if volume.localizer is not None and volume.paths:
        try:
            localizer = volume.localizer.read()
        except UnreadableScan:
            localizer = None
    if localizer is not None:
        paths = [volume.paths[index] for index in indices]
        picture = evidence_on_localizer(
            localizer, paths, explanation.evidence, telling, volume.laterality
        )
        caption = "along its B-scan lines, over the localizer"
    else:
        picture = evidence_map(explanation.evidence, telling)
        caption = "in each B-scan, the first at the top (the file has no localizer with positions)"
    words = f"Evidence for {explanation.target} {caption}"
    caption = (
        f'<figcaption class="small">{html.text(words)}: the heatmap times the probability, from'
        " nothing (clear) to full (yellow). White lines: B-scans shown below.</figcaption>"
    )
    figure = html.picture(_jpeg(picture), "jpeg", words)
    return figure.replace("</figure>", f"{caption}</figure>")


def _probabilities(prediction: EyePrediction) -> str:
    rows = "".join(
        f"<tr><td>{html.text(name)}</td><td>"
        f'<span class="bar" style="width:{8 * float(share):.2f}rem;background:{colour}"></span>'
        f" {float(share):.1%}</td></tr>"
        for name, share, colour in zip(
            prediction.task.classes, prediction.probabilities, prediction.task.colours, strict=True
        )
    )
    return f"<table>{rows}</table><p class='small'>over {html.text(prediction.field.words)}</p>"


def _facts(volume: Volume, prediction: EyePrediction, facts: Sequence[tuple[str, str]]) -> str:
    spacing = volume.spacing
    rows = [
        ("device", volume.device or "not given"),
        ("format", volume.format),
        ("grey levels", volume.transform),
        ("B-scans", f"{len(prediction.scans)} read of {len(volume)}"),
        (
            "pixels",
            "size not given"
            if spacing is None
            else f"{spacing[0]:.2f} µm axial, {spacing[1]:.1f} µm lateral",
        ),
        *facts,
    ]
    problems = [*volume.missing, *prediction.unreadable]
    return html.table(("", ""), rows) + (_lines(problems, "caution") if problems else "")


def _strip(volume: Volume, explanation: EyeExplanation) -> list[str]:
    prediction = explanation.prediction
    numbers = [volume.numbers[index] for index in prediction.indices]
    strip = probability_strip(
        np.stack([scan.probabilities for scan in prediction.scans]),
        numbers,
        [bool(prediction.field.central[index]) for index in prediction.indices],
        [volume.numbers[index] for index, _ in explanation.telling],
        prediction.task,
    )
    key = "".join(
        f'<span style="background:{colour}"></span>{html.text(name)}'
        for name, colour in zip(prediction.task.classes, prediction.task.colours, strict=True)
    )
    return [
        "<h2>Over the volume</h2>",
        f'<p class="key">B-scan {min(numbers)} (left) to {max(numbers)}: {key}</p>',
        strip,
        '<p class="small">The bar below the columns: B-scans that the answer is taken from.</p>',
    ]


def _telling(
    volume: Volume, explanation: EyeExplanation, doubts: Mapping[int, Sequence[str]]
) -> list[str]:
    task, eye = explanation.prediction.task, explanation.prediction
    heading = f"B-scans most like {explanation.target}"
    if eye.label != explanation.target:
        likely = float(eye.probabilities[task.index(explanation.target)])
        heading += f", the likeliest disease of this eye ({likely:.1%})"
    parts = [f"<h2>{html.text(heading)}</h2>"]
    index_of = task.index(explanation.target)
    for index, one in explanation.telling:
        share = float(one.prediction.probabilities[index_of])
        words = f"B-scan {volume.numbers[index]}: {explanation.target} {share:.0%}"
        if one.prediction.label != explanation.target:
            words += f", {one.prediction.label} {one.prediction.probabilities.max():.0%}"
        scan = volume.read(index)
        marked = overlay(scan, one.heatmap * np.float32(share))
        pair = np.concatenate([np.repeat(scan[..., None], 3, 2), marked], 1)
        parts.append(f"<h3>{html.text(words)}</h3>")
        parts.append(html.picture(_jpeg(_narrowed(pair)), "jpeg", words))
        parts.append(_lines(doubts.get(index, ()), "caution"))
    return parts


def _lines(lines: Sequence[str], kind: str) -> str:
    return "".join(f'<p class="{kind}">{html.text(line)}</p>' for line in lines)


def _narrowed(picture: np.ndarray) -> np.ndarray:
    factor = min(1.0, 1600 / picture.shape[1])
    size = (round(picture.shape[1] * factor), max(1, round(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if factor < 1 else picture


def _jpeg(picture: np.ndarray) -> bytes:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
