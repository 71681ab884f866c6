"""Checks a bundle: nothing changed, and every model gives the golden answers on this machine.

    python verify.py [FOLDER]

Needs only numpy and onnxruntime, so that it can be shipped in the bundle. With the package `onnx`
installed it also asks onnxruntime's checker whether phones' accelerators take the mobile model.

Exit code: 0 where everything holds, 1 where something does not (each named in a line), 2 where the
folder is no bundle.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

SUMS = "SHA256SUMS"
MODELS = ("classifier", "classifier_mobile", "classifier_int8")
PROBABILITY, HEATMAP, RESIZED, OUTLIER = 1e-3, 0.05, 0.01, 0.01
"""Largest differences from the golden answers: of a probability, of a heatmap (of its peak 1), the
mean of the resized scan's grey levels, and of the outlier score as a share of it. Rounding differs
between processors; a wrong preprocessing is off by ten times as much."""
INT8_PROBABILITY = 0.1
"""Integer kernels differ more: from the golden answers of the int8 model itself."""
_RUNS = 20


def verify(folder: Path) -> list[str]:
    """Checks a bundle and prints what it sees.

    Returns:
      What does not hold, a line each, the file's name first.

    Raises:
      FileNotFoundError: the folder is no bundle.
    """
    problems = check_sums(folder)
    for problem in problems:
        print(f"FAILED  {problem}")
    if problems:
        return problems  # what follows would only repeat them
    about = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    print(f"{folder}: {about['research_use']}")
    print("sums: every file is as it was exported")
    for path in sorted(path for path in folder.iterdir() if path.stem in MODELS):
        if path.suffix in (".onnx", ".ort"):
            problems += _check_model(folder, path)
    print(f"mobile accelerators: {describe_usability(mobile_usability(folder))}")
    return problems


def check_sums(folder: Path) -> list[str]:
    """Files that are missing, changed, or not part of the bundle."""
    listed = {}
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    problems = []
    for name, digest in sorted(listed.items()):
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            problems.append(f"{name}: changed since it was exported (SHA-256 differs)")
    for name in ("bundle.json", "classifier.onnx", "classifier_mobile.onnx", "golden/golden.json"):
        if name not in listed:
            problems.append(f"{name}: not in {SUMS}")
    return problems


def read_pgm(path: Path) -> np.ndarray:
    """A binary 8-bit PGM file as uint8 (height, width)."""
    data = path.read_bytes()
    kind, size, levels = data.split(b"\n", 3)[:3]
    width, height = map(int, size.split())
    if kind != b"P5" or levels != b"255":
        raise ValueError(f"{path}: not a binary 8-bit PGM file")
    return np.frombuffer(data[-width * height :], np.uint8).reshape(height, width)


def open_model(path: Path) -> onnxruntime.InferenceSession:
    """A session on the processor; `.onnx` or `.ort`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feed(session: onnxruntime.InferenceSession, scan: np.ndarray, resized: np.ndarray) -> dict:
    """The input of a model: the scan itself, or what it was resized to as float32 grey levels."""
    if session.get_inputs()[0].name == "scans":
        return {"scans": scan[None]}
    return {"scan": resized[None, None].astype(np.float32)}


def run(session: onnxruntime.InferenceSession, inputs: dict) -> dict[str, np.ndarray]:
    """All outputs by name."""
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, inputs)
    return {name: np.asarray(output) for name, output in zip(names, outputs, strict=True)}


def mobile_usability(folder: Path) -> dict[str, dict[str, int]] | None:
    """What onnxruntime's checker says of the mobile model, by accelerator; None without `onnx`."""
    try:
        import onnx
        from onnxruntime.tools.mobile_helpers import usability_checker as checker
    except ImportError:
        return None
    model = onnx.load(str(folder / "classifier_mobile.onnx"))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    fixed = True
    parts = {
        "NNAPI": checker.check_nnapi_partitions(model, fixed),
        "CoreML NeuralNetwork": checker.check_coreml_partitions(
            model, fixed, "coreml_supported_neuralnetwork_ops.md"
        ),
        "CoreML MLProgram": checker.check_coreml_partitions(
            model, fixed, "coreml_supported_mlprogram_ops.md"
        ),
    }
    return {
        name: {
            "partitions": part.num_partitions,
            "nodes": part.num_nodes,
            "supported_nodes": part.num_supported_nodes,
        }
        for name, part in parts.items()
    }


