"""Laws of the random changes to a training scan."""

from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.data.augment import (
    FINE,
    augment,
    blur,
    crop_height,
    dark_wedge,
    display,
    grain,
    horizontal_flip,
    jpeg,
    shade,
    warp,
)
from oct_jax.data.augment.reference import ReferenceAugmentation
from oct_jax.data.augment.signal import FRAMES
from oct_jax.data.strengths import Augment

seeds = st.integers(0, 2**32 - 1)
images = st.builds(
    lambda rows, columns, seed: np.random.default_rng(seed).integers(
        0, 256, (rows, columns), np.uint8
    ),
    st.integers(2, 40),
    st.integers(2, 40),
    seeds,
)
PATTERN = (np.add.outer(np.arange(64), np.arange(64) ** 2 // 40) % 120 + 40).astype(np.uint8)
STILL = {"rotation": 0.0, "shear": 0.0, "axial": 0.0, "squeeze": 0.0, "stretch": 0.0, "shift": 0.0}
BY_CHANCE = {
    "flip": horizontal_flip,
    "blur": blur,
    "shade": shade,
    "grain": grain,
    "jpeg": jpeg,
    "crop_height": crop_height,
    "dark_wedge": dark_wedge,
}
# name: (the function, its strengths at zero, its strengths at their largest)
CHANGES = {
    name: (change, {"probability": 0.0}, {"probability": 1.0}) for name, change in BY_CHANCE.items()
} | {
    "warp": (warp, STILL, dict.fromkeys(STILL, 0.3) | {"rotation": 20.0}),
    "display": (
        display,
        {"black": 0.0, "white": 0.0, "gamma": 0.0},
        {"black": 120.0, "white": 120.0, "gamma": 1.0},
    ),
}
every_change = pytest.mark.parametrize(("change", "off", "full"), CHANGES.values(), ids=CHANGES)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Drawn(np.random.Generator):
    """A generator whose draws in [0, 1) are these, one after the other."""

    def __init__(self, *values):
        super().__init__(np.random.PCG64(0))
        self.values = list(values)

    def random(self, count=None):
        drawn = [self.values.pop(0) for _ in range(count or 1)]
        return np.array(drawn) if count else drawn[0]

    def uniform(self, low, high, count):
        return low + (high - low) * self.random(count)


@every_change
@given(image=images, seed=seeds)
def test_nothing_changes_at_strength_zero(change, off, full, image, seed):
    np.testing.assert_array_equal(change(image, rng(seed), **off), image)


@every_change
@given(image=images, seed=seeds)
def test_image_and_generator_decide_and_the_image_is_left_alone(change, off, full, image, seed):
    kept = image.copy()
    first, second = (change(image, rng(seed), **full) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, kept)
    assert first.shape == image.shape
    assert first.dtype == np.uint8


@every_change
def test_full_strength_changes_an_image(change, off, full):
    image = PATTERN[:40, :40]
    assert any((change(image, rng(seed), **full) != image).any() for seed in range(5))


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "grain"])
def test_strength_does_not_change_how_much_is_drawn(name):
    change, off, full = CHANGES[name]
    image = rng().integers(0, 256, (16, 16), np.uint8)
    after = []
    for strengths in (off, full):
        generator = rng(7)
        change(image, generator, **strengths)
        after.append(generator.random())
    assert after[0] == after[1]


def test_the_amount_scales_everything_but_the_flip():
    image = rng().integers(0, 256, (32, 32), np.uint8)
    still = augment(image, rng(1), Augment(amount=0.0, flip=0.0), 16)
    np.testing.assert_array_equal(still, cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA))
    mirrored = augment(image, rng(1), Augment(amount=0.0, flip=1.0), 16)
    np.testing.assert_array_equal(mirrored, still[:, ::-1])


@pytest.mark.parametrize("name", [name for name in vars(Augment()) if name != "amount"])
def test_every_setting_is_used(name):
    off = dict.fromkeys(vars(Augment()), 0.0) | {"amount": 1.0}
    full = Augment(**off | {name: {"black": 99.0, "white": 99.0, "rotation": 90.0}.get(name, 0.99)})
    before, after = (
        [augment(PATTERN, rng(seed), config, 32) for seed in range(6)]
        for config in (Augment(**off), full)
    )
    assert any((one != other).any() for one, other in zip(before, after, strict=True))


@given(side=st.integers(8, 48), seed=seeds)
def test_the_result_has_the_size_asked_for_whatever_is_given(side, seed):
    image = rng(seed).integers(0, 256, (side, side), np.uint8)
    first, second = (augment(image, rng(seed), Augment(), 16) for _ in range(2))
    assert first.shape == (16, 16)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)


