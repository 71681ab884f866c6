"""The network as pure functions: shapes, dtypes, statistics, rematerialisation."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from oct_jax.model import mobilenet_v3
from oct_jax.model.mobilenet_v3 import LARGE, MobileNetV3Config, blocks_of, make_divisible
from oct_jax.model.protocol import build, path_name

# "conv" compiles fastest, and which lowering is used is not the subject here.
NARROW = MobileNetV3Config(width=0.25, lowering="conv")
IMAGES = np.random.default_rng(0).standard_normal((2, 40, 72, 3), np.float32)


@pytest.fixture(scope="module")
def narrow():
    model = build(NARROW)
    return model, model.init(0)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_published_parameter_counts():
    large = build(MobileNetV3Config(num_classes=1000)).shapes
    assert count(large.params["backbone"]) == 2_971_952
    assert count(large.params) == 5_483_032
    minimalistic = build(MobileNetV3Config(variant="large_minimalistic", folded=True)).shapes
    assert count(minimalistic.params["backbone"]) == 1_401_008
    assert minimalistic.stats == {"backbone": {}}


def test_minimalistic_differs_from_large_as_published():
    blocks = blocks_of(MobileNetV3Config(variant="large_minimalistic"))
    for block, large in zip(blocks, LARGE, strict=True):
        assert (block.kernel, block.squeeze, block.activation) == (3, False, "relu")
        assert (block.expanded, block.out, block.stride) == large[1:3] + large[5:]


@pytest.mark.parametrize(("value", "rounded"), [(1, 8), (18, 24), (30, 32), (44, 48), (120.0, 120)])
def test_make_divisible(value, rounded):
    assert make_divisible(value) == rounded


def test_config_round_trips_through_json():
    config = dataclasses.replace(NARROW, padding="same", dtype="bfloat16", remat="blocks")
    again = MobileNetV3Config(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    assert build(again) == build(config)
    assert hash(build(again)) == hash(build(config))


def test_variables_are_float32_under_names(narrow):
    model, variables = narrow
    assert set(variables.params) == {"backbone", "head"}
    assert set(variables.stats) == {"backbone"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        assert path_name(path[1:])
        assert leaf.dtype == jnp.float32
    shapes = jax.tree.map(lambda leaf: leaf.shape, variables)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, model.shapes)


def test_init_is_a_function_of_the_seed(narrow):
    model, variables = narrow
    same, other = model.init(0), model.init(1)
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, same))
    stem = [v.params["backbone"]["stem"]["kernel"] for v in (variables, other)]
    assert not np.array_equal(*stem)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_shapes_and_dtypes(dtype):
    model = build(dataclasses.replace(NARROW, dtype=dtype))
    variables = jax.eval_shape(lambda: model.init(0))
    features, stats = jax.eval_shape(
        lambda v, x: model.features(v, x, train=True), variables, IMAGES
    )
    assert features.shape == (2, *model.features_shape(40, 72)) == (2, 2, 3, 240)
    assert features.dtype == dtype
    assert jax.tree.all(jax.tree.map(lambda s: s.dtype == jnp.float32, stats))
    logits = jax.eval_shape(model.head, variables, features)
    assert (logits.shape, logits.dtype) == ((2, 4), jnp.float32)


def test_evaluation_returns_the_statistics_it_was_given(narrow):
    model, variables = narrow
    given, returned = [], []

    def features(variables):
        given.extend(jax.tree.leaves(variables.stats))
        feature_map, stats = model.features(variables, jnp.asarray(IMAGES), train=False)
        returned.extend(jax.tree.leaves(stats))
        return feature_map

    jax.eval_shape(features, variables)
    assert all(a is b for a, b in zip(given, returned, strict=True))


def test_remat_changes_neither_gradient_nor_statistics(monkeypatch):
    monkeypatch.setattr(mobilenet_v3, "LARGE", LARGE[1:3])  # what holds for these holds for all
    images = jnp.asarray(IMAGES)

    def gradient_of(config):
        backbone = nnx.eval_shape(lambda: mobilenet_v3.Backbone(config))
        graph, *shapes = nnx.split(backbone, nnx.Param, nnx.BatchStat)
        random = np.random.default_rng(0)
        params, stats = jax.tree.map(
            lambda leaf: jnp.asarray(random.uniform(0.5, 1, leaf.shape), jnp.float32), shapes
        )

        def loss(params, stats):
            module = nnx.merge(graph, params, stats, copy=True)
            value = jnp.sum(module(images, train=True) ** 2)
            return value, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

        gradient = jax.grad(loss, has_aux=True)
        text = str(jax.make_jaxpr(gradient)(params, stats))
        return "remat" in text, nnx.to_pure_dict(stats), jax.jit(gradient)(params, stats)

    no_remat, _, (plain, plain_stats) = gradient_of(NARROW)
    has_remat, before, (again, stats) = gradient_of(dataclasses.replace(NARROW, remat="blocks"))
    assert (no_remat, has_remat) == (False, True)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)
    for a, b in zip(jax.tree.leaves(plain_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # Every statistic moved: no update was lost at a block's boundary.
    assert jax.tree.all(jax.tree.map(lambda a, b: not np.array_equal(a, b), before, stats))


def test_vmap_over_variables(narrow):
    model, variables = narrow
    features = jnp.ones((1, 2, 2, 240))
    two = jax.tree.map(lambda a, b: jnp.stack([a, b]), variables, model.init(1))
    logits = jax.jit(jax.vmap(model.head, in_axes=(0, None)))(two, features)
    alone = jax.jit(model.head)(variables, features)
    np.testing.assert_allclose(logits[0], alone, rtol=1e-4, atol=1e-6)
    assert not np.allclose(logits[0], logits[1])


def test_dropout_needs_a_key_and_keeps_the_mean(narrow):
    model, variables = narrow
    features = jnp.ones((1, 2, 2, 240))
    keys = jax.random.split(jax.random.key(0), 4096)
    head = jax.jit(model.head)
    dropped = jax.vmap(lambda key: head(variables, features, dropout_key=key))(keys)
    plain = head(variables, features)
    assert np.std(dropped[:, 0, 0]) > 0
    np.testing.assert_allclose(dropped.mean(0), plain, atol=5 * np.std(dropped) / 64)


@pytest.mark.parametrize("size", [(64, 96), (97, 70)])
@pytest.mark.parametrize(
    "form", [("large", "symmetric"), ("large_minimalistic", "same")], ids=lambda form: form[0]
)
def test_the_dense_feature_map_holds_the_feature_map(form, size):
    """Every second position is the map that the head pools; squeeze-excite changes nothing."""
    variant, padding = form
    model = build(MobileNetV3Config(variant, width=0.25, padding=padding))
    variables = model.init(0)
    images = np.random.default_rng(0).standard_normal((2, *size, 3), np.float32)

    @jax.jit
    def both(images):
        features, _ = model.features(variables, images, train=False)
        return features, model.dense_features(variables, images)

    features, dense = both(images)
    rows, columns = features.shape[1:3]
    assert dense.shape[1:3] == (2 * rows - 1, 2 * columns - 1)
    scale = float(jnp.abs(features).max())
    np.testing.assert_allclose(dense[:, ::2, ::2], features, rtol=0, atol=1e-5 * scale)
    assert float(jnp.abs(dense[:, 1::2] - dense[:, :-1:2]).max()) > 1e-3 * scale
