"""The network up to its last feature map as ONNX, translated by jax2onnx.

So there is one definition of the architecture. onnxruntime's hardware-independent optimizations
then cancel the transposes between JAX's channels-last and ONNX's channels-first layout and put each
bias into its convolution.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, numpy_helper

from oct_jax.data.preprocess import Preprocess
from oct_jax.export.builder import GraphBuilder
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Variables, build

OPSET = 18
"""Old enough for the onnxruntime of 2024, which the bundle is tested on."""


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


def expand_hard_sigmoids(model: ModelProto) -> ModelProto:
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


def shape_of(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a graph's input or output; 0 where a size is free."""
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
