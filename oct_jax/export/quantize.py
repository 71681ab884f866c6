"""The mobile model in 8-bit integers: a small search, and a gate that the best must pass.

MobileNetV3 is known to lose accuracy in int8, and which recipe keeps it differs from run to run. So
each is tried: it is calibrated on the calibration scans and chosen by the validation scans; what is
chosen is shipped only if it passes the gate on the test scans.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from oct_jax.arrays import LabelBatch, ScanBatch
from oct_jax.data.loader import Batch
from oct_jax.decision.rule import DecisionRule
from oct_jax.export.evidence import Answers, accuracy, agreement, answer, referrals
from oct_jax.export.head import HIDDEN_KERNEL, TRUNK
from oct_jax.task import KERMANY, Task

LARGEST_DROP, LEAST_AGREEMENT = 0.005, 0.99
"""The gate: of accuracy, and of referrals that are the same as in float."""

_HEAD = ("average", "pooled", "hidden", "channel_weights", "evidence")


@dataclass(frozen=True)
class Recipe:
    """One way to quantize.

    Attributes:
      weights: whether every output channel of a convolution has a scale of its own.
      activations: bits; 16 need opset 21, and are slower than float on a processor.
      in_float: what stays in float: nothing, the squeeze-excite branches, or the network's first
        and last convolutions.
    """

    weights: Literal["per channel", "per tensor"]
    activations: Literal[8, 16]
    in_float: Literal["nothing", "squeeze-excite", "first and last convolution"]


RECIPES = (
    Recipe("per channel", 8, "nothing"),
    Recipe("per tensor", 8, "nothing"),
    Recipe("per channel", 8, "squeeze-excite"),
    Recipe("per channel", 8, "first and last convolution"),
    Recipe("per channel", 16, "nothing"),
)
"""In order of preference, where two do equally well."""


@dataclass(frozen=True)
class Quantized:
    """What came of the search.

    Attributes:
      model: the int8 model; None where none passed.
      report: the search and the gate as JSON values, for `bundle.json`.
    """

    model: ModelProto | None
    report: dict[str, Any]


def search(
    mobile: ModelProto,
    rule: DecisionRule | None,
    *,
    calibration: ScanBatch,
    validation: Batch,
    test: Batch,
    task: Task = KERMANY,
) -> Quantized:
    """Tries every recipe and gates the best.

    Args:
      mobile: the float model, of one scan.
      rule: of the run, whose referrals must stay.
      calibration: sets the ranges of activations.
      validation: chooses among the recipes.
      test: judges the chosen one.
      task: of the labels.
    """
    splits = {"calibration": calibration, "validation": validation["image"], "test": test["image"]}
    empty = [name for name, scans in splits.items() if not len(scans)]
    if empty:
        return Quantized(None, left_out(f"there are no {' and no '.join(empty)} scans"))
    exact = answer(mobile.SerializeToString(), validation["image"])
    rows, models = [], []
    for recipe in RECIPES:
        if recipe.in_float == "squeeze-excite" and not squeeze_excite_nodes(mobile):
            continue  # the minimalistic network has none
        model = quantize(mobile, recipe, calibration)
        answers = answer(model.SerializeToString(), validation["image"])
        rows.append(describe(recipe) | compare(exact, answers, validation["label"], rule, task))
        models.append(model)
    best = max(range(len(rows)), key=lambda index: _merit(rows[index], -index))
    chosen = models[best]
    gate = compare(
        answer(mobile.SerializeToString(), test["image"]),
        answer(chosen.SerializeToString(), test["image"]),
        test["label"],
        rule,
        task,
    )
    report = {
        "calibration_scans": len(calibration),
        "search_on": f"{len(validation['label'])} validation scans",
        "search": rows,
        "chosen": {name: rows[best][name] for name in ("weights", "activations", "in_float")},
        "gate_on": f"{len(test['label'])} test scans",
        "gate": gate | {"largest_drop": LARGEST_DROP, "least_agreement": LEAST_AGREEMENT},
    }
    if not passes(gate):
        return Quantized(None, left_out(why_not(gate, len(test["label"]))) | report)
    return Quantized(chosen, {"shipped": True, "reason": None} | report)


def why_not(gate: Mapping[str, Any], scans: int) -> str:
    """What a model failed of the gate, and nothing that it passed."""
    reasons = []
    if not _is_accurate(gate):
        reasons.append(
            f"accuracy fell from {gate['float_accuracy']:.4f} to {gate['accuracy']:.4f}, where"
            f" {LARGEST_DROP:.3f} is allowed"
        )
    if not _refers_alike(gate):
        reasons.append(
            f"{gate['referral_agreement']:.2%} of the referrals stayed the same, where"
            f" {LEAST_AGREEMENT:.0%} must"
        )
    return f"on {scans} test scans {' and '.join(reasons)}"


def left_out(reason: str) -> dict[str, Any]:
    """What `bundle.json` says where there is no int8 model."""
    return {"shipped": False, "reason": reason}


def describe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values."""
    return {
        "weights": recipe.weights,
        "activations": recipe.activations,
        "in_float": recipe.in_float,
    }


