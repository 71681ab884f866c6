"""Checks a bundle: nothing changed, and every model gives the golden answers on this machine.

    python verify.py [FOLDER]

Needs only numpy and onnxruntime, so that it can be shipped in the bundle. With the package `onnx`
installed it also asks onnxruntime's checker whether phones' accelerators take the mobile model.

Exit code: 0 where everything holds, 1 where something does not (each named in a line), 2 where the
folder is no bundle.

The list of files in SHA256SUMS is closed: it must be complete, and nothing may lie beside it. That
finds damage and mix-ups; whoever can rewrite every file of a bundle can forge it all.
"""

import os
import sys

if __name__ == "__main__":
    # Nothing is imported from the folder of this file: a `numpy.py` there would be run as NumPy.
    # `os` and `sys` were imported when Python started.
    _here = os.path.realpath(os.path.dirname(__file__) or ".")
    sys.path[:] = [path for path in sys.path if os.path.realpath(path or ".") != _here]

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

SUMS = "SHA256SUMS"
MODELS = ("classifier", "classifier_mobile", "classifier_int8")
DOCUMENTS = ("README.md", "MODEL_CARD.md", "verify.py", "bundle.json", "golden/golden.json")
VIEWER = "viewer.html"
MARKER = ".oct_jax"
"""In bundles since export replaces marked folders alone; listed like every other file."""
PROBABILITY, HEATMAP, RESIZED, OUTLIER = 1e-3, 0.05, 0.01, 0.01
"""Largest differences from the golden answers: of a probability, of a heatmap (of its peak 1), the
mean of the resized scan's grey levels, and of the outlier score as a share of it. Rounding differs
between processors; a wrong preprocessing is off by ten times as much."""
INT8_PROBABILITY = 0.1
"""Integer kernels differ more: from the golden answers of the int8 model itself."""
_RUNS = 20
_PREFIX = "oct_jax."
_METADATA = ("format", "labels", "preprocessing", "decision", "model", "run", "research_use")
"""What every model's metadata must hold, and bundle.json the same."""
# What reading JSON of another form than export's raises.
_WRONG_FORM = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)


class BundleError(Exception):
    """What does not hold, in one line; the file's name first."""


def verify(folder: Path) -> list[str]:
    """Checks a bundle and prints what it sees.

    Returns:
      What does not hold, a line each, the file's name first.
    """
    try:
        problems = check_files(folder)
        if not problems:
            problems = _check_models(folder)
    except BundleError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"FAILED  {_printable(problem)}")
    return [_printable(problem) for problem in problems]