def test_another_seed_gives_another_image():
    image = rng().integers(0, 256, (32, 32), np.uint8)
    assert (augment(image, rng(1), Augment(), 16) != augment(image, rng(2), Augment(), 16)).any()


@given(image=images)
def test_the_flip_is_an_involution(image):
    once = horizontal_flip(image, rng(), probability=1.0)
    np.testing.assert_array_equal(once, image[:, ::-1])
    np.testing.assert_array_equal(horizontal_flip(once, rng(), probability=1.0), image)


@given(level=st.integers(0, 255), side=st.integers(1, 40), seed=seeds)
def test_the_warp_adds_no_wedge_to_a_constant_image(level, side, seed):
    image = np.full((side, side), level, np.uint8)
    np.testing.assert_array_equal(warp(image, rng(seed), **CHANGES["warp"][2]), image)


@given(image=images, seed=seeds)
def test_the_warp_stays_within_the_image_range(image, seed):
    moved = warp(image, rng(seed), **CHANGES["warp"][2])
    assert image.min() <= moved.min()
    assert moved.max() <= image.max()


@pytest.mark.parametrize(
    ("strengths", "draws", "place"),
    [
        ({"rotation": 90.0}, (1, 0.5, 0.5, 0.5, 0.5, 0.5), (30, 20)),  # about the centre
        ({"shear": 0.5}, (0.5, 1, 0.5, 0.5, 0.5, 0.5), (25, 30)),  # columns slide, none widens
        ({"stretch": np.log(2)}, (0.5, 0.5, 0.5, 1, 0.5, 0.5), (20, 40)),
        ({"squeeze": np.log(2)}, (0.5, 0.5, 0.5, 0, 0.5, 0.5), (20, 25)),
        ({"axial": np.log(2)}, (0.5, 0.5, 1, 0.5, 0.5, 0.5), (20, 30)),  # on the axis: stays
        ({"shift": 5 / 41}, (0.5, 0.5, 0.5, 0.5, 1, 0.5), (20, 35)),
        ({"shift": 10 / 41}, (0.5, 0.5, 0.5, 0.5, 0.5, 0), (15, 30)),
    ],
)
def test_the_warp_moves_a_dot_where_its_strengths_say(strengths, draws, place):
    dot = np.zeros((41, 41), np.uint8)
    dot[20, 30] = 255
    moved = warp(dot, Drawn(*draws), **STILL | strengths)
    assert moved[place] >= 250


