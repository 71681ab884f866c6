import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.train import precision
from oct_jax.train.precision import has_failed, initial_scale, next_scale, resolve_precision


def after(steps, name):
    state = initial_scale(name)
    for finite in steps:
        state = next_scale(state, jnp.asarray(finite), name)
    return state


def test_auto_is_bfloat16_on_accelerators_alone():
    assert resolve_precision("auto", "cpu") == "float32"
    assert resolve_precision("auto", "tpu") == "bfloat16"
    assert resolve_precision("auto", "gpu") == "bfloat16"
    assert resolve_precision("float16", "cpu") == "float16"


@given(st.lists(st.booleans(), max_size=30))
def test_skipped_steps_are_counted_and_halve_the_scale_of_float16(steps):
    state = after(steps, "float16")
    assert int(state.skipped) == steps.count(False)
    assert float(state.scale) == precision.INITIAL_SCALE / 2 ** steps.count(False)
    in_a_row = 0
    for finite in steps:
        in_a_row = 0 if finite else in_a_row + 1
    assert int(state.skipped_in_a_row) == in_a_row


@given(st.lists(st.booleans(), max_size=10), st.sampled_from(["float32", "bfloat16"]))
def test_without_float16_the_scale_stays_one_and_one_bad_step_fails(steps, name):
    state = after(steps, name)
    assert float(state.scale) == 1
    assert has_failed(state, name) == (False in steps)


def test_a_long_finite_run_doubles_the_scale(monkeypatch):
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    assert float(after([True] * 2, "float16").scale) == precision.INITIAL_SCALE
    assert float(after([True] * 3, "float16").scale) == precision.INITIAL_SCALE * 2
    assert float(after([True] * 6, "float16").scale) == precision.INITIAL_SCALE * 4


@pytest.mark.parametrize("bad", [1, precision.PATIENCE, precision.PATIENCE + 1])
def test_float16_fails_after_too_many_skipped_steps_in_a_row(bad):
    assert has_failed(after([False] * bad, "float16"), "float16") == (bad > precision.PATIENCE)
    assert not has_failed(after([False] * bad + [True], "float16"), "float16")
