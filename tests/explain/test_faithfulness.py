"""Laws of what the report measures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.explain.faithfulness import (
    area_under,
    blurred,
    centre_cells,
    deletion_steps,
    energy_inside,
    insertion_steps,
    overlap,
    patient_interval,
    points_at,
    rank_correlation,
    remove_by_blur,
    top_share,
)
from oct_jax.explain.imputation import NOISE, remove_by_imputation

seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0, 1)
removers = st.sampled_from([remove_by_blur, remove_by_imputation])


def heat_of(seed: int) -> np.ndarray:
    """A map with many zeros, as ReLU leaves it."""
    return np.maximum(np.random.default_rng(seed).random((28, 28), np.float32) - 0.5, 0)


def scan_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (28, 28), np.uint8)


@given(seeds, shares)
def test_a_share_is_its_size_and_the_highest(seed, share):
    heat = heat_of(seed)
    mask = top_share(heat, share, np.random.default_rng(seed))
    assert mask.sum() == round(share * heat.size)
    if 0 < mask.sum() < mask.size:
        assert heat[mask].min() >= heat[~mask].max()


def test_ties_are_broken_at_random_not_by_row():
    mask = top_share(np.zeros((28, 28), np.float32), 0.5, np.random.default_rng(0))
    assert 0.35 < mask[:14].mean() < 0.65


@given(seeds, shares, removers)
def test_removal_touches_the_mask_alone(seed, share, remove):
    rng = np.random.default_rng(seed)
    scan, mask = scan_of(seed), top_share(heat_of(seed), share, rng)
    removed = remove(scan, mask, rng)
    assert removed.dtype == np.uint8
    np.testing.assert_array_equal(removed[~mask], scan[~mask])


def test_imputation_comes_from_the_surroundings():
    scan = np.full((28, 28), 80, np.uint8)
    mask = np.zeros((28, 28), bool)
    mask[8:20, 8:20] = True
    scan[mask] = 255
    filled = remove_by_imputation(scan, mask, np.random.default_rng(0))
    assert abs(filled[mask].astype(float) - 80).max() < 15
    assert filled[mask].std() > 1


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_imputed_pixels_are_the_mean_of_their_eight_neighbours(share):
    """Rong et al. 2022: 1/6 of those beside a pixel, 1/12 of those on the diagonal, and noise."""
    rng = np.random.default_rng(0)
    scan = np.full((40, 40), 120, np.uint8)
    scan[:, 20:] = 180
    mask = top_share(rng.random((40, 40), np.float32), share, rng)
    draws = [remove_by_imputation(scan, mask, np.random.default_rng(n)) for n in range(400)]
    padded = np.pad(np.mean(draws, axis=0), 1)
    there = np.pad(np.ones((40, 40)), 1)
    total, weight = np.zeros((40, 40)), np.zeros((40, 40))
    for down in range(3):
        for right in range(3):
            if (down, right) != (1, 1):
                each = 1 / 12 if down != 1 and right != 1 else 1 / 6
                total += each * padded[down : down + 40, right : right + 40]
                weight += each * there[down : down + 40, right : right + 40]
    np.testing.assert_allclose((total / weight)[mask], np.mean(draws, axis=0)[mask], atol=1)
    assert np.std(draws, axis=0)[mask].mean() == pytest.approx(NOISE, rel=0.1)


def test_a_scan_removed_as_a_whole_becomes_its_mean():
    scan = np.repeat(np.uint8([[10, 30]]), 4, axis=0)
    filled = remove_by_imputation(scan, np.ones((4, 2), bool), np.random.default_rng(0))
    assert abs(filled.astype(float) - 20).max() < 12


@given(seeds)
def test_deletion_ends_where_insertion_begins(seed):
    rng, scan, heat = np.random.default_rng(seed), scan_of(seed), heat_of(seed)
    deleted = deletion_steps(scan, heat, [0, 1], remove_by_blur, rng)
    inserted = insertion_steps(scan, heat, [0, 1], rng)
    np.testing.assert_array_equal(deleted, [scan, blurred(scan)])
    np.testing.assert_array_equal(inserted, deleted[::-1])


def test_area_under_known_curves():
    curves = np.array([[1.0, 1, 1], [1, 0.5, 0], [1, 0, 0]])
    np.testing.assert_allclose(area_under(curves), [1, 0.5, 0.25])


@given(seeds)
def test_the_interval_holds_the_mean(seed):
    rng = np.random.default_rng(seed)
    mean, low, high = patient_interval(rng.normal(size=40), [str(n) for n in range(40)], rng)
    assert low < mean < high
    assert patient_interval(np.ones(5), list("abcde"), rng) == (1, 1, 1)


def test_intervals_draw_patients():
    """Scans of one patient are no evidence of their own: a hundred copies change nothing."""
    values, patients = np.array([0.0, 1.0, 1.0, 0.0]), ["a", "b", "c", "d"]
    few = patient_interval(values, patients, np.random.default_rng(0))
    many = patient_interval(np.tile(values, 100), patients * 100, np.random.default_rng(0))
    assert many == pytest.approx(few)


@given(seeds)
def test_rank_correlation_knows_order_alone(seed):
    maps = np.random.default_rng(seed).random((3, 4, 4))
    others = np.stack([maps[0] ** 3, -maps[1], np.zeros((4, 4))])
    np.testing.assert_allclose(rank_correlation(maps, others), [1, -1, 0], atol=1e-12)


def test_pointing_and_overlap_on_a_known_lesion():
    rng = np.random.default_rng(0)
    lesion = np.zeros((28, 28), bool)
    lesion[10:14, 10:14] = True
    hit = lesion.astype(np.float32)
    assert points_at(hit, lesion, 0)
    assert (overlap(hit, lesion, rng), energy_inside(hit, lesion)) == (1, 1)
    beside = np.roll(hit, 6, axis=1)
    assert not points_at(beside, lesion, 2)
    assert points_at(beside, lesion, 3)
    assert (overlap(beside, lesion, rng), energy_inside(beside, lesion)) == (0, 0)


def test_an_empty_map_points_nowhere():
    lesion = np.ones((28, 28), bool)
    assert not points_at(np.zeros((28, 28), np.float32), lesion, 5)
    assert energy_inside(np.zeros((28, 28), np.float32), lesion) == 0


@pytest.mark.parametrize("shape", [(7, 7), (4, 6)])
def test_the_centre_blob_is_symmetric_and_highest_in_the_centre(shape):
    cells = centre_cells(shape)
    assert cells.shape == shape
    np.testing.assert_allclose(cells, cells[::-1, ::-1], rtol=1e-6)
    np.testing.assert_allclose(cells[shape[0] // 2, shape[1] // 2], cells.max(), rtol=1e-6)