@given(image=images, seed=seeds)
def test_the_display_keeps_the_order_of_greys(image, seed):
    shown = display(image, rng(seed), black=100.0, white=100.0, gamma=1.0)
    order = np.argsort(image, axis=None)
    assert (np.diff(shown.ravel()[order].astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("strengths", "draws", "grey", "shown"),
    [
        ({"black": 60.0}, (1, 0.5, 0.5), (60, 61, 255), (0, 1, 255)),
        ({"black": 60.0}, (0, 0.5, 0.5), (0,), (14,)),  # 15 / 270: black turns grey
        ({"white": 55.0}, (0.2, 1, 0.5), (200, 100), (255, 128)),
        ({"gamma": np.log(2)}, (0.2, 0.5, 1), (51, 255), (10, 255)),
    ],
)
def test_the_display_maps_greys_as_levels_and_gamma_say(strengths, draws, grey, shown):
    image = np.array([grey], np.uint8)
    off = {"black": 0.0, "white": 0.0, "gamma": 0.0}
    np.testing.assert_array_equal(display(image, Drawn(*draws), **off | strengths), [shown])


def speckled(level: int, frames: int, deviation_draw: float = 0.0) -> np.ndarray:
    """Grain of so many frames on a constant image; without noise unless it is drawn."""
    pick = (FRAMES.index(frames) + 0.5) / len(FRAMES)
    draws = (0, pick, deviation_draw, 1 / 3, 0, 1, 0, 0)
    flat = np.full((200, 200), level, np.uint8)
    return grain(flat, Drawn(*draws, *(0.3,) * 8), probability=1.0).astype(float)


@pytest.mark.parametrize("frames", [1, 4, 16])
def test_speckle_keeps_the_mean_intensity_and_varies_as_frames_averaged(frames):
    intensity = (speckled(120, frames) / 120) ** 4
    assert abs(intensity.mean() - 1) < 0.05
    # The small blur that correlates neighbours changes no pixel's own distribution: gamma.
    assert abs(intensity.var() * frames - 1) < 0.2


def test_noise_on_black_shows_as_bright_dots_among_black():
    dots = speckled(0, 32, deviation_draw=1.0)
    assert 0.35 < (dots == 0).mean() < 0.65
    assert dots[dots > 0].mean() > 50


def test_grain_does_not_bias_a_bright_layer():
    assert abs((speckled(200, 32) ** 4).mean() ** 0.25 - 200) < 2


def test_shading_keeps_the_ratios_along_the_depth():
    image = np.outer([200, 100], np.ones(64)).astype(np.uint8)
    shaded = shade(image, rng(3), probability=1.0).astype(int)
    assert (abs(shaded[0] - 2 * shaded[1]) <= 2).all()
    assert shaded[0].std() > 1


@given(image=images, seed=seeds)
def test_a_crop_keeps_one_band_of_rows_and_blackens_the_rest(image, seed):
    image = np.maximum(image, 1)
    cropped = crop_height(image, rng(seed), probability=1.0)
    kept = np.flatnonzero(cropped.any(1))
    assert len(kept) >= round(0.6 * len(image))
    np.testing.assert_array_equal(kept, np.arange(kept[0], kept[-1] + 1))
    np.testing.assert_array_equal(cropped[kept], image[kept])


@given(image=images, seed=seeds)
def test_a_wedge_is_black_and_leaves_the_lower_part_alone(image, seed):
    wedged = dark_wedge(image, rng(seed), probability=1.0)
    assert ((wedged == image) | (wedged == 0)).all()
    below = len(image) // 4 + 2
    np.testing.assert_array_equal(wedged[below:], image[below:])


def test_compression_changes_a_smooth_image_little():
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    assert abs(jpeg(ramp, rng(), probability=1.0).astype(int) - ramp).mean() < 4


def test_blur_keeps_the_mean():
    image = rng().integers(0, 256, (64, 64), np.uint8)
    softened = blur(image, rng(1), probability=1.0)
    assert abs(softened.mean() - image.mean()) < 1
    assert softened.std() < image.std()


def test_opencv_threads_change_nothing():
    image = rng().integers(0, 256, (FINE * 150, FINE * 150), np.uint8)
    before = cv2.getNumThreads()
    change = partial(augment, image, augmentation=Augment(), size=150)
    try:
        results = []
        for count in (1, 2):
            cv2.setNumThreads(count)
            results.append(change(rng=rng(5)))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*results)


# ---- the reference's

OFF = {"flip": 0.0, "rotation": 0.0, "zoom": 0.0, "brightness": 0.0, "contrast": 0.0}


@given(image=images, seed=seeds)
def test_the_references_augmentation_without_strength_changes_nothing(image, seed):
    np.testing.assert_array_equal(ReferenceAugmentation(**OFF)(image, rng(seed)), image)


@given(image=images, seed=seeds)
def test_the_references_augmentation_is_decided_by_image_and_generator(image, seed):
    first, second = (ReferenceAugmentation()(image, rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (first.shape, first.dtype) == (image.shape, np.uint8)


@pytest.mark.parametrize(
    ("strengths", "draws", "place"),
    [
        ({"flip": 1.0}, (0.0, 0.5, 0.5, 0.5, 0.5), (20, 10)),
        ({"rotation": 90.0}, (0.9, 1.0, 0.5, 0.5, 0.5), (30, 20)),
        ({"zoom": 1.0}, (0.9, 0.5, 1.0, 0.5, 0.5), (20, 40)),
    ],
    ids=["flip", "rotation", "zoom"],
)
def test_the_references_augmentation_moves_a_dot_where_it_should(strengths, draws, place):
    image = np.zeros((41, 41), np.uint8)
    image[20, 30] = 255
    moved = ReferenceAugmentation(**OFF | strengths)(image, Drawn(*draws))
    assert np.unravel_index(moved.argmax(), moved.shape) == place


@pytest.mark.parametrize(
    ("strengths", "draws", "greys"),
    [
        ({"brightness": 0.1}, (0.9, 0.5, 0.5, 1.0, 0.5), (126, 176)),
        ({"contrast": 0.2}, (0.9, 0.5, 0.5, 0.5, 1.0), (95, 155)),
        ({"contrast": 0.2}, (0.9, 0.5, 0.5, 0.5, 0.0), (105, 145)),
    ],
)
def test_the_references_augmentation_changes_greys_about_the_mean(strengths, draws, greys):
    image = np.repeat(np.array([100, 150], np.uint8), 32).reshape(8, 8)
    toned = ReferenceAugmentation(**OFF | strengths)(image, Drawn(*draws))
    assert (toned[0, 0], toned[-1, -1]) == greys
