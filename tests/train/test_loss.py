import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from oct_jax.train.loss import class_weights, weighted_cross_entropy

label_lists = st.lists(st.integers(0, 3), min_size=4, max_size=60).map(
    lambda labels: np.array([0, 1, 2, 3, *labels], np.int32)
)


def random_logits(labels, seed=0):
    return np.random.default_rng(seed).normal(size=(len(labels), 4)).astype(np.float32) * 3


def loss_of(logits, labels, weights=None, label_smoothing=0.0):
    weights = np.ones(4, np.float32) if weights is None else weights
    losses = weighted_cross_entropy(logits, labels, weights, label_smoothing=label_smoothing)
    return float(losses.mean())


@given(label_lists)
def test_balanced_weights_are_scikit_learns_and_average_one(labels):
    weights = class_weights(labels, classes=4, mode="balanced")
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    np.testing.assert_allclose(weights[labels].mean(), 1, rtol=1e-5)


def test_an_absent_class_has_no_balanced_weight():
    with pytest.raises(ValueError, match="class 2"):
        class_weights(np.array([0, 1, 3], np.int32), classes=4, mode="balanced")


@given(label_lists)
def test_without_weights_it_is_scikit_learns_log_loss(labels):
    logits = random_logits(labels)
    probabilities = np.asarray(jax.nn.softmax(logits.astype(np.float64)))
    expected = log_loss(labels, probabilities / probabilities.sum(-1, keepdims=True))
    np.testing.assert_allclose(loss_of(logits, labels), expected, rtol=1e-5)


@given(label_lists, st.floats(0, 0.5))
def test_loss_of_a_batch_is_the_mean_of_its_halves(labels, smoothing):
    labels = labels[: len(labels) // 2 * 2]
    logits, weights = random_logits(labels), np.array([0.2, 3, 1, 0.7], np.float32)
    half = len(labels) // 2
    halves = [
        loss_of(logits[part], labels[part], weights, smoothing)
        for part in (slice(None, half), slice(half, None))
    ]
    whole = loss_of(logits, labels, weights, smoothing)
    np.testing.assert_allclose(whole, np.mean(halves), rtol=1e-5)


@given(label_lists, st.floats(0.1, 10))
def test_loss_scales_with_the_weights_and_ignores_a_shift_of_the_logits(labels, factor):
    logits, weights = random_logits(labels), np.array([0.2, 3, 1, 0.7], np.float32)
    loss = loss_of(logits, labels, weights)
    np.testing.assert_allclose(loss_of(logits + 5, labels, weights), loss, rtol=1e-4)
    scaled = loss_of(logits, labels, np.float32(factor) * weights)
    np.testing.assert_allclose(scaled, factor * loss, rtol=1e-4)


def test_weight_of_a_class_multiplies_the_gradient_of_its_scans_alone():
    labels = np.array([0, 1, 2, 3], np.int32)
    logits = random_logits(labels)
    gradient = jax.grad(lambda *args, **kwargs: weighted_cross_entropy(*args, **kwargs).mean())
    plain = gradient(logits, labels, jnp.ones(4), label_smoothing=0.1)
    weighted = gradient(logits, labels, jnp.array([1.0, 5, 1, 1]), label_smoothing=0.1)
    np.testing.assert_allclose(weighted[1], 5 * plain[1], rtol=1e-5)
    others = np.array([0, 2, 3])
    np.testing.assert_array_equal(weighted[others], plain[others])
