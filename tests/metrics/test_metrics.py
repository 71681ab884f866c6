import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from oct_jax.decision.calibration import expected_calibration_error
from oct_jax.metrics.classification import (
    at_prevalence,
    bootstrap,
    confusion,
    figures,
    risk_coverage,
    weighted_error,
)
from oct_jax.task import KERMANY

CLASSES = KERMANY.classes  # once: Hypothesis refuses the random checks of types in a strategy

TIERS = ("urgent", "urgent", "routine", "observe")


@st.composite
def classified(draw, least=1):
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    scans, groups = draw(st.integers(least, 60)), draw(st.integers(2, 4))
    probabilities = rng.dirichlet(np.ones(groups), scans)
    return probabilities, rng.integers(0, groups, scans), list(CLASSES[:groups])


@given(classified())
def test_agreement_with_scikit_learn(case):
    probabilities, truth, names = case
    found, said = figures(probabilities, truth, names), probabilities.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, said))
    # scikit-learn's macro over the classes that are there.
    recalls = [(said[truth == group] == group).mean() for group in np.unique(truth)]
    assert found["balanced accuracy"] == pytest.approx(np.mean(recalls))
    if len(np.unique(truth)) == len(names) > 2:
        assert found["balanced accuracy"] == pytest.approx(balanced_accuracy_score(truth, said))
        expected = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
        assert found["macro AUC"] == pytest.approx(expected)


@given(classified(), st.randoms(use_true_random=False))
def test_the_order_of_scans_does_not_matter(case, random):
    probabilities, truth, names = case
    order = list(range(len(truth)))
    random.shuffle(order)
    assert figures(probabilities, truth, names) == pytest.approx(
        figures(probabilities[order], truth[order], names)
    )


@given(classified(), st.floats(0.2, 5))
def test_auc_keeps_its_value_under_monotone_maps(case, power):
    probabilities, truth, names = case
    found = figures(probabilities, truth, names)
    bent = figures(probabilities**power, truth, names)
    for name in names:
        assert found[f"{name} AUC"] == pytest.approx(bent[f"{name} AUC"])


@given(classified())
def test_figures_are_shares_or_none(case):
    for name, value in figures(*case).items():
        assert value is None or 0 <= value <= 1, name


def test_by_hand():
    truth = np.array([0, 0, 1, 1, 1, 2])
    probabilities = np.eye(3)[[0, 1, 1, 1, 0, 2]] * 0.7 + 0.1
    found = figures(probabilities, truth, ["A", "B", "C"])
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced accuracy"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert found["A precision"] == pytest.approx(1 / 2)
    assert found["B recall"] == pytest.approx(2 / 3)
    assert found["A specificity"] == pytest.approx(3 / 4)
    assert found["C AUC"] == 1
    assert confusion(probabilities, truth, 3).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 1]]


def test_one_class_gives_what_it_defines():
    found = figures(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]), ["A", "B"])
    assert found["accuracy"] == 0.5
    assert found["A recall"] == 0.5
    assert found["A precision"] == 1
    for name in ("A AUC", "B AUC", "B recall", "macro AUC", "A specificity"):
        assert found[name] is None


def test_missing_an_urgent_patient_weighs_most():
    def error(true, said):
        return weighted_error(np.eye(4)[[said]], np.array([true]), TIERS, KERMANY)

    assert error(0, 0) == 0
    assert error(0, 3) == 1
    assert error(0, 3) > error(0, 2) > error(0, 1) > 0
    assert error(3, 0) < error(0, 3)
    assert (
        weighted_error(np.eye(4), np.arange(4), ("urgent", None, "routine", "observe"), KERMANY)
        is None
    )


