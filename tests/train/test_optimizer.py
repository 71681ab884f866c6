import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.train.optimizer import label_parameters, learning_rate_schedule, make_optimizer
from oct_jax.train.settings import finetune, frozen
from oct_jax.types import UserError

PARAMS = {
    "backbone": {"stem": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}},
    "head": {"logits": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(4)}},
}


def test_every_leaf_has_the_label_of_its_owner():
    frozen = label_parameters(PARAMS, "frozen")
    assert set(jax.tree.leaves(frozen["backbone"])) == {"frozen"}
    assert set(jax.tree.leaves(frozen["head"])) == {"trainable"}
    assert set(jax.tree.leaves(label_parameters(PARAMS, "finetune"))) == {"trainable"}


def test_a_leaf_without_an_owner_is_an_error():
    with pytest.raises(UserError, match=r"parameter neck\.kernel"):
        label_parameters({**PARAMS, "neck": {"kernel": jnp.ones(1)}}, "frozen")


def test_frozen_leaves_hold_no_moments():
    config = frozen()
    state = make_optimizer(config, optax.constant_schedule(1e-3)).init(PARAMS)
    moments = [leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sum(moments) == 2 * sum(leaf.size for leaf in jax.tree.leaves(PARAMS["head"]))


def test_kernels_decay_and_biases_do_not():
    config = finetune(weight_decay=0.1)
    optimizer = make_optimizer(config, optax.constant_schedule(1.0))
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["logits"]["kernel"], -0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["head"]["logits"]["bias"], 0)


@given(
    epochs=st.integers(1, 50),
    warmup=st.floats(0, 10),
    per_epoch=st.floats(0.2, 40),
    schedule=st.sampled_from(["cosine", "constant"]),
)
def test_schedule_rises_to_the_peak_and_never_above_it(epochs, warmup, per_epoch, schedule):
    config = frozen(epochs=epochs, warmup_epochs=warmup, schedule=schedule, learning_rate=0.1)
    rates = learning_rate_schedule(config, per_epoch)
    total = max(1, round(epochs * per_epoch))
    values = np.array([float(rates(step)) for step in range(total)])
    peak = int(values.argmax())
    np.testing.assert_allclose(values[peak], 0.1, rtol=1e-5)
    assert (values >= 0).all()
    assert (np.diff(values[: peak + 1]) > 0).all()
    assert (np.diff(values[peak:]) <= 1e-9).all()
