"""Outlined lesions: what is read, what is refused, and what is measured."""

import numpy as np
import pytest
from PIL import Image

from oct_jax.data.preprocess import Preprocess, geometry, resize_scan
from oct_jax.explain.outlines import (
    agreement,
    compare,
    dice,
    over_input,
    read_outlines,
)
from oct_jax.types import UserError


@pytest.fixture
def folder(tmp_path):
    """Two patients with a scan each; the second grader sees half of what the first sees."""
    for name in ("scans", "first", "second"):
        (tmp_path / name).mkdir()
    for name in ("0_1.png", "1_1.png"):
        save(tmp_path / "scans" / name, np.full((60, 60), 90, np.uint8))
        save(tmp_path / "first" / name, box(10, 20))
        save(tmp_path / "second" / name, box(10, 10))
    return tmp_path


def box(rows, columns):
    mask = np.zeros((60, 60), np.uint8)
    mask[5 : 5 + rows, 30 : 30 + columns] = 255
    return mask


def save(path, pixels):
    Image.fromarray(pixels).save(path)


def test_scans_come_with_the_masks_of_every_grader(folder):
    outlines = read_outlines(folder)
    assert [one.patient for one in outlines] == ["0", "1"]
    assert outlines[0].lesion.sum() == 200
    assert agreement(outlines) == pytest.approx(2 * 100 / 300)


def test_a_scan_without_lesions_is_left_out(folder):
    for grader in ("first", "second"):
        save(folder / grader / "1_1.png", box(0, 0))
    assert [one.name for one in read_outlines(folder)] == ["0_1.png"]


def spoil_size(folder):
    save(folder / "first" / "0_1.png", np.zeros((60, 61), np.uint8))


def spoil_colour(folder):
    save(folder / "first" / "0_1.png", np.zeros((60, 60, 3), np.uint8))


def spoil_missing(folder):
    (folder / "second" / "1_1.png").unlink()


def spoil_damaged(folder):
    (folder / "second" / "1_1.png").write_bytes(b"no picture")


def spoil_empty(folder):
    for path in [*(folder / "first").iterdir(), *(folder / "second").iterdir()]:
        save(path, box(0, 0))


def spoil_scans(folder):
    for path in (folder / "scans").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (spoil_size, "61 columns"),
        (spoil_colour, "RGB"),
        (spoil_missing, "no such mask"),
        (spoil_damaged, "not a readable mask"),
        (spoil_empty, "every mask is empty"),
        (spoil_scans, "must hold scans/"),
    ],
)
def test_bad_masks_are_one_line(folder, spoil, line):
    spoil(folder)
    with pytest.raises(UserError, match=line) as caught:
        read_outlines(folder)
    assert "\n" not in str(caught.value)


def test_a_map_that_is_the_lesion_is_perfect():
    lesion = box(10, 20) > 0
    figures = compare(lesion.astype(np.float32), lesion, 3, np.random.default_rng(0))
    assert figures[:4] == [1, 1, 1, 1]


def test_a_peak_beside_the_lesion_hits_within_the_tolerance_alone():
    lesion, heat = box(10, 20) > 0, np.zeros((60, 60), np.float32)
    heat[10, 27] = 1  # the lesion begins at column 30
    rng = np.random.default_rng(0)
    assert compare(heat, lesion, 3, rng)[:3] == [1, 0, 0]
    assert compare(heat, lesion, 2, rng)[:3] == [0, 0, 0]


def test_dice_of_two_empty_masks_is_one():
    empty = np.zeros((3, 3), bool)
    assert dice(empty, empty) == 1


@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
def test_a_mask_is_carried_where_its_scan_is(resize):
    mask = np.zeros((80, 120), bool)
    mask[20:40, 50:90] = True
    preprocess = Preprocess(size=64, resize=resize, mean=(0.5,), std=(0.5,))
    picture = np.where(mask, np.uint8(255), np.uint8(0))
    carried = over_input(mask, geometry(picture, preprocess), 64)
    resized = resize_scan(picture, preprocess) > 127
    assert dice(carried, resized) > 0.95
