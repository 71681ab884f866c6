"""Tests of a model's heatmaps on scans: do they show what the model used?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8

from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import HeatmapGrid, Preprocess, geometry, to_input_coordinates
from oct_jax.data.scans import Scans
from oct_jax.decision.calibration import softmax
from oct_jax.explain.faithfulness import (
    TOLERANCE,
    area_under,
    blurred,
    centre_cells,
    deletion_steps,
    energy_inside,
    insertion_steps,
    overlap,
    patient_interval,
    points_at,
    random_cells,
    rank_correlation,
    remove_by_blur,
)
from oct_jax.explain.gradcam import (
    PREDICTED,
    Method,
    explain_all,
    make_explain,
)
from oct_jax.explain.imputation import remove_by_imputation
from oct_jax.explain.outlines import over_input
from oct_jax.model.inference import batch_slices, make_forward, predict_all
from oct_jax.model.protocol import Variables
from oct_jax.runs.verified import fingerprint

MAPS = ("map", "random", "centre", "random head")
"""The map, and its rivals: chance, the centre of the scan, and the map that a random head gives,
which knows where the backbone is active, and nothing of the classes."""
_IN_WORDS = {
    "random": "a random map",
    "centre": "a blob in the centre",
    "random head": "a random head's map",
}
ROAD_SHARES = (0.1, 0.3, 0.5)
ALIKE = 0.5
"""Rank correlation at which a map still looks like that of a random network."""
POINTING = 0.9

NOISE = 0.02
_NOISE_DRAWS = 3

Cells = Float[np.ndarray, "scans rows columns"]
Inputs = UInt8[np.ndarray, "scans size size"]
Lesions = Bool[np.ndarray, "scans size size"]


@dataclass(frozen=True)
class Tested:
    """The outcome of the tests.

    Attributes:
      figures: as JSON values.
      cells: the maps.
      grid: where their positions look in the input.
      targets: the classes they explain.
      curves: by test, then by kind of map: (scans, steps).
    """

    figures: dict[str, Any]
    cells: Cells
    grid: HeatmapGrid
    targets: Int32[np.ndarray, "scans"]
    curves: dict[str, dict[str, Float[np.ndarray, "scans steps"]]]


def examine(
    classifier: Classifier,
    scans: Scans,
    *,
    method: Method = "gradcam",
    flip: bool = False,
    steps: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tested:
    """Runs every test; each scan's map explains the class that the model predicts.

    Args:
      classifier: whose maps are tested.
      scans: to test on; intervals draw their patients.
      method: of the maps.
      flip: average each map with the mirrored scan's.
      steps: shares of the scan at which the deletion and insertion curves are sampled.
      seed: of random maps, noise and the intervals.
      progress: called with (scans done, scans) while curves are computed.
    """
    rng = np.random.default_rng(seed)
    preprocess = classifier.preprocess
    inputs = np.stack([scans.read_resized(index, preprocess) for index in range(len(scans))])
    lesions = lesions_over_input(scans, preprocess)
    grid = classifier.grid_of(method, flip=flip)
    explain = partial(_explain, classifier, method, flip)
    logits, cells = explain(classifier.variables, inputs, None)
    targets = logits.argmax(-1).astype(np.int32)
    randomised = {
        part: explain(other, inputs, targets)[1] for part, other in _randomised(classifier, seed)
    }
    rivals = {
        "map": cells,
        "random": random_cells(rng, len(cells), cells.shape[1:]),
        "centre": np.repeat(centre_cells(cells.shape[1:])[None], len(cells), axis=0),
        "random head": randomised["the head"],
    }
    curves = _curves(classifier, inputs, rivals, grid, targets, steps, seed, progress)
    areas = {
        test: {kind: _area(test, rows) for kind, rows in by_kind.items()}
        for test, by_kind in curves.items()
    }
    interval = partial(patient_interval, patients=scans.patients, rng=rng)
    figures: dict[str, Any] = {
        "model": fingerprint(classifier),
        "stage": classifier.stage,
        "method": method,
        "flip": flip,
        "synthetic": classifier.synthetic,
        "scans": len(cells),
        "patients": len(set(scans.patients)),
        "accuracy": float((targets == scans.labels).mean()),
        "empty_maps": int((cells.max((1, 2)) == 0).sum()),
        "areas": {
            test: {kind: interval(values) for kind, values in by_kind.items()}
            for test, by_kind in areas.items()
        },
        "advantage": {
            test: {rival: interval(_gain(test, by_kind, rival)) for rival in MAPS[1:]}
            for test, by_kind in areas.items()
        },
        "advantage_on_lesions": _advantage_on_lesions(lesions, scans.patients, areas, rng),
        "randomised": {
            part: interval(rank_correlation(cells, others)) for part, others in randomised.items()
        },
        "noise": interval(
            _change_under_noise(
                partial(explain, classifier.variables, targets=targets), inputs, cells, rng
            )
        ),
        "lesions": _lesion_figures(lesions, scans.patients, rivals, grid, rng),
    }
    figures["criteria"] = criteria(figures)
    figures["passed"] = all(figures["criteria"].values())
    return Tested(figures, cells, grid, targets, curves)


def lesions_over_input(scans: Scans, preprocess: Preprocess) -> Lesions | None:
    """Where the lesions are over the model's input; None unless all scans' lesions are known."""
    masks = [scans.lesion(index) for index in range(len(scans))]
    known = [(index, mask) for index, mask in enumerate(masks) if mask is not None]
    if len(known) < len(scans):
        return None
    return np.stack(
        [
            over_input(mask, geometry(scans.read(index), preprocess), preprocess.size)
            for index, mask in known
        ]
    )


def criteria(figures: dict[str, Any]) -> dict[str, bool]:
    """What a report must show to be passed; a paired 95 % interval decides, not a mean.

    A random head's map may look like the true one, for both lie where the backbone is active; the
    true one must tell more of its class.

    The centre and the lesions count only on phantoms with a lesion: in real scans the lesion is
    often in the centre, and nobody has outlined it; in a normal scan there is nothing to find, and
    what speaks for its class is everywhere.
    """
    holds = {
        f"{test} beats {_IN_WORDS[rival]}": figures["advantage"][test][rival][1] > 0
        for test in ("deletion", "insertion")
        for rival in ("random", "random head")
    }
    for test, by_rival in figures["advantage_on_lesions"].items():
        for rival, (_, low, _) in by_rival.items():
            holds[f"{test} beats {_IN_WORDS[rival]} where there is a lesion"] = low > 0
    holds[f"randomising all weights destroys the map (rank correlation below {ALIKE})"] = (
        figures["randomised"]["all weights"][2] < ALIKE
    )
    if figures["lesions"]:
        hits = figures["lesions"]["map"]["pointing_game"][0]
        holds[f"pointing game of {POINTING:.0%} or more"] = hits >= POINTING
    return holds


def _explain(
    classifier: Classifier,
    method: Method,
    flip: bool,
    variables: Variables,
    inputs: Inputs,
    targets: Int32[np.ndarray, "scans"] | None,
) -> tuple[Float[np.ndarray, "scans classes"], Cells]:
    if targets is None:
        targets = np.full(len(inputs), PREDICTED, np.int32)
    program = make_explain(classifier.model, classifier.preprocess, method, flip=flip)
    batches = [(inputs[rows], targets[rows]) for rows in batch_slices(len(inputs))]
    outputs, maps = explain_all(program, variables, batches)
    return np.asarray(outputs.logits), np.asarray(maps)


def _curves(
    classifier: Classifier,
    inputs: Inputs,
    rivals: dict[str, Cells],
    grid: HeatmapGrid,
    targets: Int32[np.ndarray, "scans"],
    steps: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, dict[str, Float[np.ndarray, "scans steps"]]]:
    """Probability of the target: by test and kind of map, (scans, steps), ends included."""
    shares = np.linspace(0, 1, steps + 1)[1:-1].tolist()
    inner = len(shares)
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in MAPS}
    for number, (scan, target) in enumerate(zip(inputs, targets, strict=True)):
        ends = np.stack([scan, blurred(scan)])
        changed = [ends]
        for kind in MAPS:
            rng = np.random.default_rng([seed, number])
            heat = to_input_coordinates(rivals[kind][number], grid, len(scan))
            changed += [
                deletion_steps(scan, heat, shares, remove_by_blur, rng),
                insertion_steps(scan, heat, shares, rng),
                deletion_steps(scan, heat, ROAD_SHARES, remove_by_imputation, rng),
            ]
        of_target = _probabilities(classifier, np.concatenate(changed))[:, target]
        whole, without = of_target[:1], of_target[1:2]
        for kind, part in zip(MAPS, of_target[2:].reshape(len(MAPS), -1), strict=True):
            deleted, inserted, road = np.split(part, (inner, 2 * inner))
            rows[kind].append(
                np.concatenate([whole, deleted, without, without, inserted, whole, whole, road])
            )
        if progress:
            progress(number + 1, len(inputs))
    length = inner + 2
    return {
        "deletion": {kind: np.stack(rows[kind])[:, :length] for kind in MAPS},
        "insertion": {kind: np.stack(rows[kind])[:, length : 2 * length] for kind in MAPS},
        "road": {kind: np.stack(rows[kind])[:, 2 * length :] for kind in MAPS},
    }


def _probabilities(classifier: Classifier, inputs: Inputs) -> Float[np.ndarray, "scans classes"]:
    forward = make_forward(classifier.model, classifier.preprocess)
    batches = (inputs[rows] for rows in batch_slices(len(inputs)))
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
    lesions: Lesions | None,
    patients_of: Sequence[str],
    areas: dict[str, dict[str, np.ndarray]],
    rng: np.random.Generator,
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """By how much deletion and insertion beat each rival on scans with a lesion; {} if unknown."""
    if lesions is None:
        return {}
    there = np.flatnonzero(lesions.any((1, 2)))
    patients = [patients_of[index] for index in there]
    interval = partial(patient_interval, patients=patients, rng=rng)
    return {
        test: {rival: interval(_gain(test, areas[test], rival)[there]) for rival in MAPS[1:]}
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
        noise = rng.normal(0, 255 * NOISE, inputs.shape)
        _, moved = explain(np.rint(np.clip(inputs + noise, 0, 255)).astype(np.uint8))
        changes.append(np.linalg.norm(moved - cells, axis=(1, 2)) / np.where(norms > 0, norms, 1))
    return np.max(changes, axis=0)


def _lesion_figures(
    lesions: Lesions | None,
    patients_of: Sequence[str],
    rivals: dict[str, Cells],
    grid: HeatmapGrid,
    rng: np.random.Generator,
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """How well each kind of map finds the lesions, over scans that have one; {} if unknown."""
    if lesions is None:
        return {}
    size = lesions.shape[1]
    tolerance = round(TOLERANCE * size)
    there = np.flatnonzero(lesions.any((1, 2)))
    patients = [patients_of[index] for index in there]
    interval = partial(patient_interval, patients=patients, rng=rng)
    figures: dict[str, dict[str, tuple[float, float, float]]] = {}
    for kind, cells in rivals.items():
        rows = []
        for index in there:
            heat = to_input_coordinates(cells[index], grid, size)
            lesion = lesions[index]
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
        figures[kind] = {
            name: interval(column) for name, column in zip(names, columns, strict=True)
        }
    return figures
