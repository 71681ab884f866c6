"""From a trained run to a bundle folder.

classifier.onnx          scans of any size and number, preprocessing inside
classifier_mobile.onnx   one resized scan, every shape fixed, for phones' accelerators
classifier_int8.onnx     the same in 8-bit integers, where it is as good
bundle.json              all that the metadata of the files says, and how they were tested
golden/                  synthetic scans with the expected outputs of every stage
viewer.html              a page that answers offline, opened by a double click
README.md  MODEL_CARD.md  verify.py  SHA256SUMS
.oct_jax                 marks the folder as made by this package
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec import Struct, field
from onnx import ModelProto

from oct_jax.classifier import Classifier
from oct_jax.data.loader import Batch, read_batch
from oct_jax.data.scans import Scans
from oct_jax.export import documents
from oct_jax.export.decision import describe_decision
from oct_jax.export.evidence import answer, figures
from oct_jax.export.golden import Golden, encode_pgm, make_golden
from oct_jax.export.graph import IR_VERSION, make_graphs
from oct_jax.export.quantize import Quantized, left_out, search
from oct_jax.export.staging import check_place, staging
from oct_jax.export.trunk import OPSET
from oct_jax.export.verify import SUMS, VIEWER, mobile_usability, verify
from oct_jax.export.viewer import MissingPackages, build_viewer
from oct_jax.files import Count, Sha256, read_json
from oct_jax.model.protocol import digest_of
from oct_jax.reports.evaluation_page import to_lines
from oct_jax.runs.config import read_run_config
from oct_jax.runs.load import load
from oct_jax.runs.scans import open_run_scans
from oct_jax.runs.verified import REMEDY, FaithfulnessReport, fingerprint, report_path
from oct_jax.types import UserError

LOWEST_ONNXRUNTIME = "1.18.0"
"""That the bundle was tested on; see docs/export.md."""
RESEARCH_USE = "Research use. Not a medical device."
LICENCE = "Apache-2.0"

_TEST_SCANS = 1000
_THREADS = 4


def export(
    run: Path,
    out: Path,
    *,
    calibration_scans: int = 200,
    viewer: bool = True,
    notify: Callable[[str], None] | None = None,
) -> None:
    """Writes a run's bundle, all of it or nothing, and verifies it.

    Args:
      run: the folder of a trained run.
      out: the bundle's folder, which an earlier bundle may be in.
      calibration_scans: at most so many scans calibrate int8, and as many choose its recipe.
      viewer: whether to add the page that answers offline.
      notify: called with a line for a person, now and then.

    Raises:
      UserError: no trained run, a run that cannot be exported, or something of another kind where
        the bundle should go.
    """
    check_place(out)
    classifier = load(run)
    notify = notify or (lambda line: None)
    try:
        with staging(out) as folder:
            write_bundle(folder, run, classifier, calibration_scans, viewer, notify)
            problems = verify(folder)
            if problems:
                raise UserError(
                    f"{run}: its bundle does not verify, so none is written: {problems[0]}"
                )
    except Exception as error:
        # onnxruntime, which writes models of its own, has no type for a full disk.
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise UserError(
            f"{out}: the disk is full; nothing was kept: free space, then run the same command"
        ) from error


def write_bundle(
    folder: Path,
    run: Path,
    classifier: Classifier,
    calibration_scans: int,
    viewer: bool,
    notify: Callable[[str], None],
) -> None:
    """Fills an empty folder; the same bytes for the same run and the same versions."""
    about = describe(run, classifier)
    evidence = _evidence(run, classifier)
    graphs = make_graphs(classifier)
    measured = None
    try:
        scans = open_run_scans(run)
    except UserError as error:
        notify(f"{error}; exporting without int8 and without figures")
        quantized = Quantized(None, left_out(f"the run's scans cannot be read ({error})"))
    else:
        test = _read_split(scans, "test", classifier, at_most=_TEST_SCANS)
        quantized = _quantize(classifier, graphs.mobile, scans, test, calibration_scans, notify)
        if len(test["label"]):
            answers = answer(graphs.mobile.SerializeToString(), test["image"])
            patients = _tested_patients(scans)
            measured = figures(answers, test["label"], patients, classifier.rule, classifier.task)
    golden = make_golden(classifier)

    models = {"classifier": graphs.any_size, "classifier_mobile": graphs.mobile}
    if quantized.model is not None:
        models["classifier_int8"] = quantized.model
    for name, model in models.items():
        _write_model(folder, name, model, about)
    _write_golden(folder, golden, about["model"]["sha256"], int8=quantized.model is not None)
    about |= {
        "files": {
            f"{name}.onnx": _interface(model) | {"sha256": _sha256(folder / f"{name}.onnx")}
            for name, model in models.items()
        },
        "mobile_usability": mobile_usability(folder),
        "int8": quantized.report,
        "test": measured,
        "viewer": viewer and _write_viewer(folder, run, classifier, golden, measured, notify),
    }
    _write_json(folder / "bundle.json", about)
    _write(folder / "README.md", documents.readme(about))
    _write(folder / "MODEL_CARD.md", documents.model_card(about, evidence))
    shutil.copyfile(Path(__file__).with_name("verify.py"), folder / "verify.py")
    _write(folder / SUMS, sums_of(folder))


def describe(run: Path, classifier: Classifier) -> dict[str, Any]:
    """What every file of a bundle says of itself, as JSON values."""
    origin = _provenance(run)
    return {
        "format": 1,
        "labels": list(classifier.task.classes),
        "synthetic": classifier.synthetic,
        "research_use": RESEARCH_USE
        + (" SYNTHETIC: trained on phantoms, says nothing of patients." * classifier.synthetic),
        "licence": LICENCE,
        "preprocessing": dataclasses.asdict(classifier.preprocess)
        | {"resampling": "Pillow's antialiased bicubic on 8-bit grey", "grey": "ITU-R BT.601 luma"},
        "decision": describe_decision(classifier),
        "model": {
            "architecture": dataclasses.asdict(read_run_config(run).model),
            "stage": classifier.stage,
            "sha256": digest_of(classifier.variables.params),
        },
        "run": {
            "name": run.resolve().name,
            "config_sha256": hashlib.sha256((run / "config.json").read_bytes()).hexdigest(),
            "data_manifest_sha256": origin.data.manifest_sha256,
            "scans": origin.data.counts,
            "weights": _without_paths(origin.weights),
            "seed": origin.seed,
            "trained": origin.created,
            "trained_with": origin.versions,
        },
        "exported_with": {
            name: importlib.metadata.version(name)
            for name in ("oct-jax", "jax", "jax2onnx", "onnx", "onnxruntime", "numpy")
        },
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "lowest_onnxruntime": LOWEST_ONNXRUNTIME,
    }


def _write_viewer(
    folder: Path,
    run: Path,
    classifier: Classifier,
    golden: Golden,
    measured: Mapping[str, Any] | None,
    notify: Callable[[str], None],
) -> bool:
    """Adds the page; False where what it is made of cannot be had."""
    model = (folder / "classifier.onnx").read_bytes()
    try:
        page = build_viewer(model, classifier, golden, run.resolve().name, measured)
    except MissingPackages as error:
        notify(f"{VIEWER} is left out: {error}")
        return False
    _write(folder / VIEWER, page)
    return True


def sums_of(folder: Path) -> str:
    """The lines of `SHA256SUMS`, as `sha256sum -c` reads them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    return "".join(lines)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _quantize(
    classifier: Classifier,
    mobile: ModelProto,
    scans: Scans,
    test: Batch,
    calibration_scans: int,
    notify: Callable[[str], None],
) -> Quantized:
    calibration, validation = (
        _read_split(scans, split, classifier, at_most=calibration_scans)
        for split in ("calibration", "val")
    )
    notify("int8: trying recipes")
    quantized = search(
        mobile,
        classifier.rule,
        calibration=calibration["image"],
        validation=validation,
        test=test,
        task=classifier.task,
    )
    if quantized.model is None:
        notify(f"int8 is left out: {quantized.report['reason']}")
    return quantized