def compare(
    exact: Answers,
    quantized: Answers,
    labels: LabelBatch,
    rule: DecisionRule | None,
    task: Task = KERMANY,
) -> dict[str, float]:
    """How far a quantized model's answers are from the float model's."""
    change = np.abs(quantized.probabilities - exact.probabilities).max(1)
    return {
        "float_accuracy": accuracy(exact, labels),
        "accuracy": accuracy(quantized, labels),
        "referral_agreement": agreement(
            referrals(exact, rule, task), referrals(quantized, rule, task)
        ),
        "mean_change_of_probability": round(float(change.mean()), 6),
        "mean_heatmap_correlation": round(_correlation(exact.heatmaps, quantized.heatmaps), 4),
    }


def passes(row: Mapping[str, Any]) -> bool:
    """Whether a comparison is within the gate."""
    return _is_accurate(row) and _refers_alike(row)


def _is_accurate(row: Mapping[str, Any]) -> bool:
    return row["float_accuracy"] - row["accuracy"] <= LARGEST_DROP + 1e-9


def _refers_alike(row: Mapping[str, Any]) -> bool:
    return row["referral_agreement"] >= LEAST_AGREEMENT


def quantize(mobile: ModelProto, recipe: Recipe, calibration: ScanBatch) -> ModelProto:
    """Static quantization in QDQ form by onnxruntime, the same bytes for the same input."""
    bits = {8: QuantType.QUInt8, 16: QuantType.QUInt16}[recipe.activations]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        exact, path = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(mobile, exact)  # given as an object, it would be changed
        quantize_static(
            exact,
            path,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=quantized_nodes(mobile, recipe),
            per_channel=recipe.weights == "per channel",
            activation_type=bits,
            weight_type=QuantType.QInt8,
            # One kernel serves the head and, transposed, the heatmaps: no channel axis suits both.
            extra_options={
                "TensorQuantOverrides": {HIDDEN_KERNEL: [{"quant_type": QuantType.QInt8}]}
            },
        )
        model = onnx.load(path)
    model.producer_name = mobile.producer_name
    model.ClearField("producer_version")
    return model


def quantized_nodes(mobile: ModelProto, recipe: Recipe) -> list[str]:
    """Names of the nodes that a recipe quantizes: the network, and what is heavy of the head.

    Normalisation, logits, softmax, outlier score and the last steps of the heatmaps stay in float:
    they cost nothing, and 8 bits would cost them their resolution.
    """
    nodes = [node for node in mobile.graph.node if node.name.startswith(TRUNK)]
    names = [node.name for node in nodes if TRUNK + "images" not in node.output]
    if recipe.in_float == "first and last convolution":
        convolutions = [node.name for node in nodes if node.op_type == "Conv"]
        names = [name for name in names if name not in (convolutions[0], convolutions[-1])]
    if recipe.in_float == "squeeze-excite":
        kept = squeeze_excite_nodes(mobile)
        names = [name for name in names if name not in kept]
    return [*names, *_HEAD]


def squeeze_excite_nodes(mobile: ModelProto) -> set[str]:
    """Nodes of the network whose output is one number for each channel."""
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in mobile.graph.value_info
    }
    return {
        node.name
        for node in mobile.graph.node
        if node.name.startswith(TRUNK) and shapes.get(node.output[0], [])[2:] == [1, 1]
    }


class _Reader(CalibrationDataReader):
    def __init__(self, scans: ScanBatch):
        self._scans: Iterator[np.ndarray] = iter(scans)

    def get_next(self) -> dict:
        """The next scan as an input of the model; nothing after the last."""
        scan = next(self._scans, None)
        return {} if scan is None else {"scan": scan[None, None].astype(np.float32)}


def _merit(row: dict[str, Any], order: int) -> tuple:
    """8-bit recipes that pass come first, then 16-bit ones; among equals the more faithful."""
    return (
        passes(row),
        row["activations"] == 8,
        row["referral_agreement"],
        -row["mean_change_of_probability"],
        order,
    )


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over scans of the correlation of two heatmaps; a flat one is like none."""
    correlations = []
    for a, b in zip(first, second, strict=True):
        flat = min(a.std(), b.std()) < 1e-6
        correlations.append(
            float(np.allclose(a, b)) if flat else float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
        )
    return float(np.mean(correlations))


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without the advice to optimize the model first, which it is, on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
