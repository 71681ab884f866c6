"""Weights of an ONNX file as float16."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from oct_jax.export.half import halve_weights
from oct_jax.types import UserError


def dense(kernel, bias):
    """y = x @ kernel + bias."""
    nodes = [
        helper.make_node("MatMul", ["x", "kernel"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    values = {"x": [None, kernel.shape[0]], "y": [None, kernel.shape[1]]}
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in values.items())
    weights = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")]
    graph = helper.make_graph(nodes, "dense", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def outputs_of(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


def test_large_weights_take_half_the_bytes_and_answers_are_those_of_rounded_weights():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(200, 150)), rng.normal(size=150)
    kernel, bias = kernel.astype(np.float32), bias.astype(np.float32)
    model, x = dense(kernel, bias), rng.normal(size=(3, 200)).astype(np.float32)
    halved = halve_weights(model)
    assert len(halved.SerializeToString()) < 0.52 * len(model.SerializeToString())
    kinds = {tensor.name: tensor.data_type for tensor in halved.graph.initializer}
    assert kinds == {"kernel/float16": TensorProto.FLOAT16, "bias": TensorProto.FLOAT}
    rounded = dense(kernel.astype(np.float16).astype(np.float32), bias)
    np.testing.assert_allclose(outputs_of(halved, x), outputs_of(rounded, x), rtol=1e-5, atol=1e-5)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"]  # as it was


def test_weights_beyond_float16_are_refused():
    model = dense(np.full((200, 150), 70_000, np.float32), np.zeros(150, np.float32))
    with pytest.raises(UserError, match="kernel holds values that float16 cannot"):
        halve_weights(model)


def test_a_file_of_small_weights_stays_as_it_is():
    model = dense(np.ones((10, 10), np.float32), np.zeros(10, np.float32))
    assert halve_weights(model) == model
    assert isinstance(model, onnx.ModelProto)
