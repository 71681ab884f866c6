"""The answer for an eye: which B-scans count, and what is said where nobody calibrated it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.data.volumes import volume_from_arrays
from oct_jax.decision.eye import (
    Field,
    field_of,
    neighbourhoods,
    obstacle_of,
    pool,
    refer_uncalibrated,
    weights_of,
)
from oct_jax.task import KERMANY

CNV, DME, DRUSEN, NORMAL = np.eye(4)
HEALTHY = np.array([0.01, 0.01, 0.02, 0.96])


def volume_of(count, **changes):
    volume = volume_from_arrays([np.zeros((8, 8), np.uint8)] * count)
    return dataclasses.replace(volume, **changes)


def field(count=20, central=slice(5, 15)) -> Field:
    inside = np.zeros(count, bool)
    inside[central] = True
    return Field(inside, "the central 3 mm")


def refer(eye, bscans, where=None):
    bscans = np.asarray(bscans)
    return refer_uncalibrated(
        np.asarray(eye), bscans, where or field(len(bscans)), range(1, len(bscans) + 1), KERMANY
    )


def test_the_middle_is_taken_from_positions():
    middle = field_of(volume_of(9, distances=tuple(np.linspace(-3000, 3000, 9)), pattern="raster"))
    assert middle.central.tolist() == [False] * 2 + [True] * 5 + [False] * 2
    assert middle.words == "the central 3 mm"


def test_without_positions_the_middle_half_is_taken():
    middle = field_of(volume_of(8, pattern="raster"))
    assert middle.central.tolist() == [False] * 2 + [True] * 4 + [False] * 2
    assert "no positions" in middle.words


def test_of_radial_and_of_few_scans_all_are_taken():
    assert field_of(volume_of(12, pattern="radial")).central.all()
    assert field_of(volume_of(5)).central.all()


def test_a_circular_scan_shows_no_macula():
    circle = field_of(volume_of(1, pattern="circle"))
    assert "no macula" in obstacle_of(circle, np.ones(1, bool), np.zeros(1, bool))


def test_missing_or_strange_scans_of_the_middle_stand_in_the_way():
    readable, unlike = np.ones(20, bool), np.zeros(20, bool)
    assert obstacle_of(field(), readable, unlike) == ""
    readable[:5] = False  # at the edge
    assert obstacle_of(field(), readable, unlike) == ""
    readable[5:8] = False
    assert "3 of the 10 B-scans" in obstacle_of(field(), readable, unlike)
    readable[:] = True
    unlike[5:8] = True
    assert "unlike the training scans" in obstacle_of(field(), readable, unlike)


def test_the_weights_follow_disease_and_its_neighbours():
    scans = np.tile(NORMAL, (6, 1))
    central = np.array([0, 1, 1, 1, 1, 0], bool)
    np.testing.assert_allclose(weights_of(scans, central, KERMANY), central / 4)
    scans[3] = DRUSEN
    weights = weights_of(scans, central, KERMANY)
    np.testing.assert_allclose(weights * weights[1] ** -1 * 0.05, [0, 0.05, *[0.05 + 1 / 3] * 3, 0])
    np.testing.assert_allclose(weights.sum(), 1)


def test_the_pool_is_the_weighted_mean():
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    weights = np.array([0, 0.25, 0.75, 0])
    np.testing.assert_array_equal(pool(features, weights), [[5.25, 6.25, 7.25]])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_neighbourhoods_lie_between_the_extremes(values):
    means = neighbourhoods(np.array(values))
    assert len(means) == max(1, len(values) - 2)
    assert min(values) - 1e-9 <= means.min()
    assert means.max() <= max(values) + 1e-9


def test_a_sure_eye_gets_its_tier():
    scans = [HEALTHY] * 20
    assert refer(HEALTHY, scans)[0] == "observe"
    referral, reason = refer(DRUSEN, [DRUSEN] * 20)
    assert (referral, reason[:11]) == ("routine", "DRUSEN 100%")
    assert refer([0.5, 0.45, 0.03, 0.02], scans)[0] == "urgent"


def test_an_eye_between_tiers_is_deferred():
    referral, reason = refer([0.05, 0.05, 0.5, 0.4], [HEALTHY] * 20)
    assert (referral, reason[:8]) == ("defer", "not sure")


@pytest.mark.parametrize(
    ("rows", "expected", "words"),
    [
        (slice(8, 11), "urgent", "B-scans 9 to 11 in the middle: CNV 100%"),
        (slice(0, 3), "defer", "B-scans 1 to 3 away from the middle"),
        (slice(8, 9), "observe", "NORMAL"),
    ],
)
def test_neighbouring_urgent_scans_outweigh_a_healthy_eye(rows, expected, words):
    scans = np.tile(HEALTHY, (20, 1))
    scans[rows] = CNV
    referral, reason = refer(HEALTHY, scans)
    assert referral == expected
    assert words in reason


def test_neighbouring_drusen_keep_an_eye_from_being_called_healthy():
    scans = np.tile(HEALTHY, (20, 1))
    scans[8:11] = DRUSEN
    referral, reason = refer(HEALTHY, scans)
    assert referral == "defer"
    assert "B-scans 9 to 11 in the middle: DRUSEN 100%" in reason


@given(st.integers(0, 17), st.floats(0, 1))
def test_more_urgency_never_lowers_a_referral(start, share):
    scans = np.tile(HEALTHY, (20, 1))
    order = {"observe": 0, "routine": 1, "defer": 2, "urgent": 3}
    before = order[refer(HEALTHY, scans)[0]]
    scans[start : start + 3] = share * CNV + (1 - share) * HEALTHY
    assert order[refer(HEALTHY, scans)[0]] >= before
