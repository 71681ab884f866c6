"""Class activation maps: laws, the closed form, and parity with pytorch-grad-cam."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from seeded_checkpoints import seeded_checkpoint, seeded_images
from toy_model import ToyModel

from oct_jax.data.preprocess import Preprocess
from oct_jax.explain.gradcam import (
    METHODS,
    PREDICTED,
    closed_form,
    explain_all,
    make_explain,
    normalise_maps,
    saliency,
)
from oct_jax.model.fold import fold
from oct_jax.model.inference import make_forward
from oct_jax.model.mobilenet_v3 import MobileNetV3Config, last_activation
from oct_jax.model.protocol import Variables, build
from oct_jax.model.weights import load_weights
from oct_jax.types import UserError

GOLDEN = Path(__file__).parent.parent / "golden" / "gradcam_torchvision_large.npz"
CONFIGS = [
    MobileNetV3Config(variant, width=0.25, folded=True)
    for variant in ("large", "large_minimalistic")
]
PREPROCESS = Preprocess(size=64, mean=(0.5,) * 3, std=(0.5,) * 3)
seeds = st.integers(0, 2**32 - 1)
configs = st.sampled_from(CONFIGS)
methods = st.sampled_from(sorted(METHODS))
TARGETS = np.array([0, 1, 3], np.int32)

jitted = jax.jit(saliency, static_argnums=(0, 4))
jitted_closed_form = jax.jit(closed_form, static_argnums=3)


@functools.cache
def fresh(config: MobileNetV3Config, seed: int) -> Variables:
    return build(config).init(seed)


def variables_of(config: MobileNetV3Config, seed: int) -> Variables:
    """A folded model with a head of the size that training leaves."""
    params = fresh(config, seed % 3).params
    rng = np.random.default_rng(seed)
    head = jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.standard_normal(leaf.shape, np.float32)), params["head"]
    )
    return Variables({**params, "head": head}, {"backbone": {}})


def features_of(config: MobileNetV3Config, seed: int, batch: int = 3):
    channels = build(config).features_shape(64, 64)[-1]
    normal = np.random.default_rng(seed).standard_normal((batch, 5, 3, channels), np.float32)
    return jnp.asarray(np.maximum(2 * normal, -0.375))


def scans_of(seed: int, batch: int = 3) -> np.ndarray:
    """Smooth random scans, so that a mirrored one is not noise to the network."""
    coarse = np.random.default_rng(seed).integers(0, 256, (batch, 8, 8), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


@given(configs, methods, seeds)
def test_maps_lie_between_0_and_1(config, method, seed):
    maps = jitted(
        build(config), variables_of(config, seed), features_of(config, seed), TARGETS, method
    )
    assert maps.shape == (3, 5, 3)
    assert maps.dtype == jnp.float32
    assert (maps >= 0).all()
    peaks = np.asarray(maps.max((1, 2)))
    np.testing.assert_allclose(peaks[peaks > 0], 1, rtol=1e-6)
    assert (maps <= 1).all()


@given(configs, st.sampled_from(["gradcam", "gradcam++", "hirescam"]), seeds)
def test_zero_where_the_gradient_says_nothing(config, method, seed):
    variables = variables_of(config, seed)
    head = jax.tree.map(jnp.zeros_like, variables.params["head"])
    silent = Variables({**variables.params, "head": head}, variables.stats)
    maps = jitted(build(config), silent, features_of(config, seed), TARGETS, method)
    assert not maps.any()


def test_a_map_without_a_positive_value_stays_zero():
    maps = jnp.stack([-jnp.ones((2, 2)), jnp.eye(2) * 1e-30, jnp.eye(2)])
    expected = np.stack([np.zeros((2, 2)), np.eye(2), np.eye(2)])
    np.testing.assert_array_equal(normalise_maps(maps), expected)


@given(configs, methods, seeds, st.floats(-100, 100, width=32))
def test_a_constant_on_all_logits_changes_nothing(config, method, seed, constant):
    variables, features = variables_of(config, seed), features_of(config, seed)
    head = variables.params["head"]
    raised = head["classifier"] | {"bias": head["classifier"]["bias"] + constant}
    other = Variables({**variables.params, "head": head | {"classifier": raised}}, variables.stats)
    before, after = (
        jitted(build(config), v, features, TARGETS, method) for v in (variables, other)
    )
    np.testing.assert_array_equal(before, after)


@given(configs, seeds)
def test_the_closed_form_is_the_gradient(config, seed):
    variables, features = variables_of(config, seed), features_of(config, seed)
    targets = np.array([seed % 4, 1, 2], np.int32)
    by_grad = jitted(build(config), variables, features, targets)
    closed = jitted_closed_form(
        variables.params["head"], features, targets, last_activation(config)
    )
    np.testing.assert_allclose(closed, by_grad, rtol=0, atol=1e-5)


@given(configs, seeds)
def test_pooling_first_makes_hirescam_gradcam(config, seed):
    variables, features = variables_of(config, seed), features_of(config, seed)
    one, other = (
        jitted(build(config), variables, features, TARGETS, method)
        for method in ("gradcam", "hirescam")
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@given(configs, methods, seeds)
def test_mirrored_features_give_the_mirrored_map(config, method, seed):
    variables, features = variables_of(config, seed), features_of(config, seed)
    maps = jitted(build(config), variables, features, TARGETS, method)
    mirrored = jitted(build(config), variables, features[:, :, ::-1], TARGETS, method)
    np.testing.assert_allclose(mirrored[:, :, ::-1], maps, rtol=0, atol=1e-4)


@given(configs, seeds)
def test_flip_averaged_maps_mirror_with_the_scan(config, seed):
    variables, scans = variables_of(config, seed), scans_of(seed)
    explain = make_explain(build(config), PREPROCESS, flip=True)
    targets = TARGETS
    _, maps = explain_all(explain, variables, [(scans, targets)])
    _, mirrored = explain_all(explain, variables, [(scans[:, :, ::-1], targets)])
    np.testing.assert_allclose(mirrored[:, :, ::-1], maps, rtol=0, atol=1e-4)


@given(configs, seeds)
def test_the_dense_map_is_gradcam_at_the_positions_that_both_have(config, seed):
    variables, scans = variables_of(config, seed), scans_of(seed)
    dense, plain = (
        explain_all(make_explain(build(config), PREPROCESS, method), variables, [(scans, TARGETS)])
        for method in ("gradcam-dense", "gradcam")
    )
    np.testing.assert_allclose(dense.outputs.logits, plain.outputs.logits, rtol=1e-4, atol=1e-4)
    assert dense.maps.shape[1:] == tuple(2 * side - 1 for side in plain.maps.shape[1:])
    np.testing.assert_allclose(
        normalise_maps(jnp.asarray(dense.maps[:, ::2, ::2])), plain.maps, rtol=0, atol=1e-3
    )


def test_a_model_without_a_dense_feature_map_is_refused_in_one_line():
    explain = make_explain(ToyModel(), PREPROCESS, "gradcam-dense")
    with pytest.raises(UserError, match="use gradcam"):
        explain(ToyModel().init(0), scans_of(0), TARGETS)


@given(configs, seeds, st.integers(1, 9))
def test_a_scan_has_one_map_whatever_its_batch(config, seed, batch):
    variables, scans = variables_of(config, seed), scans_of(seed, batch)
    explain = make_explain(build(config), PREPROCESS)
    targets = np.arange(batch, dtype=np.int32) % 4
    (logits, _), maps = explain_all(explain, variables, [(scans, targets)])
    assert len(maps) == batch
    alone = [
        explain_all(explain, variables, [(scans[i : i + 1], targets[i : i + 1])])
        for i in (0, batch - 1)
    ]
    for i, (one, one_map) in zip((0, -1), alone, strict=True):
        scale = np.abs(logits[i]).max()
        np.testing.assert_allclose(one.logits[0], logits[i], rtol=0, atol=1e-4 * scale)
        np.testing.assert_allclose(one_map[0], maps[i], rtol=0, atol=1e-3)


@pytest.mark.parametrize("flip", [False, True])
def test_logits_are_the_classifiers_and_the_prediction_is_the_default(flip):
    config = CONFIGS[0]
    variables, scans = variables_of(config, 0), scans_of(0)
    logits = np.asarray(make_forward(build(config), PREPROCESS)(variables, scans).logits)
    explain = make_explain(build(config), PREPROCESS, flip=flip)
    (ours, _), default = explain_all(explain, variables, [(scans, np.full(3, PREDICTED, np.int32))])
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-5)
    said = logits.argmax(-1).astype(np.int32)
    _, expected = explain_all(explain, variables, [(scans, said)])
    np.testing.assert_array_equal(default, expected)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "hirescam"])
def test_parity_with_pytorch_grad_cam(method, tmp_path):
    golden = np.load(GOLDEN)
    shapes = {key: tuple(shape) for key, shape in json.loads(str(golden["shapes"])).items()}
    save_file(seeded_checkpoint(shapes), tmp_path / "torchvision.safetensors")
    pretrained = load_weights(str(tmp_path / "torchvision.safetensors"), num_classes=1000, seed=0)
    variables, config = fold(pretrained.variables, pretrained.config)
    model, targets = build(config), golden["targets"]

    @jax.jit
    def explain(variables, images):
        features, _ = model.features(variables, images, train=False)
        return saliency(model, variables, features, targets, method)

    ours = np.asarray(explain(variables, jnp.asarray(seeded_images(96))))
    # Theirs as it is before the library rescales it to its own minimum.
    theirs = np.maximum(golden[method], 0)
    assert (theirs.max((1, 2)) > 0).all()
    np.testing.assert_allclose(ours, theirs / theirs.max((1, 2), keepdims=True), rtol=0, atol=1e-4)