def _tested_patients(scans: Scans) -> tuple[str, ...]:
    """Of each test scan that `_read_split` reads."""
    patients = scans.select("test").patients
    return patients[:: max(-(-len(patients) // _TEST_SCANS), 1)]


def _read_split(scans: Scans, split: str, classifier: Classifier, *, at_most: int) -> Batch:
    chosen = scans.select(split)
    return read_batch(chosen, classifier.preprocess, at_most=at_most, threads=_THREADS)


def _write_model(folder: Path, name: str, model: ModelProto, about: Mapping[str, Any]) -> None:
    del model.metadata_props[:]
    for key, value in metadata(about).items():
        model.metadata_props.add(key=key, value=value)
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))


def metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """`metadata_props` of a file: text as it is, all else as JSON."""
    return {
        f"oct_jax.{name}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in about.items()
    }


def _write_golden(folder: Path, golden: Any, model_sha256: str, *, int8: bool) -> None:
    where = folder / "golden"
    where.mkdir()
    for name, scan in golden.scans.items():
        (where / f"{name}.pgm").write_bytes(encode_pgm(scan))
        (where / f"{name}.resized.pgm").write_bytes(encode_pgm(golden.resized[name]))
    if int8:
        scans = np.stack(list(golden.resized.values()))
        answers = answer((folder / "classifier_int8.onnx").read_bytes(), scans)
        for case, probabilities in zip(golden.answers, answers.probabilities, strict=True):
            case["int8_probabilities"] = probabilities.tolist()
    content = {
        "synthetic": True,
        "made_by": "oct_jax.data.phantom",
        "model_sha256": model_sha256,
        "scans": golden.answers,
    }
    _write_json(where / "golden.json", content)


def _interface(model: ModelProto) -> dict[str, Any]:
    def tensors(values) -> dict[str, Any]:
        return {
            value.name: {
                "type": onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
                "shape": [
                    axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim
                ],
            }
            for value in values
        }

    return {
        "opset": next(entry.version for entry in model.opset_import if not entry.domain),
        "inputs": tensors(model.graph.input),
        "outputs": tensors(model.graph.output),
    }


def _evidence(run: Path, classifier: Classifier) -> dict[str, Any]:
    """What the run's own reports say, where it has them and they are of this very model."""
    model = fingerprint(classifier)
    evidence: dict[str, Any] = {}
    path = run / "evaluation" / "report.json"
    if path.is_file():
        remedy = "delete it, or make it anew with `just evaluate`"
        evaluation: dict[str, Any] = read_json(path, dict[str, Any], remedy=remedy)
        if evaluation.get("model") == model:
            try:
                evidence["evaluation"] = to_lines(evaluation)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise UserError(f"{path}: damaged ({error!r}); {remedy}") from error
    path = report_path(run)
    if path.is_file():
        faithfulness: FaithfulnessReport = read_json(path, FaithfulnessReport, remedy=REMEDY)
        if faithfulness.model == model:
            evidence["explanation"] = faithfulness
    return evidence


class _DataReport(Struct):
    manifest_sha256: Sha256 | None = None
    counts: dict[str, dict[str, Count]] | None = None


class _Provenance(Struct):
    """What is read of `provenance.json`; it holds more."""

    data: _DataReport = field(default_factory=_DataReport)
    weights: dict[str, Any] = {}
    seed: Count | None = None
    created: str | None = None
    versions: dict[str, str] | None = None


def _provenance(run: Path) -> _Provenance:
    path = run / "provenance.json"
    return read_json(path, _Provenance) if path.is_file() else _Provenance()


def _without_paths(weights: Mapping[str, Any]) -> dict[str, Any]:
    """A weight source without the folders of the machine that it was on."""
    public = dict(weights)
    if "path" in public:
        public["file"] = Path(public.pop("path")).name
    return public


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