def describe_usability(found: dict[str, dict[str, int]] | None) -> str:
    """The same in words."""
    if found is None:
        return "not checked (pip install onnx)"
    return "; ".join(
        f"{name} takes {parts['supported_nodes']} of {parts['nodes']} operators"
        f" in {parts['partitions']} partition(s)"
        for name, parts in found.items()
    )


def main(words: list[str]) -> int:
    """Checks the bundle that the words name, or the one that this file is in."""
    folder = Path(words[0]) if words else Path(__file__).parent
    if len(words) > 1 or not (folder / SUMS).is_file():
        print(f"error: {folder}: no bundle here (no {SUMS}); verify FOLDER", file=sys.stderr)
        return 2
    problems = verify(folder)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        print(f"verified with onnxruntime {onnxruntime.__version__}")
    return 1 if problems else 0


def _check_model(folder: Path, path: Path) -> list[str]:
    """Runs one model on the golden scans, and prints its differences, latency and size."""
    try:
        session = open_model(path)
    except Exception as error:
        return [f"{path.name}: onnxruntime does not load it ({_one_line(error)})"]
    golden = json.loads((folder / "golden" / "golden.json").read_text(encoding="utf-8"))
    int8 = path.stem == "classifier_int8"
    limits = {
        "probabilities": INT8_PROBABILITY if int8 else PROBABILITY,
        "heatmaps": np.inf if int8 else HEATMAP,
        "resized": RESIZED,
        "outlier_score": np.inf if int8 else OUTLIER,
    }
    worst = dict.fromkeys(limits, 0.0)
    problems = []
    inputs: dict[str, np.ndarray] = {}
    for case in golden["scans"]:
        scan = read_pgm(folder / "golden" / case["scan"])
        resized = read_pgm(folder / "golden" / case["resized"])
        inputs = feed(session, scan, resized)
        try:
            outputs = run(session, inputs)
        except Exception as error:
            return [f"{path.name}: fails on golden/{case['scan']} ({_one_line(error)})"]
        for name, difference in _differences(outputs, case, resized, int8=int8).items():
            worst[name] = max(worst[name], difference)
            if not difference <= limits[name]:
                problems.append(
                    f"{path.name}: {name} of golden/{case['scan']} is off by {difference:.3g}"
                    f" (at most {limits[name]:g})"
                )
    differences = ", ".join(f"{name} {value:.1e}" for name, value in worst.items() if value)
    print(
        f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {_milliseconds(session, inputs):.1f} ms"
        f" a scan; largest differences: {differences or 'none'}"
    )
    return problems


def _differences(
    outputs: dict[str, np.ndarray], case: dict[str, Any], resized: np.ndarray, *, int8: bool
) -> dict[str, float]:
    wanted = case["int8_probabilities"] if int8 else case["probabilities"]
    predicted = int(np.argmax(case["logits"]))
    said = outputs["heatmaps"][0, predicted]
    found = {
        "probabilities": float(np.abs(outputs["probabilities"][0] - wanted).max()),
        "heatmaps": float(np.abs(said - np.array(case["heatmaps"][predicted])).max()),
    }
    if "outlier_score" in outputs:
        found["outlier_score"] = abs(float(outputs["outlier_score"][0]) / case["outlier_score"] - 1)
    if "resized" in outputs:
        levels = outputs["resized"][0].astype(float) - resized
        found["resized"] = float(np.abs(levels).mean())
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _milliseconds(session: onnxruntime.InferenceSession, inputs: dict) -> float:
    times = []
    for _ in range(_RUNS):
        begun = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - begun)
    return 1e3 * float(np.median(times))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
