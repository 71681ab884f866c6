import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oct_jax.train.optimizer import (
    automatic_learning_rate,
    describe_learning_rate,
    label_parameters,
    learning_rate_schedule,
    make_optimizer,
    peak_learning_rate,
)
from oct_jax.train.settings import StageSettings, finetune, frozen
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
@example(epochs=3, warmup=0.0, per_epoch=4, schedule="constant")
def test_schedule_rises_to_the_peak_and_never_above_it(epochs, warmup, per_epoch, schedule):
    config = frozen(epochs=epochs, warmup_epochs=warmup, schedule=schedule, learning_rate=0.1)
    total = math.ceil(epochs * per_epoch)
    rates = learning_rate_schedule(config, total)
    values = np.asarray(jax.vmap(rates)(jnp.arange(total)))
    peak = int(values.argmax())
    np.testing.assert_allclose(values[peak], 0.1, rtol=1e-5)
    assert (values >= 0).all()
    assert (np.diff(values[: peak + 1]) > 0).all()
    assert (np.diff(values[peak:]) <= 1e-9).all()


def test_the_automatic_rate_falls_with_the_number_of_steps_between_two_anchors():
    few = automatic_learning_rate("finetune", 280)
    many = automatic_learning_rate("finetune", 39_000)
    assert (few, many) == pytest.approx((3e-4, 1e-5))
    assert automatic_learning_rate("finetune", 1) == few
    assert automatic_learning_rate("finetune", 10**6) == many
    middle = automatic_learning_rate("finetune", round((280 * 39_000) ** 0.5))
    assert middle == pytest.approx((3e-4 * 1e-5) ** 0.5, rel=1e-3)
    assert automatic_learning_rate("frozen", 39_000) == 3e-3


@given(steps=st.lists(st.integers(1, 10**6), min_size=2, max_size=2).map(sorted))
def test_more_steps_never_have_a_higher_automatic_rate(steps):
    fewer, more = (automatic_learning_rate("finetune", count) for count in steps)
    assert fewer >= more


@pytest.mark.parametrize(
    ("settings", "steps", "line"),
    [
        (finetune(), 228, "learning_rate=auto: 0.0003 for 228 steps"),
        (finetune(), 39_134, "learning_rate=auto: 1e-05 for 39,134 steps"),
        (finetune(learning_rate=1e-3), 228, "learning_rate=0.001, as given"),
        (frozen(), 228, "learning_rate=auto: 0.003, for the head alone"),
    ],
)
def test_the_rate_is_described_with_its_reason(settings, steps, line):
    assert describe_learning_rate(settings, steps).startswith(line)


@pytest.mark.parametrize(
    ("warmup_epochs", "steps_per_epoch", "steps_to_the_peak"),
    [(1.0, 8, 30), (1.0, 100, 100), (1.0, 4, 15), (0.0, 8, 0)],
    ids=["at least thirty", "an epoch of more", "a quarter of a short stage", "none"],
)
def test_warm_up_has_a_floor_in_steps(warmup_epochs, steps_per_epoch, steps_to_the_peak):
    settings = finetune(epochs=15, learning_rate=1.0, warmup_epochs=warmup_epochs)
    steps = 15 * steps_per_epoch
    rates = jax.vmap(learning_rate_schedule(settings, steps))(jnp.arange(steps))
    assert int(jnp.argmax(rates)) == steps_to_the_peak


def test_the_floor_of_the_warm_up_can_be_taken_away():
    settings = finetune(epochs=15, learning_rate=1.0, least_warmup_steps=0)
    rates = jax.vmap(learning_rate_schedule(settings, 120))(jnp.arange(120))
    assert int(jnp.argmax(rates)) == 8  # one epoch, as asked


def clipped_gradient(stage, grads, **changes):
    """What AdamW's first moment of the head's bias has seen of the gradient."""
    optimizer = make_optimizer(
        StageSettings(stage=stage, epochs=1, **changes), optax.constant_schedule(1.0)
    )
    updates, state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    return np.array(optax.tree.get(state, "mu")["head"]["logits"]["bias"]) / 0.1, updates


def test_the_gradient_is_clipped_by_its_norm_over_the_trained_leaves_alone():
    head = float(jnp.sqrt(1 / 12.0))  # of 12 values: their norm is 1
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, head), PARAMS)
    grads["backbone"] = jax.tree.map(lambda leaf: leaf * 100, grads["backbone"])
    np.testing.assert_allclose(clipped_gradient("frozen", grads)[0], head, rtol=1e-6)
    assert (clipped_gradient("finetune", grads)[0] < head / 10).all()
    unclipped, _ = clipped_gradient("finetune", grads, clip_norm=0.0)
    np.testing.assert_allclose(unclipped, head, rtol=1e-6)


def test_clipping_leaves_frozen_leaves_as_they_are():
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e6), PARAMS)
    _, updates = clipped_gradient("frozen", grads)
    after = optax.apply_updates(PARAMS, updates)
    jax.tree.map(np.testing.assert_array_equal, after["backbone"], PARAMS["backbone"])
    assert (after["head"]["logits"]["kernel"] != PARAMS["head"]["logits"]["kernel"]).all()


def test_stage_defaults():
    assert (peak_learning_rate(frozen(), 150), frozen().epochs) == (3e-3, 10)
    assert (peak_learning_rate(finetune(), 228), finetune().epochs) == (3e-4, 15)


@pytest.mark.parametrize("change", [{"learning_rate": 0.0}, {"learning_rate": float("nan")}])
def test_a_rate_that_trains_nothing_is_refused(change):
    with pytest.raises(UserError, match="learning_rate"):
        finetune(**change)
