"""Paired tests: equal to other libraries' where scans are independent, right where they are not."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax import UserError
from oct_jax.metrics.paired import (
    area_under_curve,
    compare_areas,
    delong,
    mcnemar,
    net_benefit,
)

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "paired.json").read_text())


@pytest.fixture(params=range(len(GOLDEN["cases"])))
def case(request):
    """Predictions of two models, with what MLstatkit, statsmodels and dcurves make of them."""
    stored = GOLDEN["cases"][request.param]
    arrays = {name: np.array(stored[name]) for name in ("positive", "first", "second")}
    return stored | arrays | {"positive": arrays["positive"] == 1}


def test_delong_is_mlstatkits(case):
    result = compare_areas(case["first"], case["second"], case["positive"])
    assert result.areas == pytest.approx(case["areas"], abs=1e-12)
    assert result.p == pytest.approx(case["delong_p"], rel=1e-9)
    half = 1.959963984540054 * case["variance_of_difference"] ** 0.5
    assert result.high - result.difference == pytest.approx(half, rel=1e-9)
    assert area_under_curve(case["first"], case["positive"]) == pytest.approx(case["areas"][0])


def test_mcnemar_is_statsmodels(case):
    first, second = ((case[name] >= 0.5) == case["positive"] for name in ("first", "second"))
    result = mcnemar(first, second, np.arange(len(first)))
    assert result.p_scans == pytest.approx(case["mcnemar_p"], rel=1e-9)
    assert result.p_patients == pytest.approx(case["mcnemar_p"], rel=1e-9)


@pytest.mark.parametrize("prevalence", [None, 0.1])
@pytest.mark.parametrize("model", ["first", "second", "all"])
def test_net_benefit_is_dcurves(case, model, prevalence):
    positive, thresholds = case["positive"], np.array(GOLDEN["thresholds"])
    scores = np.ones(len(positive)) if model == "all" else case[model]
    key = "net_benefit" if prevalence is None else "net_benefit_at_prevalence_0.1"
    ours = net_benefit(scores, positive, thresholds, prevalence)
    np.testing.assert_allclose(ours, case[key][model], rtol=1e-9, atol=1e-12)


def test_clusters_of_one_scan_are_delongs(case):
    scores = np.stack([case["first"], case["second"]])
    plain = delong(scores, case["positive"])
    for ours, theirs in zip(delong(scores, case["positive"], range(60)), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_copies_of_a_patients_scan_tell_nothing_new(case):
    scores, positive = np.stack([case["first"], case["second"]]), case["positive"]
    patients = np.repeat(np.arange(60), 3)
    areas, covariance = delong(scores, positive)
    copied = delong(np.repeat(scores, 3, axis=1), np.repeat(positive, 3), patients)
    np.testing.assert_allclose(copied[0], areas)
    np.testing.assert_allclose(copied[1], covariance)
    independent = delong(np.repeat(scores, 3, axis=1), np.repeat(positive, 3))
    assert independent[1][0, 0] < 0.5 * covariance[0, 0]
    first, second = ((case[name] >= 0.5) == positive for name in ("first", "second"))
    once = mcnemar(first, second, np.arange(60))
    thrice = mcnemar(np.repeat(first, 3), np.repeat(second, 3), patients)
    assert thrice.p_patients == pytest.approx(once.p_patients)
    assert thrice.p_scans <= once.p_scans


def test_the_clustered_variance_is_that_of_repeated_samples():
    """500 samples of 60 patients, half of whom have scans of both kinds."""
    rng = np.random.default_rng(0)
    differences, variances = [], []
    for _ in range(500):
        patients = np.repeat(np.arange(60), 3)
        share = np.repeat(np.where(np.arange(60) % 2, 0.5, np.arange(60) % 4 / 2), 3)
        positive = rng.random(180) < share
        own = np.repeat(rng.normal(0, 1.0, (2, 60)), 3, axis=1)
        scores = positive * [[1.2], [0.8]] + own + rng.normal(0, 0.7, (2, 180))
        areas, covariance = delong(scores, positive, patients)
        differences.append(areas[0] - areas[1])
        variances.append(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert np.mean(variances) == pytest.approx(np.var(differences), rel=0.2)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4)), min_size=1, max_size=9))
def test_mcnemar_over_patients_counts_every_swap(scans):
    first, second, patients = (np.array(column) for column in zip(*scans, strict=True))
    difference = first.astype(int) - second.astype(int)
    sums = [difference[patients == patient].sum() for patient in np.unique(patients)]
    swapped = [abs(np.dot(signs, sums)) for signs in product((-1, 1), repeat=len(sums))]
    expected = np.mean([value >= abs(sum(sums)) for value in swapped])
    assert mcnemar(first, second, patients).p_patients == pytest.approx(expected)


def test_models_that_agree_do_not_differ():
    positive = np.array([True, True, False, False, True])
    scores = np.array([0.9, 0.4, 0.2, 0.5, 0.7])
    assert compare_areas(scores, scores, positive).p == 1
    assert mcnemar(positive, positive, np.arange(5))[2:] == (1, 1)
    assert area_under_curve(scores, np.ones(5, bool)) is None


def test_one_patient_of_a_kind_has_no_variance():
    positive = np.array([True, True, False, False])
    with pytest.raises(UserError, match="1 patients with and 2 without"):
        delong(np.zeros((2, 4)), positive, ["a", "a", "b", "c"])