@given(classified(least=3), st.integers(1, 20), st.integers(0, 50))
def test_an_interval_lies_where_its_figure_can_lie(case, patients, seed):
    probabilities, truth, names = case
    owners = [str(scan % patients) for scan in range(len(truth))]

    def of(drawn):
        return figures(probabilities[drawn], truth[drawn], names)

    for ends in bootstrap(owners, of, resamples=10, seed=seed).values():
        if ends is not None:
            assert 0 <= ends[0] <= ends[1] <= 1
    assert bootstrap(owners, of, resamples=10, seed=seed) == bootstrap(
        owners, of, resamples=10, seed=seed
    )


def test_the_interval_of_a_biased_figure_is_not_pulled_to_hold_it():
    """These scans are calibrated to the last one; no resample of them is."""
    confidence = np.repeat([0.6, 0.7, 0.8, 0.9], 10)
    wrong = np.concatenate([np.arange(10) >= 10 * share for share in (0.6, 0.7, 0.8, 0.9)])
    probabilities = np.stack([confidence, 1 - confidence], 1)

    def of(drawn):
        error = expected_calibration_error(probabilities[drawn], wrong[drawn].astype(int))
        return {"error": error}

    value = of(np.arange(40))["error"]
    low, high = bootstrap([str(scan) for scan in range(40)], of, resamples=200, seed=0)["error"]
    assert value == pytest.approx(0, abs=1e-9)
    assert 0.01 < low < high


def test_scans_of_one_patient_do_not_count_as_many():
    """Twenty copies of every scan tell nothing new: the interval must not shrink."""
    rng = np.random.default_rng(0)
    right = rng.random(40) < 0.8

    def width(copies):
        scans = np.repeat(right, copies)
        owners = [str(index // copies) for index in range(len(scans))]
        ends = bootstrap(
            owners, lambda drawn: {"rate": float(scans[drawn].mean())}, resamples=400, seed=0
        )["rate"]
        return ends[1] - ends[0]

    assert width(20) == pytest.approx(width(1), rel=1e-9)
    assert width(1) > 0.2


def test_the_interval_covers_as_often_as_it_says():
    rng, held = np.random.default_rng(1), 0
    for trial in range(100):
        right = (rng.random(60) < 0.7).astype(float)
        ends = bootstrap(
            [str(scan) for scan in range(60)],
            lambda drawn, right=right: {"rate": float(right[drawn].mean())},
            resamples=200,
            seed=trial,
        )["rate"]
        held += ends[0] <= 0.7 <= ends[1]
    assert held >= 85


def test_precision_at_a_prevalence_by_bayes():
    table = np.array([[90, 10], [5, 95]])
    (sick, well) = at_prevalence(table, [0.01, 0.99])
    assert sick == pytest.approx(0.9 * 0.01 / (0.9 * 0.01 + 0.05 * 0.99))
    assert well == pytest.approx(0.95 * 0.99 / (0.95 * 0.99 + 0.1 * 0.01))
    balanced = at_prevalence(table, [0.5, 0.5])
    assert balanced[0] == pytest.approx(90 / 95)
    assert at_prevalence(np.array([[3, 0], [0, 0]]), [0.5, 0.5]) == [None, None]
    assert at_prevalence(np.array([[3, 0], [3, 0]]), [0.5, 0.5])[1] is None


@given(st.integers(0, 999), st.integers(1, 50))
def test_risk_at_full_coverage_is_the_error(seed, scans):
    rng = np.random.default_rng(seed)
    confidence, right = rng.random(scans), rng.integers(0, 2, scans)
    coverage, risk = risk_coverage(confidence, right)
    assert coverage[-1] == 1
    assert risk[-1] == pytest.approx(1 - right.mean())
    assert ((risk >= 0) & (risk <= 1)).all()
    order = rng.permutation(scans)
    tied = np.round(confidence, 1)
    np.testing.assert_allclose(
        risk_coverage(tied, right)[1], risk_coverage(tied[order], right[order])[1], atol=1e-12
    )
    _, oracle = risk_coverage(right.astype(float), right)
    assert (oracle <= risk + 1e-12).all()
