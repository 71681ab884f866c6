"""`resize=retina`: the window of fixed physical size around the retina, and its way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from oct_jax.data.preprocess import PIXELS, Preprocess, geometry, resize_scan, to_scan_coordinates
from oct_jax.data.retina import SPACING, WINDOW, find_retina, scan_window

PREPROCESS = Preprocess(size=64, resize="retina", mean=(0.5,), std=(0.5,))
CENTRE = 240.0

shapes = st.tuples(st.integers(200, 520), st.integers(390, 800))
seeds = st.integers(0, 2**32 - 1)


def retina_scan(
    height: int, width: int, row: float, *, tilt: float = 0, seed: int = 0, averaged: float = 20
) -> np.ndarray:
    """A band of 90 rows with a bright lower edge in speckle; `tilt` is rows over the width."""
    rng = np.random.default_rng(seed)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    depth = rows - (row + tilt * (columns / width - 0.5))
    level = np.where(np.abs(depth) < 45, 110, np.where(depth >= 45, 50, 25))
    level = np.where(np.abs(depth - 40) < 5, 200, level)
    speckle = rng.gamma(averaged, 1 / averaged, (height, width))
    return np.clip(level * speckle, 0, 235).astype(np.uint8)


@settings(max_examples=20)
@given(
    shape=shapes,
    place=st.floats(0.3, 0.7),
    tilt=st.floats(-80, 80),
    seed=seeds,
    averaged=st.sampled_from([2, 8, 50]),
)
def test_the_window_is_centred_on_the_retina_whatever_the_speckle(
    shape, place, tilt, seed, averaged
):
    row = place * shape[0]
    scan = retina_scan(*shape, row, tilt=tilt, seed=seed, averaged=averaged)
    rows, _ = scan_window(shape)
    assert abs(find_retina(scan, rows).row - row) < 40


@settings(max_examples=20)
@given(
    shape=shapes,
    place=st.floats(0.4, 0.7),
    above=st.integers(8, 60),
    slope=st.floats(-40, 40),
    side=st.integers(0, 30),
    seed=seeds,
)
def test_white_borders_and_wedges_are_filled_and_do_not_move_the_window(
    shape, place, above, slope, side, seed
):
    height, width = shape
    row = place * height
    bare = retina_scan(height, width, row, seed=seed)
    scan = bare.copy()
    edge = above + slope * np.arange(width) / width
    scan[np.arange(height)[:, None] < edge] = 255
    scan[:, :side] = 255
    scan[height - 6 :] = 255
    rows, _ = scan_window(shape)
    assert abs(find_retina(scan, rows).row - find_retina(bare, rows).row) < 16
    resized = resize_scan(scan, PREPROCESS)
    # Bright is the retina's edge alone: 235 at most in the scan, 255 in what was filled.
    assert resized.max() < 245


@settings(max_examples=15)
@given(shape=shapes, moved=st.integers(-60, 60), seed=seeds)
def test_the_same_tissue_gives_nearly_the_same_input_wherever_it_lies(shape, moved, seed):
    height, width = 496, shape[1]
    tall = retina_scan(height + 200, width, 350, seed=seed)
    first = resize_scan(np.ascontiguousarray(tall[100 : 100 + height]), PREPROCESS)
    other = resize_scan(np.ascontiguousarray(tall[100 + moved : 100 + moved + height]), PREPROCESS)
    middle = slice(20, 44)
    difference = np.abs(first[middle].astype(int) - other[middle])
    shifted = [
        np.abs(np.roll(first, by, 0)[middle].astype(int) - other[middle]).mean()
        for by in (-2, -1, 0, 1, 2)
    ]
    assert min(difference.mean(), *shifted) < 12


def test_a_cropped_scan_and_a_wide_one_keep_the_proportions_of_the_whole():
    """What the middle of a wide scan, and a shallow crop of it, show has the same size."""
    wide = retina_scan(496, 768, 250, averaged=50)
    usual = np.ascontiguousarray(wide[:, 128:640])
    shallow = np.ascontiguousarray(usual[120:411])
    for scan in (wide, shallow):
        spans = geometry(scan, PREPROCESS)
        assert (spans.rows.extent, spans.columns.extent) == WINDOW
        both = resize_scan(scan, PREPROCESS).astype(int), resize_scan(usual, PREPROCESS)
        assert np.abs(both[0] - both[1])[20:44].mean() < 12


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((496, 512), (320, 512)),
        ((496, 768), (320, 512)),
        ((496, 1536), (320, 1024)),
        ((291, 507), (320, 512)),
        ((1024, 512), (661, 512)),
        ((124, 128), (80, 128)),
        ((1, 1), (1, 1)),
    ],
)
def test_the_window_follows_from_the_shape(shape, window):
    assert scan_window(shape) == window


@given(axial=st.floats(1, 20), lateral=st.floats(2, 60))
def test_a_given_spacing_fixes_the_windows_physical_size(axial, lateral):
    rows, columns = scan_window((496, 512), (axial, lateral))
    assert abs(rows * axial - WINDOW[0] * SPACING[0]) <= axial
    assert abs(columns * lateral - WINDOW[1] * SPACING[1]) <= lateral


@given(height=st.integers(1, 90), width=st.integers(1, 90), seed=seeds)
def test_any_picture_gives_a_square_and_a_map_back(height, width, seed):
    scan = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    assert resize_scan(scan, PREPROCESS).shape == (64, 64)
    carried = to_scan_coordinates(np.ones((64, 64), np.float32), PIXELS, geometry(scan, PREPROCESS))
    assert carried.shape == (height, width)
    inside = carried > 0
    np.testing.assert_allclose(carried[inside], 1, rtol=1e-6)


@pytest.mark.parametrize("level", [0, 37, 255])
def test_a_blank_picture_stays_blank(level):
    resized = resize_scan(np.full((496, 512), level, np.uint8), PREPROCESS)
    assert resized.min() == resized.max() == (0 if level == 255 else level)


@settings(max_examples=15)
@given(shape=shapes, place=st.floats(0.3, 0.7), across=st.floats(0.35, 0.65), seed=seeds)
def test_a_spot_comes_back_where_it_was(shape, place, across, seed):
    height, width = shape
    scan = retina_scan(height, width, place * height, seed=seed)
    spans = geometry(scan, PREPROCESS)
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    distance = (rows - place * height) ** 2 + (columns - across * width) ** 2
    spot = np.exp(-distance / (2 * 25**2))
    # The same window of the spot, by the spans alone.
    inside = np.ix_(
        np.clip(np.arange(spans.rows.extent) + int(spans.rows.start), 0, height - 1),
        np.clip(np.arange(spans.columns.extent) + int(spans.columns.start), 0, width - 1),
    )
    there = np.asarray(_shrink(spot[inside]), np.float32)
    back = to_scan_coordinates(there, PIXELS, spans)
    peak = np.unravel_index(back.argmax(), back.shape)
    assert abs(peak[0] + 0.5 - place * height) < 6
    assert abs(peak[1] + 0.5 - across * width) < 9


def _shrink(values: np.ndarray) -> np.ndarray:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
