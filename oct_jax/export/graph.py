"""A trained run as an ONNX graph: scan in; probabilities, heatmaps and outlier score out.

jax2onnx translates the network up to its last feature map, so that there is one definition of the
architecture; onnxruntime's hardware-independent optimizations then cancel the transposes between
JAX's channels-last and ONNX's channels-first layout and put each bias into its convolution. What
comes before and after the network is written here, operator by operator; the mobile form from
operators that the accelerators of phones have. Of comparison, maximum along an axis and gathering
they lack one or the other, so what needs them is said by arithmetic.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, compose, helper, numpy_helper

from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import Preprocess
from oct_jax.decision.outliers import OutlierModel
from oct_jax.export.builder import GraphBuilder
from oct_jax.export.preprocessing import draw_on_scans, prepare_scans
from oct_jax.model.mobilenet_v3 import MobileNetV3Config, NNXModel, last_activation
from oct_jax.model.protocol import Variables, build
from oct_jax.types import UserError

OPSET = 18
"""Old enough for the onnxruntime of 2024, which the bundle is tested on."""
IR_VERSION = 8

_TINY = 1e-6
_SHARP = 1e4
TRUNK = "trunk/"
"""Begins the names of what the network up to its last feature map is made of."""
HIDDEN_KERNEL = "head/hidden/kernel"


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


def make_trunk(
    variables: Variables, config: MobileNetV3Config, preprocess: Preprocess
) -> ModelProto:
    """The folded network from normalised images to its last feature map, channels first.

    Input `images` (batch, channels, size, size), output `features` (batch, features, rows,
    columns); the number of images is free.
    """
    from jax2onnx import to_onnx  # seconds that `--help` should not wait for

    model = build(dataclasses.replace(config, lowering="conv"))

    def features(images):
        return model.features(variables, images, train=False)[0]

    translated = to_onnx(
        features,
        [("batch", preprocess.size, preprocess.size, preprocess.channels)],
        opset=OPSET,
        inputs_as_nchw=[0],
        outputs_as_nchw=[0],
        input_names=["images"],
        output_names=["features"],
    )
    return _optimize(translated)


def _optimize(model: ModelProto) -> ModelProto:
    """What onnxruntime makes of a graph by rules that hold on any hardware."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        providers = ["CPUExecutionProvider"]
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
        return onnx.load(options.optimized_model_filepath)


