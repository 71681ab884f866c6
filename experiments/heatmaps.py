"""Sharper heatmaps of one trained model: hits on outlined lesions, faithfulness, and cost.

    python heatmaps.py RUN masks=FOLDER data=FOLDER out=FOLDER [lesion=DME] [scans=56] [maps=A,B]

All maps are of the run's own weights. `masks` is laid out as `just explain-report masks=` reads it,
or `phantom`: the test phantoms of a run that was trained on phantoms. There the maps explain the
class of the lesions. Deletion and insertion are measured on test scans of `data`, where the maps
explain each scan's label; `scans=0` leaves them out. Differences are from Grad-CAM as it ships,
paired, with 95 % bootstrap intervals that draw patients. `maps` chooses some by name. Rerun the
same command to resume: every map's numbers are files in `out`.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from oct_jax import load
from oct_jax.classifier import Classifier
from oct_jax.data.manifest import read_manifest
from oct_jax.data.preprocess import (
    HeatmapGrid,
    geometry,
    normalise,
    resize_scan,
    to_input_coordinates,
)
from oct_jax.data.readers import read_scan
from oct_jax.decision.calibration import softmax
from oct_jax.explain.faithfulness import (
    area_under,
    blurred,
    deletion_steps,
    insertion_steps,
    patient_interval,
    remove_by_blur,
)
from oct_jax.explain.gradcam import normalise_maps
from oct_jax.explain.outlines import FIGURES, compare, over_input, read_outlines
from oct_jax.files import write_json
from oct_jax.model.inference import make_forward, predict_all
from oct_jax.reports.faithfulness import lesions_over_input
from oct_jax.runs.scans import open_run_scans
from oct_jax.types import UserError

SHARES = np.linspace(0, 1, 9)[1:-1].tolist()
TOLERANCE = 15 / 224
BATCH = 32
COLUMNS = (*FIGURES[:4], "deletion", "insertion")
Heats = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From inputs (scans, size, size) and target indices to maps over the input."""


@dataclass(frozen=True)
class Case:
    """Scans as the model sees them, and what their maps are asked for."""

    inputs: np.ndarray
    targets: np.ndarray
    patients: tuple[str, ...]
    lesions: np.ndarray | None = None


