import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import brier_score_loss, log_loss

from oct_jax.decision.calibration import (
    BINS,
    brier_score,
    calibration_figures,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    softmax,
)


@st.composite
def logits_and_labels(draw, classes=4):
    scans = draw(st.integers(1, 40))
    logits = draw(hnp.arrays(np.float32, (scans, classes), elements=st.floats(-20, 20, width=32)))
    labels = draw(hnp.arrays(np.int32, scans, elements=st.integers(0, classes - 1)))
    return logits, labels


def simulated(rng, scans, temperature):
    """Labels drawn from the softmax of logits, and these logits made too sharp or too blunt."""
    logits = rng.normal(size=(scans, 4)) * 2
    probabilities = softmax(logits)
    labels = np.array([rng.choice(4, p=row) for row in probabilities])
    return (logits * temperature).astype(np.float32), labels


@given(logits_and_labels(), st.floats(0.05, 20))
def test_temperature_keeps_the_order_of_classes(case, temperature):
    logits, _ = case
    probabilities = softmax(logits, temperature)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    top = np.take_along_axis(probabilities, logits.argmax(1)[:, None], 1)[:, 0]
    np.testing.assert_array_equal(top, probabilities.max(1))


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_of_simulated_logits_is_found(true):
    logits, labels = simulated(np.random.default_rng(0), 4000, true)
    assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.08)


def test_a_model_that_is_right_everywhere_is_not_made_certain():
    labels = np.arange(40) % 4
    logits = 3 * np.eye(4, dtype=np.float32)[labels]
    confidence = softmax(logits, fit_temperature(logits, labels)).max(1)
    # One scan of which nothing is known among 41: three quarters of it are wrong.
    np.testing.assert_allclose(confidence, 1 - 0.75 / 41, rtol=1e-3)


@given(logits_and_labels())
def test_fitting_never_costs_likelihood_beyond_the_added_scan(case):
    logits, labels = case
    targets = (len(labels) * np.eye(4)[labels] + 0.25) / (len(labels) + 1)

    def loss(temperature):
        return -(targets * np.log(softmax(logits, temperature) + 1e-300)).sum()

    assert loss(fit_temperature(logits, labels)) <= loss(1.0) + 1e-3


@given(logits_and_labels())
def test_scores_agree_with_scikit_learn(case):
    logits, labels = case
    probabilities = softmax(logits)
    ours = negative_log_likelihood(logits, labels, 2.0)
    # Warm enough that scikit-learn has nothing to clip.
    assert ours == pytest.approx(log_loss(labels, softmax(logits, 2.0), labels=range(4)), rel=1e-6)
    expected = brier_score_loss(labels, probabilities, labels=range(4), scale_by_half=False)
    assert brier_score(probabilities, labels) == pytest.approx(expected, abs=1e-9)


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0])
    count, confidence, accuracy = reliability(probabilities, labels)
    assert count.sum() == 4
    assert len(count) == BINS
    assert confidence[count > 0].tolist() == pytest.approx([0.6, 0.9])
    assert accuracy[count > 0].tolist() == pytest.approx([1.0, 0.5])
    expected = (2 * 0.4 + 2 * 0.4) / 4
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


@given(logits_and_labels(), st.randoms())
def test_figures_do_not_depend_on_the_order_of_scans(case, random):
    logits, labels = case
    order = list(range(len(labels)))
    random.shuffle(order)
    ours = calibration_figures(logits, labels, 2.0)["after"]
    shuffled = calibration_figures(logits[order], labels[order], 2.0)["after"]
    assert ours == pytest.approx(shuffled)
    error = ours["calibration_error"]
    assert 0 <= error <= 1 if len(labels) >= 10 else error is None
    assert 0 <= ours["brier"] <= 2
