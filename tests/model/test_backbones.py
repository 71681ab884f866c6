"""Any model that keeps the protocol: one's own, Keras's, and tokens."""

import ast
import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from oct_jax import UserError, load
from oct_jax.commands.train import train_stage
from oct_jax.commands.train_settings import read_settings
from oct_jax.data.phantom import phantom_scans
from oct_jax.data.preprocess import Preprocess
from oct_jax.explain.gradcam import saliency
from oct_jax.model.backbones import BACKBONES, config_class, load_backbone
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Variables, build
from oct_jax.model.vit import ViT
from oct_jax.runs.best import restore_best
from oct_jax.runs.config import RunConfig, read_run_config, write_run_config

ROOT = Path(__file__).parents[2]
KERAS = [name for name, where in BACKBONES.items() if "keras" in where]
IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)


# ---- one's own


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run of the backbone that the documentation shows, both stages trained."""
    folder = tmp_path_factory.mktemp("small")
    page = (ROOT / "docs" / "backbones.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(block.splitlines()) < 60
    (folder / "my_backbone.py").write_text(block)
    settings = ["phantom_patients=24", "image_size=32", "views=1", "batch_size=8", "epochs=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        words = ["backbone=my_backbone:Small", f"run={folder / 'run'}", *settings]
        train_stage(read_settings(["stage=frozen", *words]), Console(quiet=True))
        again = [f"run={folder / 'run'}", "batch_size=8", "epochs=2", "learning_rate=1e-3"]
        train_stage(read_settings(["stage=finetune", *again]), Console(quiet=True))
        yield folder / "run"


def test_a_backbone_of_ones_own_trains_both_stages(small_run):
    config = read_run_config(small_run)
    assert type(config.model).__name__ == "Small"
    shapes = build(config.model).shapes
    stages = [restore_best(small_run / stage, shapes)[0] for stage in ("frozen", "finetune")]
    frozen, finetuned = (jax.tree.map(np.asarray, variables) for variables in stages)
    kernels = [v.params["backbone"]["first"]["kernel"] for v in (frozen, finetuned)]
    means = [v.stats["backbone"]["first"]["mean"] for v in (frozen, finetuned)]
    fresh = config.model.init(0).params
    np.testing.assert_array_equal(kernels[0], fresh["backbone"]["first"]["kernel"])
    assert np.abs(kernels[1] - kernels[0]).max() > 0
    assert np.abs(means[1] - means[0]).max() > 0
    assert np.abs(means[0]).max() > 0  # settled on scans, for weights are random
    assert np.abs(frozen.params["head"]["classifier"]["kernel"]).max() > 0.01


def test_a_backbone_of_ones_own_explains_a_scan(small_run):
    classifier, scan = load(small_run), phantom_scans(patients=24, seed=0).read(0)
    explanation = classifier.explain(scan, target="CNV")
    assert explanation.cells.shape == (2, 2)
    assert explanation.heatmap.shape == scan.shape
    assert explanation.prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_a_run_without_a_named_backbone_is_a_mobilenet(tmp_path):
    model = MobileNetV3Config(width=0.25)
    preprocess = Preprocess(mean=(0.5,), std=(0.5,))
    settings = {"data": "phantom", "on_bad_scan": "refuse", "seed": 1, "phantom_patients": 24}
    write_run_config(tmp_path, RunConfig(settings, model, preprocess, synthetic=True))
    assert read_run_config(tmp_path).model == model


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("resnet", "backbone=resnet: choose one of mobilenetv3, "),
        ("no_such_module:A", "backbone=no_such_module:A: cannot be imported"),
        ("oct_jax.model.vit:None", "backbone=oct_jax.model.vit:None: cannot be imported"),
        ("oct_jax.model.vit:Block", "backbone=oct_jax.model.vit:Block: is no ModelConfig"),
        (
            "oct_jax.model.mobilenet_v3:MobileNetV3Config",
            "build, fold and load); see docs/backbones",
        ),
    ],
)
def test_an_unknown_backbone_is_told(name, line):
    with pytest.raises(UserError, match=re.escape(line)):
        config_class(name)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["backbone=vit", "width=0.5"], "width=0.5: is of backbone=mobilenetv3 alone"),
        (["backbone=vit", "image_size=40"], "image_size=40: patches must tile it"),
        (["backbone=vit", "remat=blocks"], "remat=blocks: ViT has no such form"),
        (["backbone=vit", "weights=timm"], "weights=timm: ViT has no published weights"),
    ],
)
def test_what_a_backbone_cannot_do_is_told_before_anything_is_written(words, line, tmp_path):
    words = ["stage=frozen", f"run={tmp_path / 'run'}", "phantom_patients=24", *words]
    with pytest.raises(UserError, match=re.escape(line)):
        train_stage(read_settings(words), Console(quiet=True))
    assert not (tmp_path / "run").exists()


# ---- tokens


def test_a_token_of_no_block_sees_its_own_patch_alone():
    model = ViT(depth=0, width=16, patch=8)
    variables = model.init(0)
    features = jax.jit(lambda images: model.features(variables, images, train=False)[0])
    before = features(jnp.asarray(IMAGES))

    @given(st.integers(0, 3), st.integers(0, 3))
    def check(row, column):
        images = IMAGES.copy()
        images[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1
        changed = np.abs(np.asarray(features(jnp.asarray(images)) - before)).max((0, 3)) > 1e-4
        expected = np.zeros((4, 4), bool)
        expected[row, column] = True
        np.testing.assert_array_equal(changed, expected)

    check()


def test_tokens_know_their_places():
    model = ViT(depth=0, width=16, patch=8)
    features, _ = model.features(model.init(0), jnp.zeros((1, 32, 32, 3)), train=False)
    tokens = np.asarray(features).reshape(16, 16)
    distances = np.linalg.norm(tokens[:, None] - tokens[None], axis=-1)
    assert distances[~np.eye(16, dtype=bool)].min() > 0.1


def test_a_vits_gradcam_is_its_tokens_weighed_by_the_classifier():
    model = ViT(depth=1, width=16, heads=2, patch=8)
    variables = model.init(1)
    features, _ = jax.jit(lambda images: model.features(variables, images, train=False))(IMAGES)
    targets = np.array([0, 3, 1], np.int32)
    maps = np.asarray(jax.jit(lambda v, f: saliency(model, v, f, targets))(variables, features))
    kernel = np.asarray(variables.params["head"]["classifier"]["kernel"])
    sums = np.maximum(np.einsum("bhwc,cb->bhw", np.asarray(features), kernel[:, targets]), 0)
    expected = sums / np.maximum(sums.max((1, 2), keepdims=True), 1e-12)
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert maps.max() == 1


# ---- Keras's


@pytest.fixture(scope="module")
def keras():
    if importlib.util.find_spec("keras") is None:
        pytest.skip("needs Keras: uv sync --group backbones")
    from oct_jax.model.keras_backbone import import_keras

    return import_keras()


@pytest.fixture(scope="module")
def tiny(keras):
    """A network in `keras.applications` that compiles in a second, and its backbone."""
    from oct_jax.model.keras_backbone import KerasModel

    def network(weights=None, include_top=True, input_shape=(32, 32, 3), classes=10):
        layers = keras.layers
        inputs = keras.Input(input_shape)
        x = layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(inputs)
        x = layers.BatchNormalization(name="stem_bn")(x)
        x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(layers.ReLU()(x))
        x = layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))(x)
        if include_top:
            x = layers.Dense(classes, name="top")(layers.GlobalAveragePooling2D()(x))
        return keras.Model(inputs, x)

    class Tiny(KerasModel):
        application = "Tiny"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.applications, "Tiny", network, raising=False)
        yield Tiny


def randomised(network, seed=0):
    rng = np.random.default_rng(seed)
    for variable in network.variables:
        if variable.dtype == "float32":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return network


@pytest.mark.parametrize("file", ["bare.weights.h5", "top.weights.h5", "bare.h5", "top.h5"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras calls its older format old
def test_a_file_of_keras_gives_kerass_own_features(tiny, keras, file, tmp_path):
    network = randomised(keras.applications.Tiny(include_top=file.startswith("top")))
    if "weights" in file:
        network.save_weights(tmp_path / file)
    else:
        network.save(tmp_path / file)
    loaded = tiny.load(str(tmp_path / file), num_classes=4, seed=0)
    model = build(loaded.config)
    features, stats = model.features(loaded.variables, jnp.asarray(IMAGES), train=False)
    inner = keras.Model(network.input, network.get_layer("depthwise").output)
    np.testing.assert_allclose(features, inner(IMAGES, training=False), rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, loaded.variables.stats)
    assert len(loaded.source["sha256"]) == 64
    logits = model.head(loaded.variables, features)
    assert logits.shape == (3, 4)
    np.testing.assert_array_equal(model.head(loaded.variables, model.pool(features)), logits)


def test_training_form_moves_statistics_as_keras_does(tiny, keras, tmp_path):
    network = randomised(keras.applications.Tiny(include_top=False))
    network.save_weights(tmp_path / "a.weights.h5")
    loaded = tiny.load(str(tmp_path / "a.weights.h5"), num_classes=4, seed=0)
    step = jax.jit(lambda v, x: loaded.config.features(v, x, train=True))
    features, stats = step(loaded.variables, jnp.asarray(IMAGES))
    before_dropout = keras.Model(network.input, network.get_layer("depthwise").output)
    expected = before_dropout(IMAGES, training=True)  # moves the averages, and nothing is dropped
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    for name in ("moving_mean", "moving_variance"):
        ours = stats["backbone"]["stem_bn"][name]
        np.testing.assert_allclose(ours, getattr(network.get_layer("stem_bn"), name), rtol=1e-5)
        assert np.abs(ours - loaded.variables.stats["backbone"]["stem_bn"][name]).max() > 0


def test_a_keras_backbone_has_gradients_and_computes_in_other_types(tiny):
    pretrained = tiny.load("random", num_classes=4, seed=0)
    images, variables = jnp.asarray(IMAGES), pretrained.variables
    half = dataclasses.replace(pretrained.config, dtype="bfloat16")
    features, exact = (
        jax.jit(lambda images, of=of: of.features(variables, images, train=False)[0])(images)
        for of in (half, pretrained.config)
    )
    assert features.dtype == jnp.bfloat16
    np.testing.assert_allclose(features.astype(jnp.float32), exact, rtol=0.1, atol=0.1)

    @jax.jit
    @jax.grad
    def gradients(params):
        given = Variables(params, variables.stats)
        features, _ = pretrained.config.features(given, images, train=True)
        return pretrained.config.head(given, features)[:, 0].sum()

    grads = gradients(variables.params)["backbone"]
    assert np.abs(grads["stem"]["kernel"]).max() > 0
    assert np.abs(grads["depthwise"]["kernel"]).max() > 0


def test_a_file_of_another_network_is_told(tiny, keras, tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    other.save_weights(tmp_path / "other.weights.h5")
    for spec in (str(tmp_path / "other.weights.h5"), "absent.h5"):
        with pytest.raises(UserError, match=r"not weights of Tiny|no such file"):
            tiny.load(spec, num_classes=4, seed=0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet50", 23_534_592),
        ("resnet152", 58_219_520),
        ("efficientnetb0", 4_007_548),
        ("efficientnetb3", 10_696_232),
    ],
)
def test_kerass_networks_have_their_published_sizes(keras, name, parameters):
    params, stats = config_class(name)().backbone_shapes()
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    assert all("moving" in key for layer in stats.values() for key in layer)


def test_an_image_of_odd_size_is_padded_as_keras_pads_it(keras):
    model = build(config_class("efficientnetb0")())
    # By halves rounded up; a network that is not told its size rounds them down, to 2.
    assert model.features_shape(65, 65) == (3, 3, 1280)


def test_without_keras_the_group_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(UserError, match="uv sync --group backbones"):
        load_backbone("resnet50", "random", num_classes=4, seed=0, variant="large", width=1.0)


def test_keras_on_another_backend_is_refused(keras, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(UserError, match="KERAS_BACKEND=torch"):
        importlib.import_module("oct_jax.model.keras_backbone").import_keras()


def test_nothing_imports_keras_before_it_is_asked_for():
    for path in (ROOT / "oct_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any("keras" in name for name in names), path