def make_maps(classifier: Classifier) -> dict[str, tuple[str, Heats]]:
    """Name -> (cost in forward passes, how the maps are made)."""
    model, variables, size = classifier.model, classifier.variables, classifier.preprocess.size
    backbone = model._merged_backbone(variables)
    grid, dense_grid = classifier.grid, classifier.grid_of("gradcam-dense")
    centred = HeatmapGrid(32.0, 32.0, 15.5, 15.5)
    # A position of an earlier layer sees little, and looks at its middle: padding in `same` is
    # behind, so that of stride s is at s i + (s - 1).
    sixteen, eight = HeatmapGrid(16.0, 16.0, 11.5, 11.5), HeatmapGrid(8.0, 8.0, 5.5, 5.5)

    def blocks(x, first, last, dense=False):
        for row in range(first, last):
            dilation = None if not dense or row < 12 else 1 if row == 12 else 2
            x = backbone.blocks[str(row)](x, train=False, dilation=dilation)
        return x

    def late(x, dense=False):
        return backbone.last(blocks(x, 12, 15, dense), train=False)

    def early(scans, until=12):
        images = normalise(scans, classifier.preprocess)
        return blocks(backbone.stem(images, train=False), 0, until)

    def logits(features, targets):
        return jnp.take_along_axis(model.head(variables, features), targets[:, None], 1).sum()

    def weights(features, targets):
        return jax.grad(logits)(features, targets).mean((1, 2))

    @jax.jit
    def gradcam(scans, targets):
        features = late(early(scans))
        return jnp.einsum("bhwk,bk->bhw", features, weights(features, targets))

    @jax.jit
    def dense(scans, targets):
        wide = late(early(scans), dense=True)
        return jnp.einsum("bhwk,bk->bhw", wide, weights(wide[:, ::2, ::2], targets))

    def layer_cam(first, wide, scans, targets):
        """Jiang et al. 2021, equation 4; of the dense network the gradient has no checkers."""
        x = early(scans, first)

        def total(x):
            return logits(late(blocks(x, first, 12), dense=wide), targets)

        return (jax.nn.relu(jax.grad(total)(x)) * jax.nn.relu(x)).sum(-1)

    layer_cam_16 = jax.jit(functools.partial(layer_cam, 12, False))
    layer_cam_16_dense = jax.jit(functools.partial(layer_cam, 12, True))
    layer_cam_8 = jax.jit(functools.partial(layer_cam, 6, False))

    def on(place: HeatmapGrid, maps, draw=to_input_coordinates) -> Heats:
        def drawn(scans, targets):
            cells = np.asarray(normalise_maps(jnp.asarray(maps(scans, targets))))
            return np.stack([draw(one, place, size) for one in cells])

        return drawn

    def shifted(step):
        def interleaved(scans, targets):
            parts, rows = 32 // step, size // 32
            whole = np.zeros((len(scans), rows * parts, rows * parts), np.float32)
            for down in range(0, 32, step):
                for right in range(0, 32, step):
                    moved = np.pad(scans, ((0, 0), (0, down), (0, right)), mode="edge")
                    cells = gradcam(moved[:, down:, right:], targets)
                    whole[:, down // step :: parts, right // step :: parts] = cells
            return whole

        return on(HeatmapGrid(step, step, grid.offset_y, grid.offset_x), interleaved)

    def enlarged(side):
        ratio = size / side
        offsets = ((at + 0.5) * ratio - 0.5 for at in (grid.offset_y, grid.offset_x))
        return on(
            HeatmapGrid(32 * ratio, 32 * ratio, *offsets),
            lambda scans, targets: gradcam(
                np.stack(
                    [cv2.resize(s, (side, side), interpolation=cv2.INTER_CUBIC) for s in scans]
                ),
                targets,
            ),
        )

    def noisy(scans, targets):
        """Smilkov et al. 2017, four draws of 5 % noise."""
        rng = np.random.default_rng(0)
        draws = (np.clip(scans + rng.normal(0, 12.75, scans.shape), 0, 255) for _ in range(4))
        return sum(np.asarray(dense(draw.astype(np.uint8), targets)) for draw in draws)

    def mirrored(scans, targets):
        return np.asarray(dense(scans[:, :, ::-1], targets))[:, :, ::-1]

    def both_sides(scans, targets):
        return np.asarray(dense(scans, targets)) + mirrored(scans, targets)

    def product(first: Heats, second: Heats) -> Heats:
        return lambda scans, targets: first(scans, targets) * second(scans, targets)

    plain, fine = on(grid, gradcam), on(dense_grid, dense)
    at_16, at_8 = on(sixteen, layer_cam_16), on(eight, layer_cam_8)
    at_16_dense = on(sixteen, layer_cam_16_dense)
    return {
        "gradcam": ("1.0", plain),
        "gradcam drawn linearly": ("1.0", on(grid, gradcam, linear)),
        "gradcam drawn linearly from 32 i + 15.5": ("1.0", on(centred, gradcam, linear)),
        "gradcam-dense": ("1.6", fine),
        "gradcam-dense drawn linearly": ("1.6", on(dense_grid, dense, linear)),
        "inputs shifted by 16": ("4", shifted(16)),
        "inputs shifted by 8": ("16", shifted(8)),
        "input of 320": ("2.0", enlarged(320)),
        "LayerCAM at stride 16": ("1.4", at_16),
        "LayerCAM at stride 8": ("2.2", at_8),
        "gradcam x LayerCAM at 16": ("1.4", product(plain, at_16)),
        "gradcam-dense x dense LayerCAM at 16": ("2.9", product(fine, at_16_dense)),
        "gradcam-dense of 4 noisy copies": ("6.5", on(dense_grid, noisy)),
        "gradcam-dense with the mirrored scan": (
            "3.2",
            on(classifier.grid_of("gradcam-dense", flip=True), both_sides),
        ),
    }


def linear(cells: np.ndarray, grid: HeatmapGrid, size: int) -> np.ndarray:
    """The usual drawing: bilinear between positions, so that the peak is at one of them."""

    def weights(count, offset, scale):
        places = np.clip((np.arange(size) - offset) / scale, 0, count - 1)
        return np.maximum(1 - np.abs(places[:, None] - np.arange(count)), 0).astype(np.float32)

    down = weights(cells.shape[0], grid.offset_y, grid.scale_y)
    return down @ cells @ weights(cells.shape[1], grid.offset_x, grid.scale_x).T


def phantoms(run: Path, classifier: Classifier, lesion: str) -> Case:
    """The run's test phantoms of the lesion's class."""
    scans, preprocess = open_run_scans(run).select("test"), classifier.preprocess
    rows = np.flatnonzero(scans.labels == classifier.task.index(lesion)).tolist()
    masks = lesions_over_input(scans.take(rows), preprocess)
    if masks is None:
        raise UserError(f"{run}: masks=phantom is for runs trained on phantoms")
    inputs = np.stack([scans.read_resized(row, preprocess) for row in rows])
    targets = np.full(len(rows), classifier.task.index(lesion), np.int32)
    return Case(inputs, targets, tuple(scans.patients[row] for row in rows), masks)


def outlined(folder: Path, classifier: Classifier, lesion: str) -> Case:
    """The scans on which any grader outlined something that the input shows."""
    preprocess = classifier.preprocess
    scans = read_outlines(folder)
    masks = np.stack(
        [over_input(one.lesion, geometry(one.scan, preprocess), preprocess.size) for one in scans]
    )
    shown = np.flatnonzero(masks.any((1, 2)))
    inputs = np.stack([resize_scan(scans[index].scan, preprocess) for index in shown])
    targets = np.full(len(shown), classifier.task.index(lesion), np.int32)
    return Case(inputs, targets, tuple(scans[index].patient for index in shown), masks[shown])


def held_out(run: Path, data: Path, classifier: Classifier, count: int) -> Case:
    """Test scans of the run, spread over its manifest."""
    records = [one for one in read_manifest(run / "manifest.csv") if one.split == "test"]
    chosen = np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)
    records = [records[i] for i in chosen]
    inputs = [resize_scan(read_scan(data / one.path), classifier.preprocess) for one in records]
    targets = np.array([classifier.task.index(one.label) for one in records], np.int32)
    return Case(np.stack(inputs), targets, tuple(one.patient for one in records))


