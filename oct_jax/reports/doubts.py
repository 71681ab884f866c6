"""What a person should doubt in one map, by tests on that very scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import HeatmapGrid, to_input_coordinates
from oct_jax.decision.calibration import softmax
from oct_jax.explain.faithfulness import blurred, random_cells, top_share
from oct_jax.explain.gradcam import explain_all, make_explain
from oct_jax.explanation import Explanation
from oct_jax.model.inference import batch_slices, padded_size

EMPTY = "empty map: nothing in this scan speaks for the class"
FLAT = "flat map: it favours no place"
UNSTABLE = "unstable map: noise of 2 % moves its peak far away"
BY_CHANCE = "map no better than random maps on this scan"
DOUBTS = (EMPTY, FLAT, UNSTABLE, BY_CHANCE)

_RANDOM_MAPS = 7
_REMOVED = 0.2
_NOISE = 0.02
_NOISE_DRAWS = 2
FAR = 0.1
"""Of the input's side. On the calibration scans of two runs one map in 20 moves by more than 0.134
and 0.067 (experiments/unstable_maps.py); this is their mean."""


def doubts_of(
    classifier: Classifier,
    explanations: Sequence[Explanation],
    inputs: Sequence[np.ndarray],
    *,
    flip: bool = False,
) -> list[list[str]]:
    """The lines of `DOUBTS` that hold of each map; mostly none.

    - Empty: 0 everywhere. Flat: no position below half of the peak.
    - Unstable: two draws of noise, 2 % of full scale; in one of them the peak moves by more than
      `FAR`, a tenth of the input's side.
    - By chance: blurring the fifth of the scan that the map marks costs the target no more
      probability than blurring a fifth by seven random maps of its resolution, on average.

    Args:
      classifier: that made the explanations.
      explanations: one for each scan, of one method.
      inputs: the scans, resized to the model's input.
      flip: whether the maps are averaged with those of the mirrored scans.
    """
    lines: list[list[str]] = []
    for chunk in batch_slices(len(explanations)):
        lines += _doubts_of_batch(classifier, explanations[chunk], inputs[chunk], flip)
    return lines


def _doubts_of_batch(
    classifier: Classifier,
    explanations: Sequence[Explanation],
    inputs: Sequence[np.ndarray],
    flip: bool,
) -> list[list[str]]:
    variants = [
        noisy(scan, number) + _removals(one, scan, number)
        for number, (one, scan) in enumerate(zip(explanations, inputs, strict=True))
    ]
    method, count = explanations[0].method, len(explanations)
    program = make_explain(classifier.model, classifier.preprocess, method, flip=flip)
    targets = np.array([classifier.task.index(one.target) for one in explanations], np.int32)
    scans = np.stack([scan for of_all in zip(*variants, strict=True) for scan in of_all])
    # In batches as large as the one that was explained: no other program need be compiled.
    size = padded_size(count)
    of_scans = np.resize(targets, len(scans))
    starts = range(0, len(scans), size)
    batches = ((scans[at : at + size], of_scans[at : at + size]) for at in starts)
    outputs, maps = explain_all(program, classifier.variables, batches)
    probabilities = softmax(np.asarray(outputs.logits)).reshape(
        -1, count, len(classifier.task.classes)
    )
    maps = np.asarray(maps).reshape(-1, count, *maps.shape[1:])
    return [
        _doubts(
            one, maps[:_NOISE_DRAWS, index], probabilities[_NOISE_DRAWS:, index, targets[index]]
        )
        for index, one in enumerate(explanations)
    ]


def _doubts(one: Explanation, under_noise: np.ndarray, left: np.ndarray) -> list[str]:
    """Of one map: those of the noisy scan, and the probability left after each removal."""
    if not one.cells.any():
        return [EMPTY]
    lines = [FLAT] if one.cells.min() > 0.5 else []
    if peak_shift(one.cells, under_noise, one.grid, one.preprocess.size) > FAR:
        lines.append(UNSTABLE)
    if left[0] >= left[1:].mean():
        lines.append(BY_CHANCE)
    return lines


def peak_shift(cells: np.ndarray, under_noise: np.ndarray, grid: HeatmapGrid, size: int) -> float:
    """How far noise moves a map's peak, as a share of the input's side; the largest of the draws.

    Args:
      cells: the map without noise, (rows, columns).
      under_noise: maps of the `noisy` scan, (draws, rows, columns).
      grid: of all of them.
      size: of the model's input.
    """
    peak, *moved = (_peak(each, grid, size) for each in (cells, *under_noise))
    return max(float(np.hypot(*(other - peak))) for other in moved) / size


def noisy(scan: np.ndarray, seed: int) -> list[np.ndarray]:
    """Draws of the scan with Gaussian noise, 2 % of full scale."""
    rng = np.random.default_rng(seed)
    draws = (scan + rng.normal(0, 255 * _NOISE, scan.shape) for _ in range(_NOISE_DRAWS))
    return [np.rint(np.clip(draw, 0, 255)).astype(np.uint8) for draw in draws]


def _peak(cells: np.ndarray, grid: HeatmapGrid, size: int) -> np.ndarray:
    """Row and column of the highest pixel of the map as it is drawn over the input."""
    heat = to_input_coordinates(cells, grid, size)
    return np.array(np.unravel_index(heat.argmax(), heat.shape))


def _removals(one: Explanation, scan: np.ndarray, seed: int) -> list[np.ndarray]:
    """The scan without the fifth that the map marks, and without those of random maps."""
    rng = np.random.default_rng(seed)
    every = [one.cells, *random_cells(rng, _RANDOM_MAPS, one.cells.shape)]
    heats = [to_input_coordinates(cells, one.grid, len(scan)) for cells in every]
    soft = blurred(scan)  # as `remove_by_blur`, which would blur it for each of them
    return [np.where(top_share(heat, _REMOVED, rng), soft, scan) for heat in heats]
