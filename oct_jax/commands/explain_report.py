"""The faithfulness report: whether a run's explanations may be believed, as numbers.

runs/<name>/explanation/
  report.json   every figure, and whether the report is passed
  report.md     the same for people
  curves.png    probability of the target as the map's places are removed or restored
  maps.png      a page of maps, with the lesions' outlines where they are known
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8
from rich.console import Console
from rich.progress import track

from oct_jax.classifier import Classifier
from oct_jax.commands.outline_report import examine_outlines, outlines_markdown
from oct_jax.commands.settings import ExplainReportConfig
from oct_jax.data.datasets import open_data
from oct_jax.data.preprocess import HeatmapGrid, resize_scan, to_input_coordinates
from oct_jax.data.scans import Scans
from oct_jax.decision.calibration import softmax
from oct_jax.explain.faithfulness import (
    area_under,
    blurred,
    centre_cells,
    deletion_steps,
    energy_inside,
    insertion_steps,
    interval,
    overlap,
    points_at,
    random_cells,
    rank_correlation,
    remove_by_blur,
    remove_by_imputation,
)
from oct_jax.explain.gradcam import PREDICTED, explain_all, make_explain
from oct_jax.files import json_text, write_together
from oct_jax.model.inference import BATCH_SIZES, make_forward, predict_all
from oct_jax.model.protocol import Variables
from oct_jax.reports.overlay import RESEARCH_USE, encode_png, overlay
from oct_jax.reports.picture import contact_sheet
from oct_jax.runs.folder import read_run_config
from oct_jax.runs.load import load
from oct_jax.runs.ownership import check_claimable, claim_folder
from oct_jax.runs.paths import find_run
from oct_jax.runs.verified import fingerprint, report_path
from oct_jax.types import UserError

MAPS = ("map", "random", "centre", "random head")
"""The map, and its rivals: chance, the centre of the scan, and the map that a random head gives,
which knows where the backbone is active, and nothing of the classes."""
_IN_WORDS = {
    "random": "a random map",
    "centre": "a blob in the centre",
    "random head": "a random head's map",
}
ROAD_SHARES = (0.1, 0.3, 0.5)
TOLERANCE = 15 / 224
"""Of the pointing game, as a share of the side: 15 pixels of 224 (Zhang et al. 2018)."""
ALIKE = 0.5
"""Rank correlation at which a map still looks like that of a random network."""
POINTING = 0.9

_NOISE = 0.02
_NOISE_DRAWS = 3
_SHEET = 24

Cells = Float[np.ndarray, "scans rows columns"]
Inputs = UInt8[np.ndarray, "scans size size"]


@dataclass(frozen=True)
class Examples:
    """Scans to test on, as the model sees them.

    Attributes:
      inputs: uint8 grey, (scans, size, size).
      labels: indices into the classes.
      lesions: where the lesions are, (scans, size, size); None where nobody knows.
    """

    inputs: Inputs
    labels: Int32[np.ndarray, "scans"]
    lesions: Bool[np.ndarray, "scans size size"] | None


def report(config: ExplainReportConfig, console: Console) -> None:
    """Tests a run's explanations and stores what was found with the run.

    Raises:
      UserError: no trained run, or its data is gone or has no test scans.
    """
    folder = find_run(config.run)
    classifier = load(folder)
    check_claimable(report_path(folder).parent)
    examples = read_examples(folder, classifier, config.scans)
    console.print(f"{len(examples.labels)} test scans of {folder}", markup=False)
    outlines = _outlines(classifier, config)
    tested = examine(classifier, examples, config, console)
    tested.figures["outlines"] = outlines
    where = report_path(folder).parent
    text = to_markdown(tested.figures)
    if outlines is not None:
        text += outlines_markdown(outlines)
    claim_folder(where)
    write_together(
        {
            report_path(folder): json_text(tested.figures),
            where / "report.md": text,
            where / "curves.png": draw_curves(tested),
            where / "maps.png": encode_png(draw_sheet(tested, examples, classifier)),
        }
    )
    console.print(text, markup=False)
    console.print(f"stored in {where}", markup=False)


def _outlines(classifier: Classifier, config: ExplainReportConfig) -> dict[str, Any] | None:
    """The figures on outlined lesions, first: bad masks should not wait for the other tests."""
    if config.masks is None:
        return None
    if config.lesion not in classifier.task.classes:
        choices = ", ".join(classifier.task.classes)
        raise UserError(f"lesion={config.lesion}: must be one of {choices}")
    return examine_outlines(
        classifier,
        Path(config.masks),
        config.lesion,
        config.method,
        flip=config.flip,
        seed=config.seed,
    )


def read_examples(folder: Path, classifier: Classifier, count: int) -> Examples:
    """About `count` test scans of a run's data, as many of each class.

    Raises:
      UserError: the data is gone, or has no test scans.
    """
    settings = read_run_config(folder).settings
    source = open_data(
        settings["data"],
        task=classifier.task,
        manifest=folder / "manifest.csv",
        on_bad_scan=settings["on_bad_scan"],
        seed=settings["seed"],
        phantom_patients=settings["phantom_patients"],
    ).select("test")
    if not len(source):
        raise UserError(f"{folder}: its data has no test scans to explain")
    chosen = _spread(source, count).tolist()
    resize = partial(resize_scan, preprocess=classifier.preprocess)
    inputs = np.stack([resize(source.read(index)) for index in chosen])
    lesions = None
    outlines = [source.lesion(index) for index in chosen]
    known = [outline for outline in outlines if outline is not None]
    if len(known) == len(chosen):
        masks = [np.where(outline, np.uint8(255), np.uint8(0)) for outline in known]
        lesions = np.stack([resize(mask) > 127 for mask in masks])
    return Examples(inputs, source.labels[chosen], lesions)


@dataclass(frozen=True)
class Tested:
    """What was found.

    Attributes:
      figures: as JSON values.
      cells: the maps.
      targets: the classes they explain.
      curves: by test, then by kind of map: (scans, steps).
    """

    figures: dict[str, Any]
    cells: Cells
    targets: Int32[np.ndarray, "scans"]
    curves: dict[str, dict[str, Float[np.ndarray, "scans steps"]]]


def examine(
    classifier: Classifier, examples: Examples, config: ExplainReportConfig, console: Console
) -> Tested:
    """Runs every test; each scan's map explains the class that the model predicts."""
    rng = np.random.default_rng(config.seed)
    explain = partial(_explain, classifier, config)
    logits, cells = explain(classifier.variables, examples.inputs, None)
    targets = logits.argmax(-1).astype(np.int32)
    randomised = {
        part: explain(other, examples.inputs, targets)[1]
        for part, other in _randomised(classifier, config.seed)
    }
    rivals = {
        "map": cells,
        "random": random_cells(rng, len(cells), cells.shape[1:]),
        "centre": np.repeat(centre_cells(cells.shape[1:])[None], len(cells), axis=0),
        "random head": randomised["the head"],
    }
    curves = _curves(classifier, examples.inputs, rivals, targets, config, console)
    areas = {
        test: {kind: _area(test, rows) for kind, rows in by_kind.items()}
        for test, by_kind in curves.items()
    }
    figures: dict[str, Any] = {
        "model": fingerprint(classifier),
        "stage": classifier.stage,
        "method": config.method,
        "flip": config.flip,
        "synthetic": classifier.synthetic,
        "scans": len(cells),
        "accuracy": float((targets == examples.labels).mean()),
        "empty_maps": int((cells.max((1, 2)) == 0).sum()),
        "areas": {
            test: {kind: interval(values, rng) for kind, values in by_kind.items()}
            for test, by_kind in areas.items()
        },
        "advantage": {
            test: {rival: interval(_gain(test, by_kind, rival), rng) for rival in MAPS[1:]}
            for test, by_kind in areas.items()
        },
        "advantage_on_lesions": _advantage_on_lesions(examples, areas, rng),
        "randomised": {
            part: interval(rank_correlation(cells, others), rng)
            for part, others in randomised.items()
        },
        "noise": interval(
            _change_under_noise(
                partial(explain, classifier.variables, targets=targets), examples.inputs, cells, rng
            ),
            rng,
        ),
        "lesions": _lesion_figures(examples, rivals, classifier.grid, rng),
    }
    figures["criteria"] = criteria(figures)
    figures["passed"] = all(figures["criteria"].values())
    return Tested(figures, cells, targets, curves)