def check_files(folder: Path) -> list[str]:
    """Files that are missing, changed, renamed, or not part of the bundle."""
    listed = read_sums(folder)
    present = files_in(folder)
    digests = {name: _sha256(folder / name) for name in sorted(present)}
    expected = _expected_files(folder) if {"bundle.json", "golden/golden.json"} <= present else None
    missing = sorted(set(listed) - present)
    problems = []
    for name in sorted(present - set(listed)):
        former = [old for old in missing if listed[old] == digests[name]]
        if former:
            missing.remove(former[0])
            problems.append(f"{name}: renamed, was {former[0]}")
        else:
            problems.append(f"{name}: not part of the bundle (not in {SUMS})")
    problems += [f"{name}: missing" for name in missing]
    problems += [
        f"{name}: changed since it was exported (SHA-256 differs)"
        for name in sorted(present & set(listed))
        if digests[name] != listed[name]
    ]
    if problems:
        return problems  # what follows would only repeat them
    required = expected or set(DOCUMENTS)
    others = set(listed) - required - {MARKER}
    problems += [f"{name}: not in {SUMS}" for name in sorted(required - set(listed))]
    return problems + [f"{name}: not part of a bundle" for name in sorted(others)]


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its name, from `SHA256SUMS`."""
    listed: dict[str, str] = {}
    for number, line in enumerate(_text(folder, SUMS).split("\n")[:-1], 1):
        match = re.fullmatch(r"([0-9a-f]{64})  ([^\\:\x00-\x1f]+)", line)
        parts = match.group(2).split("/") if match else [""]
        if match is None or "" in parts or ".." in parts or "." in parts:
            raise BundleError(f"{SUMS}: line {number} is no checksum of a file of the bundle")
        if match.group(2) in listed:
            raise BundleError(f"{SUMS}: line {number} lists {match.group(2)} again")
        listed[match.group(2)] = match.group(1)
    return listed


def read_pgm(path: Path) -> np.ndarray:
    """A binary 8-bit PGM file, as the bundle holds them, as uint8 (height, width)."""
    data = path.read_bytes()
    match = re.match(rb"P5\n([1-9][0-9]{0,5}) ([1-9][0-9]{0,5})\n255\n", data)
    if match is None or len(data) - match.end() != int(match.group(1)) * int(match.group(2)):
        raise BundleError(f"{path.name}: not a binary 8-bit PGM file")
    shape = int(match.group(2)), int(match.group(1))
    return np.frombuffer(data, np.uint8, offset=match.end()).reshape(shape)


def open_model(path: Path) -> onnxruntime.InferenceSession:
    """A session on the processor."""
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


def describe_usability(usability: dict[str, dict[str, int]] | None) -> str:
    """The same in words."""
    if usability is None:
        return "not checked (pip install onnx)"
    return "; ".join(
        f"{name} takes {parts['supported_nodes']} of {parts['nodes']} operators"
        f" in {parts['partitions']} partition(s)"
        for name, parts in usability.items()
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


def files_in(folder: Path) -> set[str]:
    """Names of all files below a folder but the sums; links are none, wherever they point."""
    names = set()
    for where, folders, files in os.walk(str(folder)):
        for name in folders + files:
            path = Path(where) / name
            shown = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BundleError(f"{shown}: not a regular file")
            if path.is_file():
                names.add(shown)
    return names - {SUMS}


def _expected_files(folder: Path) -> set[str]:
    """The files that `bundle.json` and `golden.json` speak of, and the documents."""
    about, golden = _json(folder, "bundle.json"), _json(folder, "golden/golden.json")
    try:
        names = {f"golden/{case[kind]}" for case in golden["scans"] for kind in ("scan", "resized")}
        models = set(about["files"])
    except _WRONG_FORM as error:
        raise BundleError(f"bundle.json: not written by export ({_one_line(error)})") from error
    if not {"classifier.onnx", "classifier_mobile.onnx"} <= models <= {f"{n}.onnx" for n in MODELS}:
        raise BundleError(f"bundle.json: does not describe the models of a bundle ({models})")
    return names | models | set(DOCUMENTS) | ({VIEWER} if about.get("viewer") else set())


def _check_models(folder: Path) -> list[str]:
    about, golden = _json(folder, "bundle.json"), _json(folder, "golden/golden.json")
    try:
        print(f"{folder}: {_printable(str(about['research_use']))}")
        print("sums: every file is as it was exported, and there is no other")
        if golden["model_sha256"] != about["model"]["sha256"]:
            return ["golden/golden.json: answers of another model than bundle.json describes"]
        if not golden["scans"]:
            return ["golden/golden.json: no golden scans"]
        problems = []
        for name in sorted(about["files"]):
            if about["files"][name]["sha256"] != _sha256(folder / name):
                problems.append(f"{name}: another file than bundle.json describes")
            else:
                problems += _check_model(folder, folder / name, about, golden["scans"])
    except _WRONG_FORM as error:
        raise BundleError(
            f"bundle.json, golden/golden.json: not written by export ({_one_line(error)})"
        ) from error
    print(f"mobile accelerators: {describe_usability(mobile_usability(folder))}")
    return problems


def _check_metadata(path: Path, session: Any, about: dict[str, Any]) -> list[str]:
    """Metadata of a model that `bundle.json` contradicts."""
    metadata = session.get_modelmeta().custom_metadata_map
    wrong = [name for name in _METADATA if _PREFIX + name not in metadata]
    for key, text in metadata.items():
        value = about.get(key[len(_PREFIX) :]) if key.startswith(_PREFIX) else None
        if text != (value if isinstance(value, str) else json.dumps(value, sort_keys=True)):
            wrong.append(key[len(_PREFIX) :])
    return [f"{path.name}: its metadata and bundle.json disagree ({name})" for name in wrong[:1]]


def _check_model(folder: Path, path: Path, about: dict[str, Any], cases: Any) -> list[str]:
    """Runs one model on the golden scans, and prints its differences, latency and size."""
    try:
        session = open_model(path)
    except Exception as error:
        return [f"{path.name}: onnxruntime does not load it ({_one_line(error)})"]
    problems = _check_metadata(path, session, about)
    int8 = path.stem == "classifier_int8"
    limits = {
        "probabilities": INT8_PROBABILITY if int8 else PROBABILITY,
        "heatmaps": np.inf if int8 else HEATMAP,
        "resized": RESIZED,
        "outlier_score": np.inf if int8 else OUTLIER,
    }
    worst = dict.fromkeys(limits, 0.0)
    inputs: dict[str, np.ndarray] = {}
    for case in cases:
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
    heatmap = outputs["heatmaps"][0, predicted]
    differences = {
        "probabilities": _largest(outputs["probabilities"][0], wanted),
        "heatmaps": _largest(heatmap, case["heatmaps"][predicted]),
    }
    if "outlier_score" in outputs:
        score = float(outputs["outlier_score"][0])
        differences["outlier_score"] = abs(score / case["outlier_score"] - 1)
    if "resized" in outputs:
        levels = outputs["resized"][0].astype(float) - resized
        differences["resized"] = float(np.abs(levels).mean())
    return differences


def _largest(values: np.ndarray, wanted: Any) -> float:
    expected = np.array(wanted, float)
    if expected.shape != values.shape:
        raise ValueError(f"golden answers of shape {expected.shape} instead of {values.shape}")
    return float(np.abs(values - expected).max())


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(_text(folder, name))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: not JSON ({_one_line(error)})") from error
    if not isinstance(value, dict):
        raise BundleError(f"{name}: not written by export")
    return value


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{name}: cannot be read ({_one_line(error)})") from error


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"{path.name}: cannot be read ({_one_line(error)})") from error


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _one_line(error: BaseException) -> str:
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
