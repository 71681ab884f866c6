"""The part of the explanation report on lesions that people outlined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import geometry, resize_scan, to_input_coordinates
from oct_jax.explain.faithfulness import TOLERANCE, patient_interval
from oct_jax.explain.gradcam import (
    Method,
    explain_all,
    make_explain,
)
from oct_jax.explain.outlines import (
    FIGURES,
    OutlinedScan,
    agreement,
    compare,
    over_input,
    read_outlines,
)
from oct_jax.model.inference import batch_slices
from oct_jax.model.protocol import Variables
from oct_jax.reports.doubts import DOUBTS, doubts_of


def examine_outlines(
    classifier: Classifier,
    masks: Path,
    lesion: str,
    method: Method,
    *,
    flip: bool,
    seed: int,
) -> dict[str, Any]:
    """How well the maps of every class find the outlined lesions; intervals draw patients.

    Args:
      classifier: whose maps are tested.
      masks: see `oct_jax.explain.outlines`.
      lesion: the class that the lesions belong to.
      method: of the maps.
      flip: average each map with the mirrored scan's.
      seed: of random weights, of ties and of the intervals.

    Returns:
      JSON values: `maps` has a row for each class, for random weights, and for the lesion's class
      on the smaller and the larger half of the lesions; `doubts` has, for each mark of
      `oct_jax.reports.doubts`, how many maps of the lesion's class have it and how often the peak
      of those is off the lesion, beyond the tolerance.

    Raises:
      UserError: see `read_outlines`.
    """
    scans = read_outlines(masks)
    size = classifier.preprocess.size
    inputs = np.stack([resize_scan(one.scan, classifier.preprocess) for one in scans])
    lesions = np.stack(
        [over_input(one.lesion, geometry(one.scan, classifier.preprocess), size) for one in scans]
    )
    shown = lesions.any((1, 2))  # a crop may leave a lesion out
    scans = [scans[index] for index in np.flatnonzero(shown)]
    inputs, lesions = inputs[shown], lesions[shown]
    grid = classifier.grid_of(method, flip=flip)
    program = make_explain(classifier.model, classifier.preprocess, method, flip=flip)

    def rows_of(variables: Variables, target: str) -> Float[np.ndarray, "scans figures"]:
        targets = np.full(len(inputs), classifier.task.index(target), np.int32)
        batches = [(inputs[rows], targets[rows]) for rows in batch_slices(len(inputs))]
        cells = np.asarray(explain_all(program, variables, batches).maps)
        rng = np.random.default_rng(seed)
        heats = (to_input_coordinates(one, grid, size) for one in cells)
        return np.array(
            [
                compare(heat, mask, round(TOLERANCE * size), rng)
                for heat, mask in zip(heats, lesions, strict=True)
            ],
            np.float64,
        )

    fresh = Variables(
        jax.tree.map(np.asarray, classifier.model.init(seed).params), classifier.variables.stats
    )
    own = rows_of(classifier.variables, lesion)
    rows = {f"{lesion} (the lesions' class)": own}
    rows |= {
        name: rows_of(classifier.variables, name)
        for name in classifier.task.classes
        if name != lesion
    }
    rows["random weights"] = rows_of(fresh, lesion)
    everyone = np.ones(len(scans), bool)
    parts = dict.fromkeys(rows, everyone)
    large = own[:, FIGURES.index("lesion_area")] > np.median(own[:, FIGURES.index("lesion_area")])
    for name, chosen in (("smaller lesions", ~large), ("larger lesions", large)):
        if chosen.any():
            rows[name], parts[name] = own, chosen
    explanations = classifier.explain([one.scan for one in scans], lesion, method, flip)
    doubts = doubts_of(classifier, explanations, list(inputs), flip=flip)
    return {
        "folder": str(masks),
        "lesion": lesion,
        "scans": len(scans),
        "patients": len({one.patient for one in scans}),
        "graders_dice": agreement(scans),
        "maps": {name: _figures(rows[name], scans, parts[name], seed) for name in rows},
        "doubts": _off_by_doubt(doubts, own[:, FIGURES.index("pointing_game")] == 0, scans, seed),
    }


def outlines_markdown(outlines: dict[str, Any]) -> str:
    """The same for people."""
    graders = outlines["graders_dice"]
    between = "" if graders is None else f" The graders agree with a Dice of {graders:.2f}."
    lines = [
        "",
        f"## {outlines['lesion']} lesions outlined in {outlines['folder']}",
        "",
        f"{outlines['scans']} scans of {outlines['patients']} patients; a pixel that any grader"
        f" outlined is lesion.{between} Dice is of the lesion and as many of the map's highest"
        " pixels. 95 % bootstrap intervals draw patients.",
        "",
        f"| map | {' | '.join(name.replace('_', ' ') for name in FIGURES)} |",
        "|---" * (len(FIGURES) + 1) + "|",
    ]
    for name, figures in outlines["maps"].items():
        values = (figures[figure] for figure in FIGURES)
        cells = " | ".join(f"{mean:.3f} ({low:.3f}..{high:.3f})" for mean, low, high in values)
        lines.append(f"| {name} | {cells} |")
    lines += ["", "| mark | scans | peak off the lesion |", "|---|---|---|"]
    for name, (count, off) in outlines["doubts"].items():
        share = "" if off is None else f"{off[0]:.3f} ({off[1]:.3f}..{off[2]:.3f})"
        lines.append(f"| {name} | {count} | {share} |")
    return "\n".join([*lines, ""])


def _off_by_doubt(
    doubts: list[list[str]],
    off: Bool[np.ndarray, "scans"],
    scans: list[OutlinedScan],
    seed: int,
) -> dict[str, tuple[int, tuple[float, float, float] | None]]:
    """For each mark: the scans that have it, and how often the peak is off the lesion there."""
    groups = {"none": [not lines for lines in doubts], "any": [bool(lines) for lines in doubts]}
    groups |= {mark: [mark in lines for lines in doubts] for mark in DOUBTS}
    shares: dict[str, tuple[int, tuple[float, float, float] | None]] = {}
    for name, marked in groups.items():
        chosen = np.flatnonzero(marked)
        patients = [scans[index].patient for index in chosen]
        rng = np.random.default_rng(seed)
        values = off[chosen].astype(np.float64)
        share = patient_interval(values, patients, rng) if len(chosen) else None
        shares[name] = len(chosen), share
    return shares


def _figures(
    rows: Float[np.ndarray, "scans figures"],
    scans: list[OutlinedScan],
    chosen: Bool[np.ndarray, "scans"],
    seed: int,
) -> dict[str, tuple[float, float, float]]:
    patients = [one.patient for one, taken in zip(scans, chosen, strict=True) if taken]
    return {
        name: patient_interval(column, patients, np.random.default_rng(seed))
        for name, column in zip(FIGURES, rows[chosen].T, strict=True)
    }
