"""A trained run as an ONNX graph: scan in; probabilities, heatmaps and outlier score out.

`trunk` translates the network up to its last feature map; what comes after it is in `head`, and
what comes before it, for scans of any size, in `preprocessing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import ModelProto, TensorProto, helper

from oct_jax.classifier import Classifier
from oct_jax.export.builder import GraphBuilder
from oct_jax.export.head import add_network
from oct_jax.export.preprocessing import draw_on_input, draw_on_scans, prepare_scans
from oct_jax.export.trunk import OPSET, expand_hard_sigmoids, make_trunk, shape_of
from oct_jax.model.mobilenet_v3 import NNXModel
from oct_jax.types import UserError

IR_VERSION = 8


@dataclass(frozen=True)
class Graphs:
    """The two forms of a run.

    Attributes:
      any_size: uint8 grey scans of any size and number, preprocessing inside.
      mobile: one scan of the model's input size, float32 grey levels; every operator is one that
        CoreML, NNAPI and XNNPACK take, every shape is fixed.
    """

    any_size: ModelProto
    mobile: ModelProto


def make_graphs(classifier: Classifier) -> Graphs:
    """Writes both forms of a run; neither has metadata yet.

    Raises:
      UserError: the run cannot be written as ONNX; the line says why.
    """
    if not isinstance(classifier.model, NNXModel):
        raise UserError(
            f"{type(classifier.model).__name__}: only runs of backbone=mobilenetv3 can be exported"
        )
    trunk = make_trunk(classifier.variables, classifier.model.config, classifier.preprocess)
    return Graphs(_any_size(classifier, trunk), _mobile(classifier, trunk))


def _any_size(classifier: Classifier, trunk: ModelProto) -> ModelProto:
    size = classifier.preprocess.size
    graph = GraphBuilder()
    prepared = prepare_scans(graph, classifier.preprocess)
    graph.add("Cast", prepared.resized, to=TensorProto.UINT8, name="resized")
    grey = graph.add("Unsqueeze", prepared.resized, graph.shape(1))
    levels = graph.add("Cast", grey, to=TensorProto.FLOAT)
    cells = add_network(graph, classifier, trunk, levels)
    _, _, rows, columns = shape_of(trunk.graph.output[0])
    draw_on_scans(graph, cells, classifier.grid, (rows, columns), prepared, name="heatmap")
    scans = ("scans", TensorProto.UINT8, ["batch", "height", "width"])
    outputs = _outputs(classifier, trunk, "batch", ["height", "width"])
    return _finish(
        graph, trunk, scans, {"resized": (TensorProto.UINT8, ["batch", size, size])} | outputs
    )


def _mobile(classifier: Classifier, trunk: ModelProto) -> ModelProto:
    size = classifier.preprocess.size
    trunk = expand_hard_sigmoids(trunk)
    graph = GraphBuilder()
    cells = add_network(graph, classifier, trunk, "scan")
    _, _, rows, columns = shape_of(trunk.graph.output[0])
    drawn, peak = draw_on_input(graph, cells, classifier.grid, (rows, columns), size)
    over_peak = graph.add("Div", drawn, peak)
    graph.add("Reshape", over_peak, graph.shape(1, size, size), name="heatmap")
    scan = ("scan", TensorProto.FLOAT, [1, 1, size, size])
    return _finish(graph, trunk, scan, _outputs(classifier, trunk, 1, [size, size]))


def _outputs(
    classifier: Classifier, trunk: ModelProto, batch: str | int, over_scan: Sequence[str | int]
) -> dict[str, tuple[int, list]]:
    _, _, rows, columns = shape_of(trunk.graph.output[0])
    classes = len(classifier.task.classes)
    shapes: dict[str, list] = {
        "probabilities": [batch, classes],
        "logits": [batch, classes],
        "heatmap": [batch, *over_scan],
        "heatmaps": [batch, classes, rows, columns],
    }
    if classifier.rule is not None and classifier.rule.outliers is not None:
        shapes["outlier_score"] = [batch]
    return {name: (TensorProto.FLOAT, shape) for name, shape in shapes.items()}


def _finish(
    graph: GraphBuilder,
    trunk: ModelProto,
    scan: tuple[str, int, list],
    outputs: Mapping[str, tuple[int, list]],
) -> ModelProto:
    proto = helper.make_graph(
        graph.nodes,
        "oct_jax",
        [helper.make_tensor_value_info(*scan)],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        list(graph.initializers.values()),
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="oct_jax",
    )
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model
