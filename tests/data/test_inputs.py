"""Scans as callers give them."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from oct_jax.data.inputs import grey_levels, list_scans
from oct_jax.data.readers import read_scan
from oct_jax.types import UserError

SCAN = (np.arange(48 * 64).reshape(48, 64) % 256).astype(np.uint8)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, Image.fromarray])
def test_arrays_and_pictures_are_scans(convert):
    several, is_several = list_scans(convert(SCAN))
    assert not is_several
    np.testing.assert_array_equal(grey_levels(several[0]), SCAN)


@pytest.mark.parametrize(
    "several",
    [
        [SCAN, SCAN],
        (SCAN, SCAN),
        np.stack([SCAN, SCAN]),
        jnp.stack([SCAN, SCAN]),
        (scan for scan in (SCAN, Image.fromarray(SCAN))),
        map(jnp.asarray, (SCAN, SCAN)),
    ],
    ids=["list", "tuple", "stack", "JAX stack", "generator", "iterator"],
)
def test_sequences_stacks_and_iterators_are_several(several):
    scans, is_several = list_scans(several)
    assert is_several
    assert len(scans) == 2
    for scan in scans:
        np.testing.assert_array_equal(grey_levels(scan), SCAN)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "F"])
def test_a_picture_is_read_as_its_file_is(mode, tmp_path):
    levels = {"I;16": SCAN.astype(np.uint16) * 257, "F": SCAN.astype(np.float32) / 255}
    picture = Image.fromarray(levels[mode]) if mode in levels else Image.fromarray(SCAN)
    picture = picture if mode in levels else picture.convert(mode)
    path = tmp_path / "scan.tiff"
    picture.save(path)
    np.testing.assert_array_equal(grey_levels(picture), read_scan(path))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(grey_levels(opened), read_scan(path))


@pytest.mark.parametrize("value", [None, 3, 2.5, b"scan.png", bytearray(3), {"a": 1}, object()])
def test_other_types_are_refused_in_a_sentence(value):
    with pytest.raises(TypeError, match="a scan is a path, a Pillow picture or a grey uint8"):
        list_scans(value)
    with pytest.raises(TypeError, match="a scan is a path, a Pillow picture or a grey uint8"):
        grey_levels(value)


@pytest.mark.parametrize("value", [[[1, 2], [3, 4]], [None], [b"x"], [SCAN.tolist()]])
def test_nested_lists_are_no_scans(value):
    scans, is_several = list_scans(value)
    assert is_several
    with pytest.raises(TypeError, match="a scan is a path"):
        grey_levels(scans[0])


@pytest.mark.parametrize(
    "array",
    [
        np.uint8(3),
        np.zeros(5, np.uint8),
        np.zeros((0, 5), np.uint8),
        np.zeros((48, 64, 3), np.uint8),
        np.zeros((1, 1, 48, 64), np.uint8),
        SCAN.astype(np.float32),
        jnp.zeros(()),
    ],
)
def test_other_arrays_are_refused_with_their_shape(array):
    with pytest.raises(UserError, match=r"array of shape \(.*\), \w+: a scan is a path"):
        list_scans(array)


def test_pictures_that_are_no_scans_are_refused():
    with pytest.raises(UserError, match="CMYK"):
        grey_levels(Image.new("CMYK", (64, 48)))
    with pytest.raises(UserError, match="one side is more than"):
        grey_levels(Image.new("L", (6400, 48)))
