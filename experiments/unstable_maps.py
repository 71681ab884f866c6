"""How far noise moves the peaks of maps: where the mark "unstable" begins, and what it catches.

    python unstable_maps.py RUN [masks=FOLDER] [lesion=DME]

On the run's own calibration scans, each map of the predicted class: quantiles of the shift, in
shares of the input's side, on which the threshold rests. With `masks` (as `heatmaps.py` reads it,
`phantom` included), of each map of the lesion's class also whether its peak is off the lesion,
beyond 15 pixels of 224: how often that is below and above the threshold. Intervals draw patients.
"""

import json
import sys
from pathlib import Path

import numpy as np
from heatmaps import TOLERANCE, outlined, phantoms

from oct_jax import load
from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import to_input_coordinates
from oct_jax.explain.faithfulness import patient_interval, points_at
from oct_jax.explain.gradcam import PREDICTED, Explained, explain_all, make_explain
from oct_jax.model.inference import batch_slices
from oct_jax.reports.doubts import FAR, noisy, peak_shift
from oct_jax.runs.scans import open_run_scans

QUANTILES = (0.5, 0.75, 0.9, 0.95)


def cells_of(classifier: Classifier, inputs: np.ndarray, targets: np.ndarray) -> Explained:
    """Maps and outputs of scans of the input's size."""
    program = make_explain(classifier.model, classifier.preprocess)
    batches = [(inputs[rows], targets[rows]) for rows in batch_slices(len(inputs))]
    return explain_all(program, classifier.variables, batches)


def shifts(classifier: Classifier, inputs: np.ndarray, cells: np.ndarray, targets: np.ndarray):
    """Of each scan of the input's size, the largest shift over the draws of noise."""
    draws = np.stack([noisy(scan, number) for number, scan in enumerate(inputs)])
    each = draws.shape[1]
    moved = cells_of(classifier, draws.reshape(-1, *inputs.shape[1:]), targets.repeat(each)).maps
    moved = np.asarray(moved).reshape(len(inputs), each, *cells.shape[1:])
    size = classifier.preprocess.size
    pairs = zip(cells, moved, strict=True)
    return np.array([peak_shift(own, noise, classifier.grid, size) for own, noise in pairs])


def on_calibration_scans(run: Path, classifier: Classifier) -> dict[str, float]:
    """Quantiles of the shift, and how many maps are beyond the threshold."""
    scans = open_run_scans(run).select("calibration")
    rows = range(len(scans))
    inputs = np.stack([scans.read_resized(row, classifier.preprocess) for row in rows])
    predicted = np.full(len(inputs), PREDICTED, np.int32)
    outputs, cells = cells_of(classifier, inputs, predicted)
    targets = np.asarray(outputs.logits).argmax(-1).astype(np.int32)
    own = shifts(classifier, inputs, np.asarray(cells), targets)
    quantiles = {f"{share:.0%}": round(float(np.quantile(own, share)), 3) for share in QUANTILES}
    return {"calibration scans": len(own), "beyond": float((own > FAR).mean())} | quantiles


def main(words: list[str]) -> None:
    """Prints one JSON line for the calibration scans, and two for the outlined ones."""
    run, settings = Path(words[0]), dict(word.split("=", 1) for word in words[1:])
    classifier = load(run)
    print(json.dumps(on_calibration_scans(run, classifier)), flush=True)
    if "masks" not in settings:
        return
    lesion = settings.get("lesion", "DME")
    if settings["masks"] == "phantom":
        case = phantoms(run, classifier, lesion)
    else:
        case = outlined(Path(settings["masks"]), classifier, lesion)
    assert case.lesions is not None
    size = classifier.preprocess.size
    cells = np.asarray(cells_of(classifier, case.inputs, case.targets).maps)
    moved = shifts(classifier, case.inputs, cells, case.targets)
    heats = [to_input_coordinates(one, classifier.grid, size) for one in cells]
    hits = [
        points_at(heat, mask, round(TOLERANCE * size))
        for heat, mask in zip(heats, case.lesions, strict=True)
    ]
    off = ~np.array(hits)
    for name, chosen in (("stable", moved <= FAR), ("unstable", moved > FAR)):
        share = None
        if chosen.any():
            patients = [case.patients[row] for row in np.flatnonzero(chosen)]
            share = patient_interval(off[chosen].astype(float), patients, np.random.default_rng(0))
        print(json.dumps({f"{lesion}, {name}": int(chosen.sum()), "peak off the lesion": share}))


if __name__ == "__main__":
    main(sys.argv[1:])
