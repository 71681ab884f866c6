"""From a trained model to a bundle folder.

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

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from oct_jax.classifier import Classifier
from oct_jax.data.loader import Batch, read_batch
from oct_jax.data.scans import Scans
from oct_jax.export import documents
from oct_jax.export.description import describe, evidence_of, name_of
from oct_jax.export.evidence import answer, figures
from oct_jax.export.golden import Golden, encode_pgm, make_golden
from oct_jax.export.graph import make_graphs
from oct_jax.export.quantize import Quantized, left_out, search
from oct_jax.export.splits import Splits, open_splits
from oct_jax.export.staging import check_place, staging
from oct_jax.export.verify import SUMS, VIEWER, mobile_usability, verify
from oct_jax.export.viewer import MissingPackages, build_viewer
from oct_jax.runs.source import ModelSource
from oct_jax.types import UserError

_TEST_SCANS = 1000
_THREADS = 4


def export(
    source: ModelSource,
    out: Path,
    *,
    data: str | None = None,
    calibration_scans: int = 200,
    viewer: bool = True,
    notify: Callable[[str], None] | None = None,
) -> None:
    """Writes a model's bundle, all of it or nothing, and verifies it.

    Args:
      source: a run or a model file.
      out: the bundle's folder, which an earlier bundle may be in.
      data: labelled scans that the model was not trained on, which calibrate and test int8; None:
        the run's own, and for a model file none.
      calibration_scans: at most so many scans calibrate int8, and as many choose its recipe.
      viewer: whether to add the page that answers offline.
      notify: called with a line for a person, now and then.

    Raises:
      UserError: no trained model, one that cannot be exported, scans that it was trained on, or
        something of another kind where the bundle should go.
    """
    check_place(out)
    classifier = source.load()
    notify = notify or (lambda line: None)
    splits = open_splits(source, classifier, data)
    try:
        with staging(out) as folder:
            write_bundle(folder, source, classifier, splits, calibration_scans, viewer, notify)
            problems = verify(folder)
            if problems:
                raise UserError(
                    f"{source.name}: its bundle does not verify, so none is written: {problems[0]}"
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
    source: ModelSource,
    classifier: Classifier,
    splits: Splits | str,
    calibration_scans: int,
    viewer: bool,
    notify: Callable[[str], None],
) -> None:
    """Fills an empty folder; the same bytes for the same model and the same versions.

    Args:
      folder: empty.
      source: where the model is.
      classifier: the model.
      splits: the scans that calibrate and test int8, or why there are none.
      calibration_scans: see `export`.
      viewer: see `export`.
      notify: see `export`.
    """
    about = describe(source, classifier)
    evidence = evidence_of(source, classifier)
    graphs = make_graphs(classifier)
    measured = None
    if isinstance(splits, str):
        notify(f"{splits}; exporting without int8 and without figures")
        quantized = Quantized(None, left_out(splits))
    else:
        test = _read(splits.test, classifier, at_most=_TEST_SCANS)
        quantized = _quantize(classifier, graphs.mobile, splits, test, calibration_scans, notify)
        if len(test["label"]):
            answers = answer(graphs.mobile.SerializeToString(), test["image"])
            patients = _tested_patients(splits.test)
            measured = figures(answers, test["label"], patients, classifier.rule, classifier.task)
            measured |= {"of": splits.name}
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
        "viewer": viewer and _write_viewer(folder, source, classifier, golden, measured, notify),
    }
    _write_json(folder / "bundle.json", about)
    _write(folder / "README.md", documents.readme(about))
    _write(folder / "MODEL_CARD.md", documents.model_card(about, evidence))
    shutil.copyfile(Path(__file__).with_name("verify.py"), folder / "verify.py")
    _write(folder / SUMS, sums_of(folder))


def _write_viewer(
    folder: Path,
    source: ModelSource,
    classifier: Classifier,
    golden: Golden,
    measured: Mapping[str, Any] | None,
    notify: Callable[[str], None],
) -> bool:
    """Adds the page; False where what it is made of cannot be had."""
    model = (folder / "classifier.onnx").read_bytes()
    try:
        page = build_viewer(model, classifier, golden, name_of(source), measured)
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
    splits: Splits,
    test: Batch,
    calibration_scans: int,
    notify: Callable[[str], None],
) -> Quantized:
    calibration = _read(splits.calibration, classifier, at_most=calibration_scans)
    validation = _read(splits.validation, classifier, at_most=calibration_scans)
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


def _tested_patients(test: Scans) -> tuple[str, ...]:
    """Of each test scan that `_read` reads."""
    return test.patients[:: max(-(-len(test) // _TEST_SCANS), 1)]


def _read(scans: Scans, classifier: Classifier, *, at_most: int) -> Batch:
    return read_batch(scans, classifier.preprocess, at_most=at_most, threads=_THREADS)


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


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
