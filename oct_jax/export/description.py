"""What a bundle says of its model: where it comes from, how it decides, what was measured."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Iterator
from typing import Any

from oct_jax.classifier import Classifier, config_of
from oct_jax.export.decision import describe_decision
from oct_jax.export.graph import IR_VERSION
from oct_jax.export.trunk import OPSET
from oct_jax.files import convert, read_json
from oct_jax.model.protocol import digest_of
from oct_jax.provenance import Facts, Measured
from oct_jax.reports.evaluation_page import to_lines
from oct_jax.runs.source import ModelSource
from oct_jax.runs.verified import fingerprint
from oct_jax.types import UserError

LOWEST_ONNXRUNTIME = "1.18.0"
"""That the bundle was tested on; see docs/export.md."""
RESEARCH_USE = "Research use. Not a medical device."
LICENCE = "Apache-2.0"


def describe(source: ModelSource, classifier: Classifier) -> dict[str, Any]:
    """What every file of a bundle says of itself, as JSON values."""
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
            "architecture": dataclasses.asdict(config_of(classifier.model)),
            "stage": classifier.stage,
            "sha256": digest_of(classifier.variables.params),
        },
        "run": _origin(source, classifier),
        "exported_with": {
            name: importlib.metadata.version(name)
            for name in ("oct-jax", "jax", "jax2onnx", "onnx", "onnxruntime", "numpy")
        },
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "lowest_onnxruntime": LOWEST_ONNXRUNTIME,
    }


def name_of(source: ModelSource) -> str:
    """A model's name, without the folders of the machine that it is on."""
    return source.folder.resolve().name


def evidence_of(source: ModelSource, classifier: Classifier) -> dict[str, Any]:
    """What was measured of this very model: lines of `evaluation`, and the `explanation` report.

    Raises:
      UserError: the run's report is damaged.
    """
    evidence: dict[str, Any] = {"evaluation": _evaluation(source, classifier)}
    for report in classifier.provenance.tested:
        if (report.method, report.flip) == ("gradcam", False):
            evidence["explanation"] = report
    return {name: value for name, value in evidence.items() if value}


def _origin(source: ModelSource, classifier: Classifier) -> dict[str, Any]:
    facts = _facts(source, classifier)
    config = None
    if source.run is not None:
        config = hashlib.sha256((source.run / "config.json").read_bytes()).hexdigest()
    return {
        "name": name_of(source),
        "kind": "model file" if source.run is None else "run",
        "config_sha256": config,
        "data_manifest_sha256": facts.data.manifest_sha256,
        "scans": facts.data.scans,
        "weights": facts.weights,
        "seed": facts.seed,
        "trained": facts.created,
        "trained_with": facts.versions,
    }


def _facts(source: ModelSource, classifier: Classifier) -> Facts:
    remedy = "get the model again"
    return convert(dict(classifier.provenance.facts), Facts, f"{source.name}: facts", remedy=remedy)


def _evaluation(source: ModelSource, classifier: Classifier) -> list[str]:
    """The run's evaluation of its test scans; of a model file what the file says was measured."""
    if source.run is None:
        return list(_in_short(_facts(source, classifier).measured))
    path = source.run / "evaluation" / "report.json"
    if not path.is_file():
        return []
    remedy = "delete it, or make it anew with `just evaluate`"
    report: dict[str, Any] = read_json(path, dict[str, Any], remedy=remedy)
    if report.get("model") != fingerprint(classifier):
        return []
    try:
        return to_lines(report)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error!r}); {remedy}") from error


def _in_short(measured: list[Measured]) -> Iterator[str]:
    for each in measured:
        mark = ", CONTAMINATED: trained on patients of these" if each.contaminated else ""
        yield f"{each.data}, {each.split}: {each.scans} scans{mark}"
        for name, (value, low, high) in each.figures.items():
            yield f"  {name} {value:.3f} ({low:.3f}-{high:.3f})"
