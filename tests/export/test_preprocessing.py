"""The preprocessing in the graph against the one in Python, pixel by pixel."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from oct_jax.data.phantom import phantom_scans
from oct_jax.data.preprocess import (
    HeatmapGrid,
    Preprocess,
    geometry,
    resize_scan,
    to_scan_coordinates,
)
from oct_jax.export.builder import GraphBuilder
from oct_jax.export.graph import IR_VERSION
from oct_jax.export.preprocessing import draw_on_scans, prepare_scans
from oct_jax.export.trunk import OPSET

SIZE = 48
CELLS, GRID = (3, 4), HeatmapGrid(16.0, 12.0, 9.3, 3.1)
RESIZES = ("squash", "letterbox", "crop", "retina")


@pytest.fixture(scope="module", params=RESIZES)
def case(request):
    """A preprocessing, and a session from scans and a map of few positions to both results."""
    preprocess = Preprocess(size=SIZE, resize=request.param, mean=(0.5,), std=(0.5,))
    graph = GraphBuilder()
    prepared = prepare_scans(graph, preprocess)
    graph.add("Cast", prepared.resized, to=TensorProto.UINT8, name="resized")
    draw_on_scans(graph, "cells", GRID, CELLS, prepared, name="over_scan")
    square = ["batch", SIZE, SIZE]
    tensor = helper.make_tensor_value_info
    proto = helper.make_graph(
        graph.nodes,
        "preprocessing",
        [
            tensor("scans", TensorProto.UINT8, ["batch", "height", "width"]),
            tensor("cells", TensorProto.FLOAT, ["batch", 1, *CELLS]),
        ],
        [
            tensor("resized", TensorProto.UINT8, square),
            tensor("over_scan", TensorProto.FLOAT, ["batch", "height", "width"]),
        ],
        list(graph.initializers.values()),
    )
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return preprocess, onnxruntime.InferenceSession(model.SerializeToString())


def check(case, scans: np.ndarray) -> None:
    preprocess, session = case
    maps = np.random.default_rng(0).random((len(scans), 1, *CELLS), np.float32)
    resized, over_scan = session.run(None, {"scans": scans, "cells": maps})
    for index, scan in enumerate(scans):
        np.testing.assert_array_equal(resized[index], resize_scan(scan, preprocess))
        carried = to_scan_coordinates(maps[index, 0], GRID, geometry(scan, preprocess))
        np.testing.assert_allclose(over_scan[index], carried, atol=1e-5)


def with_borders(scan: np.ndarray, above: int, slope: int, below: int, side: int) -> np.ndarray:
    bordered = scan.copy()
    height, width = scan.shape
    edge = above + slope * np.arange(width) // width
    bordered[np.arange(height)[:, None] < edge] = 255
    bordered[height - below :] = 255
    bordered[:, width - side :] = 255
    return bordered


@settings(max_examples=20)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    above=st.integers(0, 40),
    slope=st.integers(-60, 60),
    below=st.integers(0, 40),
    side=st.integers(0, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_picture_gives_the_same_pixels(case, height, width, above, slope, below, side, seed):
    scans = np.random.default_rng(seed).integers(0, 256, (2, height, width), np.uint8)
    scans[1] = with_borders(scans[1] // 2, min(above, height), slope, min(below, height - 1), side)
    check(case, scans)


@pytest.mark.parametrize(
    "shape", [(496, 512), (496, 768), (291, 507), (196, 507), (496, 1536), (700, 400), (3, 700)]
)
def test_phantoms_of_every_shape_give_the_same_pixels(case, shape):
    phantom = phantom_scans(patients=24, seed=3).read(0)
    rows = np.arange(shape[0]) * phantom.shape[0] // shape[0]
    columns = np.arange(shape[1]) * phantom.shape[1] // shape[1]
    scan = phantom[rows][:, columns]
    tilted = with_borders(np.roll(scan, shape[0] // 8, axis=0), 3, shape[0] // 3, 5, 1)
    check(case, np.stack([scan, tilted]))


@pytest.mark.parametrize("level", [0, 90, 239, 240, 255])
def test_blank_pictures_give_the_same_pixels(case, level):
    check(case, np.full((1, 130, 210), level, np.uint8))
