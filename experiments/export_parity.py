"""Does the exported file say what the run says? On real scans, in their own sizes.

    python experiments/export_parity.py RUN BUNDLE [SCANS]

BUNDLE is what `just export` made, or `-`: the two float graphs are then made anew. Compares JAX
with onnxruntime on SCANS scans (default 200) of the run's data, spread evenly over
them: probabilities, heatmaps, class, outlier score; and, apart from these, the graph's Resize with
Pillow's. Prints one JSON line for each model of the bundle, and one for the resize.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from oct_jax.data.datasets import open_data
from oct_jax.data.preprocess import resize_scan
from oct_jax.export.graph import make_graphs
from oct_jax.export.verify import feed, open_model, run
from oct_jax.runs.config import read_run_config
from oct_jax.runs.load import load
from oct_jax.task import KERMANY


def main(folder: Path, bundle: Path, count: int) -> None:
    """Prints the comparison."""
    classifier = load(folder)
    settings = read_run_config(folder).settings
    source = open_data(
        settings["data"],
        manifest=folder / "manifest.csv",
        on_bad_scan="refuse",
        seed=settings["seed"],
        phantom_patients=settings["phantom_patients"],
    )
    chosen = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int).tolist()
    scans = [source.read(index) for index in chosen]
    resized = [resize_scan(scan, classifier.preprocess) for scan in scans]
    said = classifier.explain(scans)
    for name in ("classifier.onnx", "classifier_mobile.onnx", "classifier_int8.onnx"):
        if not (bundle / name).is_file():
            continue
        session = open_model(bundle / name)
        rows = []
        levels = []
        for scan, small, wanted in zip(scans, resized, said, strict=True):
            found = run(session, feed(session, scan, small))
            predicted = int(found["probabilities"][0].argmax())
            row = {
                "probability": np.abs(
                    found["probabilities"][0] - wanted.prediction.probabilities
                ).max(),
                "cells": np.abs(found["heatmaps"][0, predicted] - wanted.cells).max(),
                "same class": KERMANY.classes[predicted] == wanted.prediction.label,
            }
            decision = wanted.prediction.decision
            if decision is not None and decision.outlier_score is not None:
                score = found["outlier_score"][0]
                row["outlier score, relative"] = abs(score / decision.outlier_score - 1)
            if "resized" in found:
                row["heatmap over the scan"] = np.abs(found["heatmap"][0] - wanted.heatmap).max()
                levels.append(np.abs(found["resized"][0].astype(float) - small))
            rows.append(row)
        told = {
            what: (
                f"{np.mean([row[what] for row in rows]):.3g} mean,"
                f" {np.sort([row[what] for row in rows])[-3:][::-1].round(6).tolist()} worst three"
                if what != "same class"
                else f"{sum(row[what] for row in rows)} of {len(rows)}"
            )
            for what in rows[0]
        }
        print(json.dumps({"model": name, "scans": len(rows)} | told))
        if levels:
            shapes = sorted({scan.shape for scan in scans})
            print(
                json.dumps(
                    {
                        "resize": f"graph against Pillow, {len(shapes)} sizes of scan",
                        "mean difference in grey levels": float(
                            np.mean([level.mean() for level in levels])
                        ),
                        "worst": float(max(level.max() for level in levels)),
                        "scans without any difference": sum(not level.any() for level in levels),
                    }
                )
            )


def made_anew(run: Path, folder: Path) -> Path:
    """A folder with both float graphs of a run, and no documents."""
    graphs = make_graphs(load(run))
    onnx.save(graphs.any_size, folder / "classifier.onnx")
    onnx.save(graphs.mobile, folder / "classifier_mobile.onnx")
    return folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        run_folder = Path(sys.argv[1])
        bundle = Path(sys.argv[2])
        if sys.argv[2] == "-":
            bundle = made_anew(run_folder, Path(temporary))
        main(run_folder, bundle, int(sys.argv[3]) if len(sys.argv) > 3 else 200)
