"""Contact sheets."""

import numpy as np
import pytest

from oct_jax.reports.picture import contact_sheet


def grey(height: int, width: int, level: int = 128) -> np.ndarray:
    return np.full((height, width), level, np.uint8)


def test_every_image_is_shown_whole_in_its_own_aspect_ratio():
    sheet = contact_sheet([grey(10, 40, 200), grey(40, 10, 100)], ["wide", "tall"], tile=40)
    wide = (sheet == 200).all(axis=2)
    tall = (sheet == 100).all(axis=2)
    assert np.ptp(np.nonzero(wide), axis=1).tolist() == [9, 39]
    assert np.ptp(np.nonzero(tall), axis=1).tolist() == [39, 9]


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (7, 3, 3)])
def test_the_sheet_has_as_many_rows_as_needed(count, rows, columns):
    sheet = contact_sheet([grey(8, 8)] * count, [""] * count, columns=3, tile=32)
    one = contact_sheet([grey(8, 8)], [""], tile=32)
    gap = 4
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] - gap == rows * (one.shape[0] - gap)
    assert sheet.shape[1] - gap == columns * (one.shape[1] - gap)


def test_grey_and_colour_are_mixed():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    sheet = contact_sheet([red, grey(8, 8)], ["red", "grey"], tile=32)
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 32 * 32
    assert (sheet == 128).all(axis=2).sum() >= 32 * 32


def test_captions_are_drawn():
    plain, named = (contact_sheet([grey(8, 8)], [caption], tile=64) for caption in ("", "CNV-1"))
    changed = np.nonzero((plain != named).any(axis=2))[0]
    assert changed.min() >= 64  # below the picture
    assert len(changed)


def test_the_synthetic_mark_is_in_every_tile():
    images, captions = [grey(8, 8)] * 3, [""] * 3
    plain, marked = (
        contact_sheet(images, captions, columns=3, tile=96, synthetic=synthetic)
        for synthetic in (False, True)
    )
    changed = (plain != marked).any(axis=(0, 2))
    for third in np.array_split(changed, 3):
        assert third.sum() > 40


@pytest.mark.parametrize("captions", [[], ["one"]])
def test_images_and_captions_must_pair(captions):
    with pytest.raises(ValueError, match="captions"):
        contact_sheet([grey(8, 8)] * len(captions) * 2, captions)
