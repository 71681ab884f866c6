"""The page: pixels that must not lie."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.data.preprocess import HeatmapGrid, Preprocess, geometry
from oct_jax.explanation import Explanation
from oct_jax.model.inference import Outputs
from oct_jax.prediction import Decision, to_predictions
from oct_jax.reports.overlay import advice, certainty, overlay, page

GRID = HeatmapGrid(16.0, 16.0, 10.0, 3.0)


def explanation(shape, cells, resize="squash"):
    preprocess = Preprocess(size=64, resize=resize, mean=(0.5,), std=(0.5,))
    logits = np.array([[3.0, 0, 0, 0]], np.float32)
    (prediction,) = to_predictions(Outputs(logits, np.zeros((1, 8), np.float32)), None)
    where = geometry(np.zeros(shape, np.uint8), preprocess)
    return Explanation(prediction, "CNV", "gradcam", cells, where, preprocess, GRID)


@given(st.integers(0, 2**32 - 1))
def test_without_evidence_the_scan_is_seen_as_it_is(seed):
    rng = np.random.default_rng(seed)
    scan = rng.integers(0, 256, (9, 12), np.uint8)
    heat = rng.random((9, 12), np.float32) * (rng.random((9, 12)) < 0.5)
    picture = overlay(scan, heat.astype(np.float32))
    bare = heat == 0
    np.testing.assert_array_equal(picture[bare], np.repeat(scan[bare][:, None], 3, axis=1))


def test_lightness_rises_with_the_map():
    heat = np.linspace(0, 1, 64, dtype=np.float32)[None]
    light = overlay(np.full((1, 64), 30, np.uint8), heat) @ np.array([0.2126, 0.7152, 0.0722])
    assert light[0, -1] > light[0, 0] + 60
    assert (np.diff(light[0]) > -1.5).all()


@pytest.mark.parametrize("shape", [(10, 10), (496, 512), (30, 900), (1200, 1600)])
@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
def test_the_scan_keeps_its_resolution_and_the_panel_fits(shape, resize):
    cells = np.eye(2, dtype=np.float32)
    scan = np.full(shape, 90, np.uint8)
    one = explanation(shape, cells, resize)
    picture = page(scan, one, ["SYNTHETIC MODEL: it knows nothing of patients"] * 5)
    zoom = max(1, min(160 // min(shape), 4096 // max(shape)))
    assert picture.shape[0] >= shape[0] * zoom
    assert picture.shape[1] > shape[1] * zoom
    expected = overlay(scan, one.heatmap).repeat(zoom, 0).repeat(zoom, 1)
    np.testing.assert_array_equal(picture[: shape[0] * zoom, : shape[1] * zoom], expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1024), (20_000, 1), (1, 20_000), (300, 9_000)])
def test_the_page_of_any_shape_is_bounded(shape):
    picture = page(np.zeros(shape, np.uint8), explanation(shape, np.eye(2, dtype=np.float32)), [])
    assert picture.shape[0] <= 4096
    assert picture.shape[1] <= 3 * 4096  # the panel beside a tall scan is as tall


def test_every_mark_changes_the_page():
    scan, one = np.zeros((40, 40), np.uint8), explanation((40, 40), np.eye(2, dtype=np.float32))
    plain, marked = page(scan, one, []), page(scan, one, ["flat map"])
    assert (plain != marked).any()


@pytest.mark.parametrize(
    ("decision", "referral", "sure"),
    [
        (None, "urgent referral", "not calibrated"),
        (Decision("urgent", ("CNV", "DME"), 0.5), "urgent referral", "possible: CNV, DME"),
        (Decision("defer", ("CNV", "NORMAL"), None), "deferred", "possible: CNV, NORMAL"),
        (Decision("defer", (), 0.9), "deferred", "possible: no class"),
        (Decision("defer", ("CNV",), 1.5), "deferred", "unlike the training scans"),
    ],
)
def test_what_the_page_advises(decision, referral, sure):
    one = explanation((40, 40), np.eye(2, dtype=np.float32))
    prediction = dataclasses.replace(one.prediction, decision=decision)
    assert referral in advice(prediction)
    assert sure in certainty(prediction)
    decided = dataclasses.replace(one, prediction=prediction)
    assert page(np.zeros((40, 40), np.uint8), decided, []).any()


@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
def test_the_heatmap_has_the_scans_shape_and_the_peak_its_place(resize):
    cells = np.zeros((4, 4), np.float32)
    cells[2, 1] = 1
    heat = explanation((80, 160), cells, resize).heatmap
    assert heat.shape == (80, 160)
    assert heat.min() >= 0
    assert heat.max() <= 1
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    # Position (2, 1) looks at pixel (42, 19) of the 64 by 64 input.
    down, across = 42.5 / 64, 19.5 / 64
    rows, columns = {
        "squash": (80 * down, 160 * across),
        "letterbox": (160 * down - 40, 160 * across),
        "crop": (80 * down, 40 + 80 * across),
    }[resize]
    assert abs(row + 0.5 - rows) <= 3
    assert abs(column + 0.5 - columns) <= 3
