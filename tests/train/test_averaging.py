import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.train.averaging import POWER, with_average
from oct_jax.train.settings import finetune, frozen


def walked(steps, seed=0, optimizer=None):
    """Parameters after each step, and the last state."""
    params = {"moves": jnp.zeros(3), "stays": jnp.array([0.1, 1e-30, 7e20])}
    labels = {"moves": "sgd", "stays": "frozen"}
    parts = {"sgd": optax.sgd(1.0), "frozen": optax.set_to_zero()}
    optimizer = with_average(optimizer or optax.multi_transform(parts, labels))
    state, path = optimizer.init(params), []
    for grad in np.random.default_rng(seed).normal(size=(steps, 3)).astype(np.float32):
        grads = {"moves": jnp.array(grad), "stays": jnp.ones(3)}
        updates, state = jax.jit(optimizer.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path, state


@given(st.integers(1, 40), st.integers(0, 20))
def test_later_steps_weigh_more_by_a_power_of_their_number(steps, seed):
    path, state = walked(steps, seed)
    # The product form of the weights: step t is kept by every later step.
    kept = [(1 - 1 / t) ** (POWER + 1) for t in range(1, steps + 1)]
    weights = [(1 - kept[t]) * np.prod(kept[t + 1 :]) for t in range(steps)]
    assert np.isclose(sum(weights), 1)
    expected = sum(
        w * np.asarray(p["moves"], np.float64) for w, p in zip(weights, path, strict=True)
    )
    np.testing.assert_allclose(state.average["moves"], expected, rtol=1e-4, atol=1e-5)


def test_the_weights_are_about_the_power_of_the_step():
    kept = 1 - 1 / np.arange(1, 1001)
    kept = kept ** (POWER + 1)
    weights = (1 - kept) * np.append(np.cumprod(kept[::-1])[::-1][1:], 1)
    wanted = np.arange(1, 1001.0) ** POWER
    np.testing.assert_allclose(weights[100:], (wanted / wanted.sum())[100:], rtol=0.02)


def test_a_leaf_that_stays_has_itself_as_its_mean_to_the_bit():
    path, state = walked(25)
    np.testing.assert_array_equal(state.average["stays"], path[0]["stays"])


def test_the_updates_are_the_optimizers_own():
    path, _ = walked(5, optimizer=optax.adam(0.1))
    adam = optax.adam(0.1)
    params = {"moves": jnp.zeros(3), "stays": jnp.array([0.1, 1e-30, 7e20])}
    state = adam.init(params)
    for grad in np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32):
        updates, state = adam.update({"moves": jnp.array(grad), "stays": jnp.ones(3)}, state)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(path[-1]["moves"], params["moves"], rtol=1e-6)


def test_weights_are_averaged_where_the_statistics_fit_their_mean():
    assert finetune().average_weights
    assert not finetune(update_statistics=True).average_weights
    assert not frozen().average_weights
    assert finetune(update_statistics=True, average_weights=True).average_weights
