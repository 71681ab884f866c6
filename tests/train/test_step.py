"""The training step: what it moves, what it leaves, and what it does not depend on."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_model import ToyModel

from oct_jax.data.preprocess import Preprocess
from oct_jax.train.loss import class_weighted_loss
from oct_jax.train.optimizer import make_optimizer
from oct_jax.train.settings import StageSettings
from oct_jax.train.step import StepRules, empty_totals, initial_state, make_train_step

PREPROCESS = Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
MODEL = ToyModel()
LOSS = class_weighted_loss(np.ones(4, np.float32), label_smoothing=0.1)
KEY = jax.random.key(0)


def batch_of(size, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, 32, 32), np.uint8),
        "label": rng.integers(0, 4, size).astype(np.int32),
    }


def rules_of(stage, **changes):
    rules = StepRules(
        train_backbone=stage == "finetune",
        update_statistics=False,
        precision="float32",
    )
    return dataclasses.replace(rules, **changes)


def make(stage, model=MODEL, learning_rate=1e-2, **changes):
    rules = rules_of(stage, **changes)
    model = dataclasses.replace(model, dtype=rules.precision)
    settings = StageSettings(stage=stage, epochs=1)
    optimizer = make_optimizer(settings, optax.constant_schedule(learning_rate))
    state = initial_state(model.init(0), optimizer, rules.precision)
    return jax.jit(make_train_step(model, PREPROCESS, optimizer, LOSS, rules)), state


def moved(before, after):
    return [
        bool(jnp.any(a != b))
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    ]


def assert_close(actual, expected, rtol):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.abs(b).max() + 1e-12))


def test_frozen_stage_moves_the_head_and_not_one_bit_of_the_backbone():
    step, state = make("frozen")
    after = step(step(state, batch_of(4), KEY), batch_of(4, 1), KEY)
    assert not any(moved(state.params["backbone"], after.params["backbone"]))
    assert not any(moved(state.stats, after.stats))
    assert all(moved(state.params["head"], after.params["head"]))


@pytest.mark.parametrize("update", [False, True])
def test_finetune_moves_every_parameter_and_statistics_when_told(update):
    step, state = make("finetune", update_statistics=update)
    after = step(step(state, batch_of(8), KEY), batch_of(8, 1), KEY)
    assert all(moved(state.params["head"], after.params["head"]))
    assert all(moved(state.params["backbone"], after.params["backbone"]))
    assert all(moved(state.stats, after.stats)) == update
    assert any(moved(state.stats, after.stats)) == update


def test_frozen_stage_computes_no_gradient_of_the_backbone():
    def flops(stage):
        step, state = make(stage)
        return step.lower(state, batch_of(4), KEY).compile().cost_analysis()["flops"]

    images, variables = jnp.zeros((4, 32, 32, 3)), MODEL.init(0)
    forward = jax.jit(lambda v, x: MODEL.features(v, x, train=False)[0])
    one_pass = forward.lower(variables, images).compile().cost_analysis()["flops"]
    # The images need no gradient, so the backbone's backward pass is that of its kernel alone.
    assert flops("finetune") - flops("frozen") > 0.9 * one_pass
    assert flops("frozen") < 1.5 * one_pass


def test_micro_batches_give_the_whole_batchs_step():
    whole, state = make("finetune")
    parts, _ = make("finetune", accumulate=4)
    a, b = whole(state, batch_of(8), KEY), parts(state, batch_of(8), KEY)
    np.testing.assert_allclose(a.totals.loss, b.totals.loss, rtol=1e-5)
    assert_close(a.opt_state, b.opt_state, rtol=2e-3)


def test_a_non_finite_step_is_skipped_and_counted():
    step, state = make("finetune", precision="float16", update_statistics=True)
    # A loss scale that overflows float16 on the way back.
    state = state._replace(loss_scale=state.loss_scale._replace(scale=jnp.float32(2.0**40)))
    after = step(state, batch_of(4), KEY)
    assert int(after.loss_scale.skipped) == 1
    assert float(after.loss_scale.scale) == 2.0**39
    assert not any(moved((state.params, state.stats), (after.params, after.stats)))
    assert not any(moved(state.opt_state, after.opt_state))
    assert int(after.step) == 1


def test_the_loss_shown_is_that_of_the_steps_that_were_made():
    step, state = make("finetune", precision="float16")
    scale = state.loss_scale.scale
    expected = step(state, batch_of(4), KEY).totals
    overflow = state.loss_scale._replace(scale=jnp.float32(2.0**40))
    state = step(state._replace(loss_scale=overflow), batch_of(4, 1), KEY)
    assert int(state.loss_scale.skipped) == 1
    state = state._replace(loss_scale=state.loss_scale._replace(scale=scale), step=jnp.int32(0))
    totals = step(state, batch_of(4), KEY).totals
    assert int(totals.scans) == int(expected.scans) == 4
    assert int(totals.correct) == int(expected.correct)
    np.testing.assert_allclose(totals.loss / totals.scans, expected.loss / 4, rtol=1e-6)


@pytest.mark.parametrize(("precision", "rtol"), [("float16", 0.1), ("bfloat16", 0.4)])
def test_half_precision_follows_float32(precision, rtol):
    full, state = make("frozen")
    half, half_state = make("frozen", precision=precision)
    a, b = full(state, batch_of(8), KEY), half(half_state, batch_of(8), KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(b.params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(b.totals.loss, a.totals.loss, rtol=rtol / 4)


def test_dropout_hangs_on_key_and_step():
    step, state = make("frozen", model=dataclasses.replace(MODEL, dropout=0.5))
    loss = [
        float(step(state._replace(step=jnp.int32(at)), batch_of(4), key).totals.loss)
        for at, key in [(0, KEY), (0, KEY), (1, KEY), (0, jax.random.key(1))]
    ]
    assert loss[0] == loss[1]
    assert len(set(loss)) == 3


def test_the_step_runs_in_a_loop_of_ones_own():
    optimizer = optax.sgd(0.05)
    step = jax.jit(make_train_step(MODEL, PREPROCESS, optimizer))
    state = initial_state(MODEL.init(0), optimizer)
    batch, losses = batch_of(8), []
    for _ in range(20):
        state = step(state._replace(totals=empty_totals()), batch, KEY)
        losses.append(float(state.totals.loss) / 8)
    assert losses[-1] < losses[0]
    assert all(moved(MODEL.init(0).params, state.params))


EIGHT_DEVICES = """
import jax, numpy as np, test_step as t
from oct_jax.train.step import data_mesh, distribute, jit_step, replicate
assert jax.device_count() == 8
for update in (False, True):
    step, state = t.make("finetune", update_statistics=update, accumulate=1 if update else 2)
    one, _ = t.make("finetune", update_statistics=update)
    expected = one(state, t.batch_of(16), t.KEY)
    mesh = data_mesh()
    many = jit_step(step, mesh)(replicate(state, mesh), distribute(t.batch_of(16), mesh), t.KEY)
    np.testing.assert_allclose(many.totals.loss, expected.totals.loss, rtol=1e-5)
    t.assert_close(many.opt_state, expected.opt_state, rtol=5e-3)
    t.assert_close(many.stats, expected.stats, rtol=1e-4)
print("equal")
"""


def test_eight_devices_give_the_one_device_result(request):
    env = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join(map(str, (request.path.parent, request.path.parent.parent))),
    }
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES], env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == "equal", done.stderr