def criteria(figures: dict[str, Any]) -> dict[str, bool]:
    """What a report must show to be passed; a paired 95 % interval decides, not a mean.

    A random head's map may look like the true one, for both lie where the backbone is active; the
    true one must tell more of its class.

    The centre and the lesions count only on phantoms with a lesion: in real scans the lesion is
    often in the centre, and nobody has outlined it; in a normal scan there is nothing to find, and
    what speaks for its class is everywhere.
    """
    found = {
        f"{test} beats {_IN_WORDS[rival]}": figures["advantage"][test][rival][1] > 0
        for test in ("deletion", "insertion")
        for rival in ("random", "random head")
    }
    for test, by_rival in figures["advantage_on_lesions"].items():
        for rival, (_, low, _) in by_rival.items():
            found[f"{test} beats {_IN_WORDS[rival]} where there is a lesion"] = low > 0
    found[f"randomising all weights destroys the map (rank correlation below {ALIKE})"] = (
        figures["randomised"]["all weights"][2] < ALIKE
    )
    if figures["lesions"]:
        hits = figures["lesions"]["map"]["pointing_game"][0]
        found[f"pointing game of {POINTING:.0%} or more"] = hits >= POINTING
    return found


def to_markdown(figures: dict[str, Any]) -> str:
    """The report for people."""
    title = "# Are the explanations faithful?"
    kind = "SYNTHETIC phantoms" if figures["synthetic"] else "test scans"
    lines = [
        title,
        "",
        f"{figures['method']}{', flip-averaged' if figures['flip'] else ''}; {figures['scans']}"
        f" {kind}, the model is right on {figures['accuracy']:.1%};"
        f" {figures['empty_maps']} empty maps. Mean and 95 % bootstrap interval over scans.",
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
        f"Relative change of the map under noise of {_NOISE:.0%}: {_row([figures['noise']])}.",
    ]
    if figures["lesions"]:
        names = list(figures["lesions"]["map"])
        lines += ["", f"| lesions | {' | '.join(n.replace('_', ' ') for n in names)} |"]
        lines += ["|---" * (len(names) + 1) + "|"]
        lines += [
            f"| {kind} | {_row(found[name] for name in names)} |"
            for kind, found in figures["lesions"].items()
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


def draw_sheet(tested: Tested, examples: Examples, classifier: Classifier) -> np.ndarray:
    """Maps of up to 24 scans on one page, lesions outlined in white."""
    shown = np.linspace(0, len(tested.cells) - 1, min(_SHEET, len(tested.cells))).astype(int)
    tiles, captions, classes = [], [], classifier.task.classes
    for index in shown:
        scan = examples.inputs[index]
        heat = to_input_coordinates(tested.cells[index], classifier.grid, len(scan))
        tile = overlay(scan, heat)
        if examples.lesions is not None:
            tile = _outlined(tile, examples.lesions[index])
        tiles.append(tile)
        target, label = tested.targets[index], examples.labels[index]
        captions.append(f"explains {classes[target]}; is {classes[label]}")
    return contact_sheet(tiles, captions, synthetic=classifier.synthetic)


def _outlined(tile: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    outlines, _ = cv2.findContours(
        lesion.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    return cv2.drawContours(tile.copy(), outlines, -1, (255, 255, 255), 1)


def _spread(source: Scans, count: int) -> np.ndarray:
    each = -(-count // len(source.task.classes))
    chosen = []
    for label in range(len(source.task.classes)):
        indices = np.flatnonzero(source.labels == label)
        if len(indices):
            places = np.linspace(0, len(indices) - 1, min(each, len(indices)))
            chosen.append(indices[places.astype(int)])
    return np.concatenate(chosen)


def _explain(
    classifier: Classifier,
    config: ExplainReportConfig,
    variables: Variables,
    inputs: Inputs,
    targets: Int32[np.ndarray, "scans"] | None,
) -> tuple[Float[np.ndarray, "scans classes"], Cells]:
    if targets is None:
        targets = np.full(len(inputs), PREDICTED, np.int32)
    program = make_explain(classifier.model, classifier.preprocess, config.method, flip=config.flip)
    size = BATCH_SIZES[-1]
    batches = [
        (inputs[start : start + size], targets[start : start + size])
        for start in range(0, len(inputs), size)
    ]
    outputs, maps = explain_all(program, variables, batches)
    return np.asarray(outputs.logits), np.asarray(maps)


def _curves(
    classifier: Classifier,
    inputs: Inputs,
    rivals: dict[str, Cells],
    targets: Int32[np.ndarray, "scans"],
    config: ExplainReportConfig,
    console: Console,
) -> dict[str, dict[str, Float[np.ndarray, "scans steps"]]]:
    """Probability of the target: by test and kind of map, (scans, steps), ends included."""
    shares = np.linspace(0, 1, config.steps + 1)[1:-1].tolist()
    inner = len(shares)
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in MAPS}
    everything = list(zip(inputs, targets, strict=True))
    for number, (scan, target) in enumerate(
        track(everything, "removing and restoring", console=console, transient=True)
    ):
        ends = np.stack([scan, blurred(scan)])
        steps = [ends]
        for kind in MAPS:
            rng = np.random.default_rng([config.seed, number])
            heat = to_input_coordinates(rivals[kind][number], classifier.grid, len(scan))
            steps += [
                deletion_steps(scan, heat, shares, remove_by_blur, rng),
                insertion_steps(scan, heat, shares, rng),
                deletion_steps(scan, heat, ROAD_SHARES, remove_by_imputation, rng),
            ]
        of_target = _probabilities(classifier, np.concatenate(steps))[:, target]
        whole, without = of_target[:1], of_target[1:2]
        for kind, part in zip(MAPS, of_target[2:].reshape(len(MAPS), -1), strict=True):
            deleted, inserted, road = np.split(part, (inner, 2 * inner))
            rows[kind].append(
                np.concatenate([whole, deleted, without, without, inserted, whole, whole, road])
            )
    length = inner + 2
    return {
        "deletion": {kind: np.stack(rows[kind])[:, :length] for kind in MAPS},
        "insertion": {kind: np.stack(rows[kind])[:, length : 2 * length] for kind in MAPS},
        "road": {kind: np.stack(rows[kind])[:, 2 * length :] for kind in MAPS},
    }


def _probabilities(classifier: Classifier, inputs: Inputs) -> Float[np.ndarray, "scans classes"]:
    forward = make_forward(classifier.model, classifier.preprocess)
    size = BATCH_SIZES[-1]
    batches = (inputs[start : start + size] for start in range(0, len(inputs), size))
    logits = predict_all(forward, classifier.variables, batches).logits
    return softmax(np.asarray(logits))


def _area(test: str, rows: Float[np.ndarray, "scans steps"]) -> Float[np.ndarray, "scans"]:
    # ROAD's shares are few and stop half-way: the mean over them, as its authors report it.
    return rows[:, 1:].mean(1) if test == "road" else area_under(rows)


def _gain(test: str, areas: dict[str, np.ndarray], rival: str) -> np.ndarray:
    """By how much the map is better than its rival on each scan."""
    difference = areas["map"] - areas[rival]
    return difference if test == "insertion" else -difference


def _advantage_on_lesions(
    examples: Examples, areas: dict[str, dict[str, np.ndarray]], rng: np.random.Generator
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """By how much deletion and insertion beat each rival on scans with a lesion; {} if unknown."""
    if examples.lesions is None:
        return {}
    there = examples.lesions.any((1, 2))
    return {
        test: {rival: interval(_gain(test, areas[test], rival)[there], rng) for rival in MAPS[1:]}
        for test in ("deletion", "insertion")
    }


def _randomised(classifier: Classifier, seed: int) -> Iterable[tuple[str, Variables]]:
    """Adebayo et al. 2018, cascading from the top in two steps: the head, then all weights."""
    fresh = classifier.model.init(seed).params
    true = classifier.variables.params
    yield "the head", Variables({**true, "head": fresh["head"]}, classifier.variables.stats)
    yield "all weights", Variables(fresh, classifier.variables.stats)


def _change_under_noise(
    explain: Callable[[Inputs], tuple[np.ndarray, Cells]],
    inputs: Inputs,
    cells: Cells,
    rng: np.random.Generator,
) -> Float[np.ndarray, "scans"]:
    """Largest relative change of each map over a few draws of noise (Yeh et al. 2019)."""
    norms = np.linalg.norm(cells, axis=(1, 2))
    changes = []
    for _ in range(_NOISE_DRAWS):
        noise = rng.normal(0, 255 * _NOISE, inputs.shape)
        _, moved = explain(np.rint(np.clip(inputs + noise, 0, 255)).astype(np.uint8))
        changes.append(np.linalg.norm(moved - cells, axis=(1, 2)) / np.where(norms > 0, norms, 1))
    return np.max(changes, axis=0)


def _lesion_figures(
    examples: Examples, rivals: dict[str, Cells], grid: HeatmapGrid, rng: np.random.Generator
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """How well each kind of map finds the lesions, over scans that have one; {} if unknown."""
    if examples.lesions is None:
        return {}
    size = examples.inputs.shape[1]
    tolerance = round(TOLERANCE * size)
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for kind, cells in rivals.items():
        rows = []
        for index in np.flatnonzero(examples.lesions.any((1, 2))):
            heat = to_input_coordinates(cells[index], grid, size)
            lesion = examples.lesions[index]
            rows.append(
                [
                    points_at(heat, lesion, tolerance),
                    points_at(heat, lesion, 0),
                    overlap(heat, lesion, rng),
                    energy_inside(heat, lesion),
                    lesion.mean(),
                ]
            )
        names = ("pointing_game", "pointing_game_strict", "iou", "energy_inside", "lesion_area")
        columns = np.array(rows, np.float64).T
        found[kind] = {
            name: interval(column, rng) for name, column in zip(names, columns, strict=True)
        }
    return found


def _row(values: Iterable[Sequence[float]]) -> str:
    return " | ".join(f"{mean:.3f} ({low:.3f}..{high:.3f})" for mean, low, high in values)
