"""The one definition of preprocessing: Pillow's resize, its inverse map, and the z-score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.interpolate import BSpline

from oct_jax.data.preprocess import (
    PIXELS,
    HeatmapGrid,
    Preprocess,
    geometry,
    normalise,
    resize_scan,
    spline_weights,
    to_input_coordinates,
    to_scan_coordinates,
)
from oct_jax.types import UserError

RESIZES = ("squash", "letterbox", "crop")  # which depend on the shape alone
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

sides = st.integers(1, 60)
sizes = st.integers(1, 40)
resizes = st.sampled_from(RESIZES)
seeds = st.integers(0, 2**32 - 1)


def random_scan(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def grey(size: int, resize: str = "squash") -> Preprocess:
    return Preprocess(size=size, resize=resize, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize("shape", [(496, 512), (31, 97), (1, 1), (5, 3)])
def test_squash_is_pillows_bicubic_bit_for_bit(shape):
    scan = random_scan(*shape)
    pillow = Image.fromarray(scan).resize((24, 24), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize_scan(scan, grey(24)), np.asarray(pillow))


def test_letterbox_is_the_resized_scan_between_equal_black_bands():
    scan = random_scan(40, 80)
    resized = resize_scan(scan, grey(20, "letterbox"))
    inner = Image.fromarray(scan).resize((20, 10), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resized[5:15], np.asarray(inner))
    assert not resized[:5].any()
    assert not resized[15:].any()


def test_crop_equals_scaling_the_short_side_and_cutting_the_centre():
    scan = random_scan(48, 96)
    scaled = np.asarray(Image.fromarray(scan).resize((48, 24), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_scan(scan, grey(24, "crop")), scaled[:, 12:36])


@given(height=sides, width=sides, seed=seeds, size=sizes, resize=resizes)
def test_resize_gives_a_grey_square(height, width, seed, size, resize):
    preprocess = grey(size, resize)
    resized = resize_scan(random_scan(height, width, seed), preprocess)
    assert resized.shape == (preprocess.size, preprocess.size)
    assert resized.dtype == np.uint8


@given(height=sides, width=sides, level=st.integers(0, 255), size=sizes, resize=resizes)
def test_a_constant_scan_stays_constant_inside_the_padding(height, width, level, size, resize):
    preprocess = grey(size, resize)
    scan = np.full((height, width), level, np.uint8)
    spans = geometry(scan, preprocess)
    inside = np.zeros((preprocess.size, preprocess.size), bool)
    rows = slice(spans.rows.padding, spans.rows.padding + spans.rows.length)
    columns = slice(spans.columns.padding, spans.columns.padding + spans.columns.length)
    inside[rows, columns] = True
    np.testing.assert_array_equal(resize_scan(scan, preprocess), np.where(inside, level, 0))


@given(height=sides, width=sides, seed=seeds, size=sizes, resize=resizes)
def test_mirroring_commutes_with_resizing(height, width, seed, size, resize):
    preprocess = grey(size, resize)
    scan = random_scan(height, width, seed)
    mirrored = resize_scan(np.ascontiguousarray(scan[:, ::-1]), preprocess).astype(int)
    assert np.abs(mirrored - resize_scan(scan, preprocess)[:, ::-1]).max() <= 1


@given(height=sides, width=sides, size=sizes, resize=resizes)
def test_letterbox_and_crop_keep_the_aspect_ratio(height, width, size, resize):
    preprocess = grey(size, resize)
    spans = geometry(np.zeros((height, width), np.uint8), preprocess)
    if preprocess.resize == "squash":
        assert (spans.rows.length, spans.columns.length) == (preprocess.size,) * 2
        return
    if preprocess.resize == "crop":
        assert spans.rows.extent == spans.columns.extent
    short, long = sorted([(height, spans.rows), (width, spans.columns)], key=lambda pair: pair[0])
    exact = preprocess.size * short[1].extent / long[1].extent
    assert abs(short[1].length - exact) <= 1 or short[1].length <= 2


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50_000), (50_000, 1), (1, 2)])
def test_extreme_scans_are_resized_and_mapped_back(shape, resize):
    preprocess = grey(16, resize)
    scan = np.full(shape, 200, np.uint8)
    assert resize_scan(scan, preprocess).max() == 200
    carried = to_scan_coordinates(np.ones((16, 16), np.float32), PIXELS, geometry(scan, preprocess))
    assert carried.shape == shape
    assert carried.max() == pytest.approx(1)


@given(height=sides, width=sides, seed=seeds, size=sizes, resize=resizes)
def test_a_carried_map_stays_within_its_range(height, width, seed, size, resize):
    preprocess = grey(size, resize)
    values = np.random.default_rng(seed).random((preprocess.size,) * 2, np.float32)
    values[values > 0.7] = 1
    values[values < 0.3] = 0
    carried = to_scan_coordinates(values, PIXELS, geometry(random_scan(height, width), preprocess))
    assert carried.shape == (height, width)
    assert carried.dtype == np.float32
    assert carried.min() >= 0
    assert carried.max() <= 1


@given(
    height=st.integers(90, 200),
    width=st.integers(90, 200),
    row=st.floats(0.35, 0.65),
    column=st.floats(0.35, 0.65),
    resize=resizes,
)
def test_a_smooth_map_comes_back_where_it_was(height, width, row, column, resize):
    preprocess = grey(64, resize)
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    spread = 0.15 * min(height, width)
    distance = (rows - row * height) ** 2 + (columns - column * width) ** 2
    smooth = np.rint(255 * np.exp(-distance / (2 * spread**2))).astype(np.uint8)
    there = resize_scan(smooth, preprocess).astype(np.float32) / 255
    spans = geometry(smooth, preprocess)
    back = to_scan_coordinates(there, PIXELS, spans)
    inside = (np.abs(rows - height / 2) <= spans.rows.extent / 2) & (
        np.abs(columns - width / 2) <= spans.columns.extent / 2
    )
    assert np.abs(back - smooth / 255.0)[inside].max() < 0.03
    assert not back[~inside].any()


def test_the_padding_of_a_letterbox_is_dropped():
    values = np.ones((20, 20), np.float32)
    values[4:16] = 0
    carried = to_scan_coordinates(
        values, PIXELS, geometry(np.zeros((40, 80), np.uint8), grey(20, "letterbox"))
    )
    np.testing.assert_array_equal(carried, np.zeros((40, 80), np.float32))


@given(count=st.integers(1, 9), seed=seeds)
def test_a_spline_keeps_sums_and_straight_lines(count, seed):
    positions = np.random.default_rng(seed).uniform(-2, count + 1, 20)
    weights = spline_weights(positions, count)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    middle = (positions >= 1) & (positions <= count - 2)
    np.testing.assert_allclose((weights @ np.arange(count))[middle], positions[middle], atol=1e-5)


def test_a_spline_is_scipys():
    values = np.random.default_rng(0).random(7)
    positions = np.linspace(0, 6, 50)
    padded = np.pad(values, 3, mode="edge")  # knots at the padded values' own places
    reference = BSpline(np.arange(-5, 12), padded, 3)(positions)
    np.testing.assert_allclose(spline_weights(positions, 7) @ values, reference, atol=1e-6)


@pytest.mark.parametrize("resize", RESIZES)
def test_the_peak_lies_between_two_positions_that_are_as_strong(resize):
    cells = np.zeros((4, 4), np.float32)
    cells[1, 1:3] = 1
    grid = HeatmapGrid(16.0, 16.0, 7.0, 7.0)
    heat = to_input_coordinates(cells, grid, 64)
    assert heat.max() == 1
    assert np.unravel_index(heat.argmax(), heat.shape) == (23, 31)
    over_scan = to_scan_coordinates(
        cells, grid, geometry(np.zeros((64, 64), np.uint8), grey(64, resize))
    )
    assert over_scan.max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalise_is_the_z_score_of_each_channel(dtype):
    images = random_scan(6, 12).reshape(2, 6, 6).astype(dtype)
    preprocess = Preprocess(size=6, **IMAGENET)
    expected = (images[..., None] / 255.0 - IMAGENET["mean"]) / np.array(IMAGENET["std"])
    actual = jax.jit(lambda x: normalise(x, preprocess))(images)
    assert actual.shape == (2, 6, 6, preprocess.channels)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_normalise_casts_last():
    images = random_scan(6, 6)[None]
    preprocess = Preprocess(size=6, **IMAGENET)
    half = normalise(images, preprocess, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    exact = normalise(images, preprocess).astype(jnp.bfloat16)
    np.testing.assert_array_equal(half, exact)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"size": 0}, "size=0"),
        ({"resize": "stretch"}, "resize='stretch'"),
        ({"mean": ()}, "mean="),
        ({"mean": (0.5, 0.5)}, "mean="),
        ({"std": (0.0,)}, "std="),
        ({"mean": (float("nan"),)}, "mean="),
    ],
)
def test_impossible_settings_are_refused_in_one_line(change, named):
    # Under the runtime type checker a wrong choice is refused before its own message.
    if "resize" in change:
        pytest.importorskip("beartype")
    with pytest.raises((UserError, TypeError)) as caught:
        Preprocess(**({"mean": (0.5,), "std": (0.5,)} | change))
    if isinstance(caught.value, UserError):
        assert named in str(caught.value)
        assert "\n" not in str(caught.value)