def _expand_hard_sigmoids(model: ModelProto) -> ModelProto:
    """Hard sigmoids, clip(x / 6 + 1 / 2, 0, 1), as a convolution and a Clip.

    NNAPI has no operator for them. Where x is of a convolution and used for nothing else, the line
    goes into its weights: so in squeeze-excite. Elsewhere (hard swish) it becomes a depthwise 1x1
    convolution: onnxruntime puts the Clip into it and keeps its blocked layout, which addition of a
    constant breaks: as Add, Clip, Mul, Mul the network took 12 % longer.
    """
    model = copy.deepcopy(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = {node.output[0]: node for node in model.graph.node}
    uses = Counter(name for node in model.graph.node for name in node.input)
    graph = GraphBuilder()
    for node in model.graph.node:
        if node.op_type != "HardSigmoid":
            graph.nodes.append(node)
            continue
        source = made_by[node.input[0]]
        line = node.input[0]
        if source.op_type == "Conv" and uses[line] == 1:
            for name, shift in zip(source.input[1:], (0.0, 0.5), strict=True):
                scaled = numpy_helper.to_array(weights[name]) / np.float32(6) + np.float32(shift)
                weights[name].CopyFrom(numpy_helper.from_array(scaled, name))
        else:
            channels = weights[source.input[2]].dims[0]
            kernel = graph.constant(
                np.full((channels, 1, 1, 1), 1 / 6, np.float32), f"sixth_{channels}"
            )
            half = graph.constant(np.full(channels, 0.5, np.float32), f"half_{channels}")
            line = graph.add("Conv", line, kernel, half, group=channels, kernel_shape=[1, 1])
        graph.add("Clip", line, np.float32(0), np.float32(1), name=node.output[0])
    del model.graph.node[:]
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend(graph.initializers.values())
    return model


def _any_size(classifier: Classifier, trunk: ModelProto) -> ModelProto:
    size = classifier.preprocess.size
    graph = GraphBuilder()
    prepared = prepare_scans(graph, classifier.preprocess)
    graph.add("Cast", prepared.resized, to=TensorProto.UINT8, name="resized")
    grey = graph.add("Unsqueeze", prepared.resized, graph.shape(1))
    levels = graph.add("Cast", grey, to=TensorProto.FLOAT)
    cells = _network(graph, classifier, trunk, levels)
    _, _, rows, columns = _shape_of(trunk.graph.output[0])
    draw_on_scans(graph, cells, classifier.grid, (rows, columns), prepared, name="heatmap")
    scans = ("scans", TensorProto.UINT8, ["batch", "height", "width"])
    outputs = _outputs(classifier, trunk, "batch", ["height", "width"])
    return _finish(
        graph, trunk, scans, {"resized": (TensorProto.UINT8, ["batch", size, size])} | outputs
    )


def _mobile(classifier: Classifier, trunk: ModelProto) -> ModelProto:
    size = classifier.preprocess.size
    trunk = _expand_hard_sigmoids(trunk)
    graph = GraphBuilder()
    cells = _network(graph, classifier, trunk, "scan")
    _, _, rows, columns = _shape_of(trunk.graph.output[0])
    # Phones want the constant on the right: first across, then on the transposed map down.
    grid = classifier.grid
    across = _drawing_matrix(size, grid.scale_x, grid.offset_x, columns)
    down = _drawing_matrix(size, grid.scale_y, grid.offset_y, rows)
    bands = graph.add("MatMul", cells, across)
    over_scan = graph.add("MatMul", graph.add("Transpose", bands, perm=[0, 1, 3, 2]), down)
    upright = graph.add("Transpose", over_scan, perm=[0, 1, 3, 2])
    graph.add("Reshape", upright, graph.shape(1, size, size), name="heatmap")
    scan = ("scan", TensorProto.FLOAT, [1, 1, size, size])
    return _finish(graph, trunk, scan, _outputs(classifier, trunk, 1, [size, size]))


def _network(graph: GraphBuilder, classifier: Classifier, trunk: ModelProto, levels: str) -> str:
    """From grey levels (batch, 1, size, size) to all outputs but `heatmap`.

    Returns:
      The map of the predicted class, (batch, 1, rows, columns).
    """
    assert isinstance(classifier.model, NNXModel)
    _normalise(graph, levels, classifier.preprocess, name=TRUNK + "images")
    network = compose.add_prefix(trunk, TRUNK)
    graph.nodes.extend(network.graph.node)
    for initializer in network.graph.initializer:
        graph.initializers[initializer.name] = initializer
    features = TRUNK + "features"
    _, channels, rows, columns = _shape_of(trunk.graph.output[0])

    head = classifier.variables.params["head"]
    hidden_kernel = graph.constant(np.asarray(head["hidden"]["kernel"]).T, HIDDEN_KERNEL)
    class_kernel = graph.constant(
        np.asarray(head["classifier"]["kernel"]).T, "head/classifier/kernel"
    )
    hidden_bias = graph.constant(np.asarray(head["hidden"]["bias"]), "head/hidden/bias")
    class_bias = graph.constant(np.asarray(head["classifier"]["bias"]), "head/classifier/bias")

    average = graph.add("GlobalAveragePool", features, name="average")
    pooled = graph.add("Reshape", average, graph.shape(-1, channels), name="pooled")
    hidden_channels = head["hidden"]["bias"].shape[0]
    before = graph.add("Gemm", pooled, hidden_kernel, hidden_bias, transB=1, name="hidden")
    hidden, slope = _activate(graph, before, last_activation(classifier.model.config))
    logits = graph.add("Gemm", hidden, class_kernel, class_bias, transB=1, name="logits")
    temperature = 1.0 if classifier.rule is None else classifier.rule.temperature
    calibrated = graph.add("Mul", logits, np.float32(1 / temperature))
    graph.add("Softmax", calibrated, axis=-1, name="probabilities")
    if classifier.rule is not None and classifier.rule.outliers is not None:
        _outlier_score(graph, pooled, classifier.rule.outliers)

    # Grad-CAM in closed form, as `explain.gradcam.closed_form`, for all classes at once. Its
    # division by the number of positions is left out: each map is divided by its peak anyway.
    slopes = graph.add("Reshape", slope, graph.shape(-1, 1, hidden_channels))
    class_slopes = graph.add("Mul", slopes, class_kernel)
    weights = graph.add("MatMul", class_slopes, hidden_kernel, name="channel_weights")
    positions = graph.add("Reshape", features, graph.shape(-1, channels, rows * columns))
    evidence = graph.add("MatMul", weights, positions, name="evidence")
    classes = len(classifier.task.classes)
    maps = graph.add("Reshape", evidence, graph.shape(-1, classes, rows, columns))
    positive = graph.add("Relu", maps)
    peak = _above_zero(graph, graph.add("GlobalMaxPool", positive))
    heatmaps = graph.add("Div", positive, peak, name="heatmaps")
    return _of_predicted(graph, logits, heatmaps, classes, rows, columns)


def _normalise(graph: GraphBuilder, levels: str, preprocess: Preprocess, *, name: str) -> None:
    """Grey to channels and z-score; see `oct_jax.data.preprocess.normalise`."""
    mean = np.array(preprocess.mean, np.float64)[None, :, None, None]
    std = np.array(preprocess.std, np.float64)[None, :, None, None]
    scaled = graph.add("Mul", levels, (1 / (255 * std)).astype(np.float32))
    graph.add("Add", scaled, (-mean / std).astype(np.float32), name=name)


def _activate(graph: GraphBuilder, x: str, activation: str) -> tuple[str, str]:
    """The activation of the head's hidden layer, and its slope."""
    if activation == "relu":
        hidden = graph.add("Relu", x)
        return hidden, _is_above_zero(graph, hidden)
    raised = graph.add("Add", x, np.float32(3))
    clipped = graph.add("Clip", raised, np.float32(0), np.float32(6))
    gate = graph.add("Mul", clipped, np.float32(1 / 6))
    # x gate(x) has the slope gate + x / 6 where the gate is neither shut (0) nor open (1).
    shut = graph.add("Sub", np.float32(1), gate)
    between = _is_above_zero(graph, graph.add("Mul", gate, shut))
    sixth = graph.add("Mul", x, np.float32(1 / 6))
    slope = graph.add("Add", gate, graph.add("Mul", between, sixth))
    return graph.add("Mul", x, gate), slope


def _above_zero(graph: GraphBuilder, x: str) -> str:
    """What is not negative, kept above 0 so that one may divide by it."""
    return graph.add("Clip", x, np.float32(_TINY))


def _is_above_zero(graph: GraphBuilder, x: str) -> str:
    """1 where what is not negative is above 0, and 0 where it is 0."""
    return graph.add("Div", x, _above_zero(graph, x))


def _of_predicted(
    graph: GraphBuilder, logits: str, heatmaps: str, classes: int, rows: int, columns: int
) -> str:
    """The map of the class with the largest logit; logits closer than 1e-4 share."""
    apart = graph.add("Reshape", logits, graph.shape(-1, 1, 1, classes))
    behind = graph.add("Sub", graph.add("GlobalMaxPool", apart), apart)
    lead = graph.add("Add", graph.add("Mul", behind, np.float32(-_SHARP)), np.float32(1))
    first = graph.add("Relu", lead)
    total = graph.add("MatMul", first, np.ones((classes, 1), np.float32))
    share = graph.add("Reshape", graph.add("Div", first, total), graph.shape(-1, 1, classes))
    flat = graph.add("Reshape", heatmaps, graph.shape(-1, classes, rows * columns))
    chosen = graph.add("MatMul", share, flat)
    return graph.add("Reshape", chosen, graph.shape(-1, 1, rows, columns))


def _outlier_score(graph: GraphBuilder, pooled: str, model: OutlierModel) -> None:
    """`decision.outliers.squared_distance` over its threshold."""
    ones = graph.constant(np.ones((len(model.mean), 1), np.float32), "outliers/ones")
    square = graph.add("MatMul", graph.add("Mul", pooled, pooled), ones)
    length = _above_zero(graph, graph.add("Sqrt", square))
    of_length_one = graph.add("Div", pooled, length)
    away = graph.add("Sub", of_length_one, graph.constant(model.mean[None], "outliers/mean"))
    directions = graph.constant(model.directions, "outliers/directions")
    along = graph.add("MatMul", away, directions)
    # The rest is what is left of the difference, rather than a difference of two squares.
    inside = graph.add(
        "MatMul", along, graph.constant(model.directions.T, "outliers/directions_transposed")
    )
    rest = graph.add("Sub", away, inside)
    threshold = np.float64(model.threshold)
    precisions = (model.precisions / threshold).astype(np.float32)[:, None]
    near = graph.add(
        "MatMul",
        graph.add("Mul", along, along),
        graph.constant(precisions, "outliers/precisions"),
    )
    left = graph.add("MatMul", graph.add("Mul", rest, rest), ones)
    far = graph.add("Mul", left, np.float32(model.rest_precision / threshold))
    score = graph.add("Add", near, far)
    graph.add("Reshape", score, graph.shape(-1), name="outlier_score")


def _drawing_matrix(size: int, scale: float, offset: float, count: int) -> np.ndarray:
    """(count, size): what each of `count` positions adds to each pixel of the model's input."""
    places = np.clip((np.arange(size) - offset) / scale, 0, count - 1)
    away = np.abs(places - np.arange(count)[:, None])
    return np.maximum(1 - away, 0).astype(np.float32)


def _outputs(
    classifier: Classifier, trunk: ModelProto, batch: str | int, over_scan: Sequence[str | int]
) -> dict[str, tuple[int, list]]:
    _, _, rows, columns = _shape_of(trunk.graph.output[0])
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


def _shape_of(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a graph's input or output; 0 where a size is free."""
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


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
