"""What surrounds the network in a graph, operator by operator: from grey levels to the answers.

Of operators that the accelerators of phones have. Of comparison, maximum along an axis and
gathering they lack one or the other, so what needs them is said by arithmetic.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, compose

from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import Preprocess
from oct_jax.decision.outliers import OutlierModel
from oct_jax.export.builder import GraphBuilder
from oct_jax.export.trunk import shape_of
from oct_jax.model.mobilenet_v3 import NNXModel, last_activation

_TINY = 1e-6
_SHARP = 1e4
TRUNK = "trunk/"
"""Begins the names of what the network up to its last feature map is made of."""
HIDDEN_KERNEL = "head/hidden/kernel"


def add_network(graph: GraphBuilder, classifier: Classifier, trunk: ModelProto, levels: str) -> str:
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
    _, channels, rows, columns = shape_of(trunk.graph.output[0])

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
