import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.decision.calibration import softmax
from oct_jax.decision.conformal import (
    coverage_range,
    patient_threshold,
    prediction_sets,
    set_thresholds,
)


def simulated(rng, scans):
    logits = rng.normal(size=(scans, 4)) * 2
    probabilities = softmax(logits)
    return probabilities, np.array([rng.choice(4, p=row) for row in probabilities])


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_exchangeable_scans_are_covered_in_every_class(coverage):
    rng, covered = np.random.default_rng(0), [[] for _ in range(4)]
    for _ in range(60):
        probabilities, labels = simulated(rng, 400)
        thresholds = set_thresholds(probabilities, labels, coverage)
        new, truth = simulated(rng, 400)
        inside = prediction_sets(new, thresholds)[np.arange(400), truth]
        for label in range(4):
            covered[label].append(inside[truth == label].mean())
    means = np.array([np.mean(rates) for rates in covered])
    # At least what was asked, at most 1 / (n + 1) more, each with its own sampling error.
    assert (means > coverage - 0.012).all()
    assert (means < coverage + 1 / 80 + 0.012).all()


@given(st.integers(0, 60), st.sampled_from([0.5, 0.8, 0.9, 0.99]), st.integers(0, 99))
def test_calibration_scans_are_covered_and_all_of_them_where_they_are_few(scans, coverage, seed):
    rng = np.random.default_rng(seed)
    probabilities, labels = simulated(rng, scans) if scans else (np.zeros((0, 4)), np.zeros(0, int))
    thresholds = set_thresholds(probabilities, labels, coverage)
    sets = prediction_sets(probabilities, thresholds)
    for label in range(4):
        own = labels == label
        if not own.any():
            assert thresholds[label] == 0
            continue
        assert thresholds[label] in probabilities[own, label]
        assert sets[own, label].mean() >= coverage
        if own.sum() < coverage / (1 - coverage) - 1e-9:
            assert sets[own, label].all()


def test_more_coverage_gives_larger_sets():
    rng = np.random.default_rng(1)
    probabilities, labels = simulated(rng, 500)
    sizes = [
        prediction_sets(probabilities, set_thresholds(probabilities, labels, c)).sum()
        for c in (0.5, 0.7, 0.9, 0.99)
    ]
    assert sizes == sorted(sizes)


def test_the_sampling_range_holds_what_sampling_gives():
    rng, outside = np.random.default_rng(2), 0
    low, high = coverage_range(0.9, 30, 50)
    for _ in range(2000):
        calibration, test = rng.uniform(size=30), rng.uniform(size=50)
        threshold = set_thresholds(calibration[:, None], np.zeros(30, int), 0.9)[0]
        outside += not low <= (test >= threshold).mean() <= high
    assert outside / 2000 < 0.08
    assert coverage_range(0.9, 0, 50) == (1.0, 1.0)
    assert coverage_range(0.9, 3, 50)[0] < 0.75


@pytest.mark.parametrize("scans_each", [1, 6])
def test_scans_of_new_patients_are_covered_where_a_patients_scans_resemble_each_other(scans_each):
    rng, by_patient, by_scan = np.random.default_rng(3), [], []
    for _ in range(600):
        # Half of the patients have one scan: those with many must not decide alone.
        patients = np.concatenate([np.arange(25), np.repeat(np.arange(25, 50), scans_each)])
        scores = rng.normal(size=50)[patients] + 0.1 * rng.normal(size=len(patients))
        new = rng.normal(size=400) + 0.1 * rng.normal(size=400)
        by_patient.append((new >= patient_threshold(scores, patients, 0.9)).mean())
        by_scan.append((new >= patient_threshold(scores, np.arange(len(scores)), 0.9)).mean())
    assert 0.9 - 0.006 <= np.mean(by_patient) <= 0.9 + 1 / 51 + 0.006
    if scans_each > 1:
        assert np.std(by_patient) < np.std(by_scan)


@given(st.integers(1, 40), st.integers(1, 4), st.sampled_from([0.5, 0.9, 0.99]), st.integers(0, 99))
def test_repeated_views_of_one_score_change_nothing(patients, views, share, seed):
    scores = np.random.default_rng(seed).normal(size=patients)
    once = patient_threshold(scores, np.arange(patients), share)
    again = patient_threshold(np.tile(scores, views), np.tile(np.arange(patients), views), share)
    assert once == again
    rank = min(int(np.ceil((patients + 1) * share - 1e-9)), patients)
    assert once == np.sort(scores)[::-1][rank - 1]
