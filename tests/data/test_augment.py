"""Laws of the random changes to a training scan."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.data.augment import affine, augment, horizontal_flip, speckle, tone
from oct_jax.data.strengths import Augment

seeds = st.integers(0, 2**32 - 1)
images = st.builds(
    lambda side, seed: np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8),
    st.integers(1, 40),
    seeds,
)
OFF = Augment(
    flip=0.0,
    rotation=0.0,
    zoom=0.0,
    shift=0.0,
    brightness=0.0,
    contrast=0.0,
    gamma=0.0,
    speckle=0.0,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(image=images, seed=seeds)
def test_nothing_changes_at_strength_zero(image, seed):
    np.testing.assert_array_equal(augment(image, rng(seed), OFF), image)


@given(image=images, seed=seeds)
def test_the_generator_decides(image, seed):
    first, second = (augment(image, rng(seed), Augment()) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == image.shape
    assert first.dtype == np.uint8


@given(image=images)
def test_the_flip_is_an_involution(image):
    once = horizontal_flip(image, rng(), probability=1.0)
    np.testing.assert_array_equal(once, image[:, ::-1])
    np.testing.assert_array_equal(horizontal_flip(once, rng(), probability=1.0), image)


def test_another_seed_gives_another_image():
    image = rng().integers(0, 256, (32, 32), np.uint8)
    assert (augment(image, rng(1), Augment()) != augment(image, rng(2), Augment())).any()


def test_the_input_is_left_alone():
    image = rng().integers(0, 256, (32, 32), np.uint8)
    kept = image.copy()
    augment(image, rng(), Augment())
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("change", [horizontal_flip, affine, tone])
def test_strength_does_not_change_how_much_is_drawn(change):
    image = rng().integers(0, 256, (16, 16), np.uint8)
    names = [name for name in change.__annotations__ if name not in ("image", "rng", "return")]
    after = []
    for strength in (0.0, 0.5):
        generator = rng(7)
        change(image, generator, **dict.fromkeys(names, strength))
        after.append(generator.random())
    assert after[0] == after[1]


@given(level=st.integers(0, 255), side=st.integers(1, 40), seed=seeds)
def test_the_warp_adds_no_wedge_to_a_constant_image(level, side, seed):
    image = np.full((side, side), level, np.uint8)
    warped = affine(image, rng(seed), rotation=45.0, zoom=0.5, shift=0.3)
    np.testing.assert_array_equal(warped, image)


@given(image=images, seed=seeds)
def test_the_warp_stays_within_the_image_range(image, seed):
    warped = affine(image, rng(seed), rotation=20.0, zoom=0.3, shift=0.2)
    assert warped.min() >= image.min()
    assert warped.max() <= image.max()


class Given:
    """A generator whose uniform draws are these."""

    def __init__(self, *values):
        self.values = np.array(values)

    def uniform(self, low, high, count):
        assert (low, high, count) == (-1.0, 1.0, len(self.values))
        return self.values


@pytest.fixture
def dot():
    image = np.zeros((41, 41), np.uint8)
    image[20, 30] = 255
    return image


@pytest.mark.parametrize(
    ("draws", "place"),
    [
        ((1.0, 0.0, 0.0, 0.0), (30, 20)),  # a quarter turn about the centre
        ((0.0, 1.0, 0.0, 0.0), (20, 40)),  # twice as far from the centre
        ((0.0, -1.0, 0.0, 0.0), (20, 25)),  # half as far
        ((0.0, 0.0, 1.0, 0.0), (20, 35)),
        ((0.0, 0.0, 0.0, -1.0), (15, 30)),
    ],
)
def test_rotation_zoom_and_shift_move_a_dot_where_they_say(dot, draws, place):
    # The undecorated function, as the stand-in is no Generator to the type checker.
    warp = getattr(affine, "__wrapped__", affine)
    warped = warp(dot, Given(*draws), rotation=90.0, zoom=1.0, shift=5 / 41)
    assert warped[place] >= 254


@given(
    image=images,
    seed=seeds,
    brightness=st.floats(0, 0.5),
    contrast=st.floats(0, 0.9),
    gamma=st.floats(0, 1),
)
def test_tone_keeps_the_order_of_greys(image, seed, brightness, contrast, gamma):
    toned = tone(image, rng(seed), brightness=brightness, contrast=contrast, gamma=gamma)
    order = np.argsort(image, axis=None)
    assert (np.diff(toned.ravel()[order].astype(int)) >= 0).all()


@given(image=images, seed=seeds, brightness=st.floats(0, 0.3), contrast=st.floats(0, 0.9))
def test_the_mean_moves_no_further_than_the_brightness(image, seed, brightness, contrast):
    # Clipping only pulls towards the middle grey of an unclipped, mean-keeping change.
    image = 96 + image // 4
    contrast = contrast / 2
    toned = tone(image, rng(seed), brightness=brightness, contrast=contrast, gamma=0.0)
    assert abs(toned.mean() - image.mean()) <= 255 * brightness + 0.5


def test_gamma_is_the_power_law():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    toned = tone(image, rng(3), brightness=0.0, contrast=0.0, gamma=0.5)
    exponent = np.exp(0.5 * rng(3).uniform(-1, 1, 3)[2])
    np.testing.assert_array_equal(toned, np.rint(255 * (image / 255) ** exponent))


def test_speckle_has_the_deviation_it_says():
    image = np.full((256, 256), 100, np.uint8)
    noisy = speckle(image, rng(), deviation=0.1)
    assert abs(noisy.mean() - 100) < 0.2
    # Rounding to whole greys adds 1/12 to the variance.
    assert abs(noisy.std() - np.sqrt(10**2 + 1 / 12)) < 0.2


def test_black_has_no_speckle():
    black = np.zeros((16, 16), np.uint8)
    np.testing.assert_array_equal(speckle(black, rng(), deviation=0.5), black)


def test_opencv_threads_change_nothing():
    image = rng().integers(0, 256, (300, 300), np.uint8)
    before = cv2.getNumThreads()
    try:
        results = []
        for count in (1, 2):
            cv2.setNumThreads(count)
            results.append(augment(image, rng(5), Augment()))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*results)