def heats_of(maps: Heats, case: Case) -> np.ndarray:
    """In batches of one size, the last one filled up."""
    parts = []
    for start in range(0, len(case.inputs), BATCH):
        rows = np.arange(start, start + BATCH).clip(max=len(case.inputs) - 1)
        parts.append(maps(case.inputs[rows], case.targets[rows])[: len(case.inputs) - start])
    return np.concatenate(parts)


def on_lesions(maps: Heats, lesions: Case) -> dict[str, list]:
    """The first of `COLUMNS` -> a value for each scan."""
    rng = np.random.default_rng(0)
    assert lesions.lesions is not None
    rows = [
        compare(heat, mask, round(TOLERANCE * len(mask)), rng)
        for heat, mask in zip(heats_of(maps, lesions), lesions.lesions, strict=True)
    ]
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(FIGURES[:4])}


def on_real(maps: Heats, classifier: Classifier, real: Case) -> dict[str, list]:
    """Deletion and insertion -> a value for each scan."""
    curves = [
        curves_of(classifier, scan, heat, target)
        for scan, heat, target in zip(real.inputs, heats_of(maps, real), real.targets, strict=True)
    ]
    deletion, insertion = (area_under(np.stack(each)) for each in zip(*curves, strict=True))
    return {"deletion": deletion.tolist(), "insertion": insertion.tolist()}


def curves_of(classifier, scan, heat, target) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the target as the map's highest places are removed, and restored."""
    rng = np.random.default_rng(0)
    steps = np.concatenate(
        [
            np.stack([scan, blurred(scan)]),
            deletion_steps(scan, heat, SHARES, remove_by_blur, rng),
            insertion_steps(scan, heat, SHARES, rng),
        ]
    )
    forward = make_forward(classifier.model, classifier.preprocess)
    outputs = predict_all(forward, classifier.variables, [steps])
    whole, without, *inner = softmax(np.asarray(outputs.logits))[:, target]
    deleted, inserted = np.split(np.array(inner), 2)
    return np.r_[whole, deleted, without], np.r_[without, inserted, whole]


def stored(path: Path, make: Callable[[], dict[str, list]]) -> dict[str, list]:
    """What a file holds, made where it is missing."""
    if not path.is_file():
        values = make()
        write_json(path, values)
    return json.loads(path.read_text())


def main(words: list[str]) -> None:
    """Prints a table, a row as soon as it is measured."""
    settings = dict(word.split("=", 1) for word in words[1:])
    run, out = Path(words[0]), Path(settings["out"])
    out.mkdir(parents=True, exist_ok=True)
    classifier = load(run)
    lesion = settings.get("lesion", "DME")
    if settings["masks"] == "phantom":
        lesions = phantoms(run, classifier, lesion)
    else:
        lesions = outlined(Path(settings["masks"]), classifier, lesion)
    count = int(settings.get("scans", 56))
    real = held_out(run, Path(settings["data"]), classifier, count) if count else None
    columns = COLUMNS if real else COLUMNS[:4]
    print(f"| map | forwards, about | {' | '.join(columns)} |", flush=True)
    print("|---" * (len(columns) + 2) + "|")
    first: dict[str, list] = {}
    candidates = make_maps(classifier)
    chosen = settings.get("maps", ",".join(candidates)).split(",")
    for name, (cost, maps) in ((name, candidates[name]) for name in chosen):
        file = name.replace(" ", "_")
        values = stored(out / f"{file}.json", lambda maps=maps: on_lesions(maps, lesions))
        if real:
            values |= stored(
                out / f"{file}.{count}.json",
                lambda maps=maps: on_real(maps, classifier, real),
            )
        first = first or values
        cells = []
        for column in columns:
            own = np.array(values[column])
            owner = real.patients if real and column in COLUMNS[4:] else lesions.patients
            difference, low, high = patient_interval(
                own - np.array(first[column]), owner, np.random.default_rng(0)
            )
            cells.append(f"{own.mean():.3f} ({difference:+.3f}: {low:+.3f}..{high:+.3f})")
        print(f"| {name} | {cost} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
