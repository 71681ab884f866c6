"""The faithfulness report for people: its text, its curves and its page of maps."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import to_input_coordinates
from oct_jax.data.scans import Scans
from oct_jax.reports.faithfulness import MAPS, NOISE, ROAD_SHARES, Tested, lesions_over_input
from oct_jax.reports.overlay import RESEARCH_USE, overlay
from oct_jax.reports.picture import contact_sheet

_SHEET = 24


def to_markdown(figures: dict[str, Any]) -> str:
    """The report for people."""
    title = "# Are the explanations faithful?"
    kind = "SYNTHETIC phantoms" if figures["synthetic"] else "scans"
    lines = [
        title,
        "",
        f"{figures['method']}{', flip-averaged' if figures['flip'] else ''}; {figures['scans']}"
        f" {kind} of {figures['patients']} patients that the model was not trained on; it is right"
        f" on {figures['accuracy']:.1%}; {figures['empty_maps']} empty maps. Means over scans; 95 %"
        " bootstrap intervals draw patients.",
        "",
        f"**{'PASSED' if figures['passed'] else 'NOT PASSED'}**",
        "",
        *(f"- {'yes' if holds else 'NO'}: {name}" for name, holds in figures["criteria"].items()),
        "",
        f"| area under the curve | {' | '.join(MAPS)} |",
        "|---" * (len(MAPS) + 1) + "|",
    ]
    better = {"deletion": "lower", "insertion": "higher", "road": "lower"}
    for test, by_kind in figures["areas"].items():
        lines.append(f"| {test} ({better[test]} is better) | {_row(by_kind.values())} |")
    lines += ["", f"| the map is better by | {' | '.join(f'than {k}' for k in MAPS[1:])} |"]
    lines += ["|---" * len(MAPS) + "|"]
    lines += [f"| {test} | {_row(by.values())} |" for test, by in figures["advantage"].items()]
    lines += [
        f"| {test}, where there is a lesion | {_row(by.values())} |"
        for test, by in figures["advantage_on_lesions"].items()
    ]
    lines += ["", "| weights randomised | rank correlation with the true map |", "|---|---|"]
    lines += [f"| {part} | {_row([value])} |" for part, value in figures["randomised"].items()]
    lines += [
        "",
        f"Relative change of the map under noise of {NOISE:.0%}: {_row([figures['noise']])}.",
    ]
    if figures["lesions"]:
        names = list(figures["lesions"]["map"])
        lines += ["", f"| lesions | {' | '.join(n.replace('_', ' ') for n in names)} |"]
        lines += ["|---" * (len(names) + 1) + "|"]
        lines += [
            f"| {kind} | {_row(by_name[name] for name in names)} |"
            for kind, by_name in figures["lesions"].items()
        ]
    return "\n".join([*lines, "", RESEARCH_USE, ""])


def draw_curves(tested: Tested) -> bytes:
    """Mean curves of deletion, insertion and ROAD, as a PNG file."""
    from matplotlib.figure import Figure  # only reports need it

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (test, by_kind) in zip(
        figure.subplots(1, len(tested.curves), sharey=True), tested.curves.items(), strict=True
    ):
        for kind, rows in by_kind.items():
            shares = (0, *ROAD_SHARES) if test == "road" else np.linspace(0, 1, rows.shape[1])
            axes.plot(shares, rows.mean(0), label=kind)
        axes.set(title=test, xlabel="share of the scan", ylim=(0, 1))
    figure.axes[0].set_ylabel("probability of the target")
    figure.axes[0].legend()
    if tested.figures["synthetic"]:
        figure.suptitle("SYNTHETIC")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    return buffer.getvalue()


def draw_sheet(tested: Tested, scans: Scans, classifier: Classifier) -> np.ndarray:
    """Maps of up to 24 scans on one page, lesions outlined in white."""
    shown = np.linspace(0, len(tested.cells) - 1, min(_SHEET, len(tested.cells))).astype(int)
    lesions = lesions_over_input(scans.take(shown.tolist()), classifier.preprocess)
    tiles, captions, classes = [], [], classifier.task.classes
    for number, index in enumerate(shown.tolist()):
        scan = scans.read_resized(index, classifier.preprocess)
        heat = to_input_coordinates(tested.cells[index], tested.grid, len(scan))
        tile = overlay(scan, heat)
        tiles.append(tile if lesions is None else _outlined(tile, lesions[number]))
        target = tested.targets[index]
        captions.append(f"explains {classes[target]}; is {scans.records[index].label}")
    return contact_sheet(tiles, captions, synthetic=classifier.synthetic)


def _outlined(tile: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    outlines, _ = cv2.findContours(
        lesion.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    return cv2.drawContours(tile.copy(), outlines, -1, (255, 255, 255), 1)


def _row(values: Iterable[Sequence[float]]) -> str:
    return " | ".join(f"{mean:.3f} ({low:.3f}..{high:.3f})" for mean, low, high in values)
