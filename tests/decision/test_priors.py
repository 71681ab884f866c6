import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.decision.calibration import softmax
from oct_jax.decision.priors import estimate_priors, reweigh

EVEN = np.full(4, 0.25)


def scans_of(priors, scans, seed):
    """Probabilities, calibrated for even classes, of scans whose classes have these priors."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, size=scans, p=priors)
    # Unit Gaussians around the corners of a simplex: the posterior is a softmax.
    features = 2.0 * np.eye(4)[labels] + rng.normal(size=(scans, 4))
    return softmax(2.0 * features), labels


@given(st.lists(st.floats(0.05, 1), min_size=4, max_size=4), st.integers(0, 20))
def test_the_frequencies_of_many_scans_are_found(weights, seed):
    priors = np.array(weights) / sum(weights)
    probabilities, _ = scans_of(priors, 4000, seed)
    np.testing.assert_allclose(estimate_priors(probabilities, EVEN), priors, atol=0.05)


def test_the_estimate_makes_more_scans_right():
    probabilities, labels = scans_of(np.array([0.05, 0.05, 0.1, 0.8]), 1000, 0)
    moved = reweigh(probabilities, estimate_priors(probabilities[:100], EVEN) / EVEN)
    assert (moved.argmax(1) == labels).mean() > (probabilities.argmax(1) == labels).mean()


@given(st.integers(1, 30), st.integers(0, 20))
def test_no_class_is_ruled_out_and_nothing_is_lost(scans, seed):
    probabilities, _ = scans_of(EVEN, scans, seed)
    priors = estimate_priors(probabilities, EVEN)
    assert np.isclose(priors.sum(), 1)
    assert (priors >= 1 / (scans + 4) - 1e-9).all()
    np.testing.assert_allclose(reweigh(probabilities, np.full(4, 7.0)), probabilities)
