"""Folding keeps what the network computes and leaves nothing unfolded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oct_jax.model.fold import fold
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Variables, build

CONFIGS = {
    variant: MobileNetV3Config(variant=variant, width=0.25, lowering="conv")
    for variant in ("large", "large_minimalistic")
}


def randomised(variables: Variables, seed: int) -> Variables:
    """Every BatchNorm off its initial state, tame enough for float32.

    Larger scales make a network that amplifies rounding: its folded and unfolded outputs are then
    equally far from those in float64, and farther than the tolerance from each other.
    """
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return jnp.asarray(random.uniform(0.8, 1.3, leaf.shape).astype(np.float32))
        if name == "kernel" and path[1].key == "head":
            return leaf * 10
        if name == "kernel":
            return leaf
        return jnp.asarray(random.normal(0, 0.3, leaf.shape).astype(np.float32))

    return jax.tree_util.tree_map_with_path(draw, variables)


@functools.cache
def evaluate(config):
    """The jitted `(variables, images) -> logits` of a config."""
    model = build(config)

    def logits(variables, images):
        return model.head(variables, model.features(variables, images, train=False)[0])

    return jax.jit(logits)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5)
def test_evaluation_output_is_kept(config, seed):
    variables = randomised(build(config).init(seed), seed)
    images = jnp.asarray(np.random.default_rng(seed).normal(size=(2, 40, 40, 3)), jnp.float32)
    folded, folded_config = fold(variables, config)
    expected = evaluate(config)(variables, images)
    actual = evaluate(folded_config)(folded, images)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_nothing_is_left_unfolded(config):
    folded, folded_config = fold(build(config).init(0), config)
    shapes = build(folded_config).shapes
    assert jax.tree.structure(folded) == jax.tree.structure(shapes)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape, folded, shapes))
    assert not jax.tree.leaves(folded.stats)


def test_folding_twice_is_folding_once():
    once = fold(build(CONFIGS["large"]).init(0), CONFIGS["large"])
    twice = fold(*once)
    assert jax.tree.all(jax.tree.map(np.array_equal, twice[0], once[0]))
    assert twice[1] == once[1]
