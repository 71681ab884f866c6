"""Published checkpoints: parity with their libraries, key maps, files, downloads."""

import dataclasses
import http.server
import json
import os
import threading
from functools import partial
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest
from safetensors.numpy import save_file
from seeded_checkpoints import seeded_checkpoint, seeded_images

from oct_jax.model import weights
from oct_jax.model.download import WeightFile, fetch
from oct_jax.model.mobilenet_v3 import MobileNetV3Config, blocks_of
from oct_jax.model.porting import LAYOUTS, key_map, leaf_shapes, port, recognise
from oct_jax.model.protocol import build
from oct_jax.model.weights import RECIPES, load_weights
from oct_jax.types import UserError

GOLDEN = Path(__file__).parent.parent / "golden"
MODELS = (
    "torchvision_large",
    "timm_large",
    "timm_minimalistic",
    "keras_large",
    "keras_minimalistic",
)


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the original library's model."""
    stored = json.loads(str(np.load(GOLDEN / f"{name}.npz")["shapes"]))
    return {key: tuple(shape) for key, shape in stored.items()}


def write_keras(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes Keras's legacy HDF5 with the layer names of Keras 2, as published."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        layer, variable = key.split("/")
        if layer.startswith("expanded_conv"):
            for part in ("expand", "depthwise", "project", "squeeze_excite"):
                layer = layer.replace(f"_{part}", f"/{part}")
            layer = layer.replace("excite_conv", "excite/Conv").replace("_bn", "/BatchNorm")
        else:
            layer = layer.capitalize().replace("_bn", "/BatchNorm")
        if layer.endswith("depthwise"):
            variable = "depthwise_kernel"
        layers.setdefault(layer, {})[f"{layer}/{variable}:0"] = array
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, variables in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in variables]
            for name, array in variables.items():
                group.create_dataset(name, data=array)


def write(folder: Path, name: str, arrays: dict[str, np.ndarray], **metadata: str) -> Path:
    path = folder / f"{name}{'.h5' if name.startswith('keras') else '.safetensors'}"
    if name.startswith("keras"):
        write_keras(path, arrays)
    else:
        save_file(arrays, path, metadata)
    return path


def logits_of(pretrained, images):
    model = build(pretrained.config)

    @jax.jit
    def forward(variables, images):
        features, _ = model.features(variables, images, train=False)
        return features, model.head(variables, features)

    return forward(pretrained.variables, jnp.asarray(images))


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_parity_with_the_publisher(name, tmp_path):
    golden = np.load(GOLDEN / f"{name}.npz")
    path = write(tmp_path, name, seeded_checkpoint(shapes_of(name)))
    pretrained = load_weights(str(path), num_classes=1000, seed=0)
    assert pretrained.note.endswith("its 1000-class classifier is kept")
    features, logits = logits_of(pretrained, seeded_images(75))
    assert_close(features.mean(-1), golden["positions"])
    assert_close(features.mean((0, 1, 2)), golden["channels"])
    assert_close(logits, golden["logits"])


@pytest.mark.skipif("OCT_WEIGHTS" not in os.environ, reason="OCT_WEIGHTS names no real weights")
def test_parity_with_timm_on_real_weights(real_weights):
    pretrained = load_weights(str(real_weights), num_classes=1000, seed=0)
    _, logits = logits_of(pretrained, seeded_images(224))
    assert_close(logits, np.load(GOLDEN / "timm_minimalistic_real.npz")["logits"])


@pytest.mark.parametrize("name", MODELS)
def test_conversion_is_a_bijection_on_names_and_shapes(name):
    shapes = shapes_of(name)
    layout, variant = recognise(seeded_checkpoint(shapes), name)
    assert f"{layout.name}_{variant.removeprefix('large_')}" == name
    config = MobileNetV3Config(variant, num_classes=1000)
    rows = key_map(layout, config)
    keys = [row.key for row in rows]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {key for key in shapes if "num_batches" not in key}
    assert [row.leaf for row in rows] == list(leaf_shapes(config))
    # A transform moves numbers and drops none.
    for row in rows:
        ours = layout.transforms[row.transform](
            np.arange(np.prod(shapes[row.key])).reshape(shapes[row.key])
        )
        assert ours.shape == leaf_shapes(config)[row.leaf]
        assert np.array_equal(np.sort(ours, axis=None), np.arange(ours.size))


@pytest.fixture(scope="module", params=["torchvision_large", "timm_minimalistic", "keras_large"])
def checkpoint(request):
    """A whole checkpoint as (arrays, layout, config)."""
    arrays = seeded_checkpoint(shapes_of(request.param))
    layout, variant = recognise(arrays, request.param)
    return arrays, layout, MobileNetV3Config(variant, num_classes=1000)


SPOIL = {
    "1 missing": lambda arrays, key: {k: v for k, v in arrays.items() if k != key},
    "1 unknown": lambda arrays, key: arrays | {f"{key}.no": arrays[key]},
    "1 misshapen": lambda arrays, key: arrays | {key: np.concatenate([arrays[key]] * 2)},
    "1 not finite": lambda arrays, key: arrays | {key: np.full_like(arrays[key], np.nan)},
}


@pytest.mark.parametrize("wrong", SPOIL)
def test_one_wrong_key_is_named(checkpoint, wrong):
    arrays, layout, config = checkpoint
    for row in key_map(layout, config)[::29]:
        with pytest.raises(UserError) as error:
            port(SPOIL[wrong](arrays, row.key), layout, config, "here.pth")
        message = str(error.value)
        assert message.startswith("here.pth: ")
        assert f"{wrong} ({row.key}" in message
        assert message.count(" 1 ") == 1
        assert "\n" not in message


def test_a_long_list_is_cut_and_counted(checkpoint):
    arrays, layout, config = checkpoint
    rest = {k: v for k, v in arrays.items() if "_var" not in k and "variance" not in k}
    with pytest.raises(UserError, match=r"4[67] missing \(.*, .*, .* and 4[34] more\)"):
        port(rest, layout, config, "here.pth")


def test_a_key_that_feeds_two_leaves_is_refused(checkpoint):
    arrays, layout, config = checkpoint
    modules = layout.modules(blocks_of(config))
    twice = modules | {"backbone/blocks/4/project": modules["backbone/blocks/5/project"]}
    with pytest.raises(UserError, match=r"5 unknown .*5 used twice"):
        port(arrays, dataclasses.replace(layout, modules=lambda _: twice), config, "here.pth")


def test_classifier_is_replaced_never_silently(tmp_path):
    arrays = seeded_checkpoint(shapes_of("timm_minimalistic"))
    pretrained = load_weights(str(write(tmp_path, "timm", arrays)), seed=3)
    assert pretrained.note.endswith(
        "its 1000-class classifier is replaced by one of 4, fresh from seed 3"
    )
    fresh = build(pretrained.config).init(3).params["head"]
    head = pretrained.variables.params["head"]
    assert np.array_equal(head["classifier"]["kernel"], fresh["classifier"]["kernel"])
    assert np.array_equal(head["hidden"]["bias"], arrays["conv_head.bias"])


def test_a_classifier_of_the_right_size_is_kept(tmp_path):
    shapes = shapes_of("timm_minimalistic")
    shapes |= {"classifier.weight": (4, 1280), "classifier.bias": (4,)}
    arrays = seeded_checkpoint(shapes)
    pretrained = load_weights(str(write(tmp_path, "timm", arrays)), seed=0)
    assert pretrained.note.endswith("its 4-class classifier is kept")
    kernel = pretrained.variables.params["head"]["classifier"]["kernel"]
    assert np.array_equal(kernel, arrays["classifier.weight"].T)


def test_a_file_without_top_gets_a_fresh_head(tmp_path):
    arrays = seeded_checkpoint(shapes_of("keras_minimalistic"))
    arrays = {k: v for k, v in arrays.items() if not k.startswith(("conv_2/", "logits/"))}
    pretrained = load_weights(str(write(tmp_path, "keras", arrays)), seed=0)
    assert "no hidden layer: the head is fresh" in pretrained.note
    stem = pretrained.variables.params["backbone"]["stem"]["kernel"]
    assert np.array_equal(stem, arrays["conv/kernel"])


def test_a_file_without_classifier_keeps_its_hidden_layer(tmp_path):
    arrays = seeded_checkpoint(shapes_of("timm_minimalistic"))
    headless = {k: v for k, v in arrays.items() if not k.startswith("classifier.")}
    pretrained = load_weights(str(write(tmp_path, "timm", headless)), seed=0)
    assert pretrained.note.endswith("the file has no classifier: it is fresh from seed 0")
    kept = pretrained.variables.params["head"]["hidden"]["bias"]
    assert np.array_equal(kept, arrays["conv_head.bias"])


def test_a_classifier_without_the_layer_before_it_is_refused(tmp_path):
    arrays = seeded_checkpoint(shapes_of("timm_minimalistic"))
    rest = {k: v for k, v in arrays.items() if not k.startswith("conv_head.")}
    with pytest.raises(UserError, match=r"2 missing \(conv_head"):
        load_weights(str(write(tmp_path, "timm", rest)), seed=0)


def test_recipes_are_the_publishers():
    assert set(RECIPES) == {
        (layout.name, variant) for layout in LAYOUTS for variant in ("large", "large_minimalistic")
    }
    for (_, variant), recipe in RECIPES.items():
        assert (recipe.padding == "same") == (recipe.mean == (0.5, 0.5, 0.5))
        assert variant == "large" or recipe.padding == "same"
    assert RECIPES["timm", "large"].bn_epsilon == 1e-5


def test_metadata_overrule_the_recipe(tmp_path):
    arrays = seeded_checkpoint(shapes_of("timm_minimalistic"))
    said = {"padding": "symmetric", "bn_epsilon": "1e-5", "mean": "0,-0.2,0.3", "std": "0.25"}
    pretrained = load_weights(str(write(tmp_path, "timm", arrays, **said)), seed=0)
    assert pretrained.config.padding == "symmetric"
    assert pretrained.config.bn_epsilon == 1e-5
    assert pretrained.mean == (0, -0.2, 0.3)
    assert pretrained.std == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("said", [{"padding": "mirror"}, {"bn_epsilon": "-1"}, {"std": "a"}])
def test_impossible_metadata_are_refused(tmp_path, said):
    path = write(tmp_path, "timm", {"conv_stem.weight": np.zeros((16, 3, 3, 3), "f4")}, **said)
    ((name, value),) = said.items()
    with pytest.raises(UserError, match=f"{name}='{value}'"):
        load_weights(str(path), seed=0)


def test_other_networks_are_refused(tmp_path):
    path = write(tmp_path, "timm", {"layer1.0.conv1.weight": np.zeros((2, 2), "f4")})
    with pytest.raises(UserError, match=r"layer1\.0\.conv1\.weight"):
        load_weights(str(path), seed=0)


def test_random_needs_no_file():
    pretrained = load_weights("random", seed=1, variant="large_minimalistic", width=0.25)
    assert (pretrained.config.variant, pretrained.config.width) == ("large_minimalistic", 0.25)
    assert pretrained.source == {"name": "random", "seed": 1}
    assert jax.tree.all(
        jax.tree.map(np.array_equal, pretrained.variables, build(pretrained.config).init(1))
    )


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match=r"weights=imagenet: .*timm, torchvision, .*random"):
        load_weights("imagenet", seed=0)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A server on this machine with one weight file, and an empty cache."""
    (tmp_path / "server").mkdir()
    path = write(tmp_path / "server", "timm", seeded_checkpoint(shapes_of("timm_minimalistic")))
    handler = partial(Quiet, directory=path.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OCT_JAX_CACHE", str(tmp_path / "cache"))
    yield WeightFile(
        f"http://127.0.0.1:{server.server_port}/{path.name}",
        "cached.safetensors",
        f"sha256:{pooch.file_hash(str(path))}",
    )
    server.shutdown()
    server.server_close()


def test_a_published_file_is_fetched_once(published, tmp_path, monkeypatch):
    monkeypatch.setitem(weights.PUBLISHED, "timm", published)
    first = load_weights("timm", seed=0)
    assert os.listdir(tmp_path / "cache") == ["cached.safetensors"]
    assert first.source["url"] == published.url
    assert f"sha256:{first.source['sha256']}" == published.checksum
    offline = WeightFile("http://127.0.0.1:9/none", published.file_name, published.checksum)
    monkeypatch.setitem(weights.PUBLISHED, "timm", offline)
    again = load_weights("timm", seed=0)
    assert jax.tree.all(jax.tree.map(np.array_equal, first.variables, again.variables))


def test_an_unknown_checksum_is_said_and_recorded(published, monkeypatch):
    file = WeightFile(published.url, published.file_name, None)
    monkeypatch.setitem(weights.PUBLISHED, "minimalistic", file)
    pretrained = load_weights("minimalistic", seed=0)
    assert published.checksum == f"sha256:{pretrained.source['sha256']}"
    assert pretrained.note.endswith(f"not known, sha256 seen {pretrained.source['sha256']}")


def test_another_file_than_published_never_enters_the_cache(published, tmp_path):
    with pytest.raises(UserError, match="wrong checksum"):
        fetch(WeightFile(published.url, "cached.safetensors", "md5:" + "0" * 32))
    assert os.listdir(tmp_path / "cache") == []


def test_a_file_put_into_the_cache_is_verified(published, tmp_path):
    (tmp_path / "cache").mkdir()
    path = tmp_path / "cache" / published.file_name
    path.write_bytes(b"half a file")
    with pytest.raises(UserError) as error:
        fetch(published)
    for part in (str(path), "wrong checksum", published.url):
        assert part in str(error.value)


def test_without_a_network_one_line_says_what_to_fetch_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("OCT_JAX_CACHE", str(tmp_path / "cache"))
    url = "http://127.0.0.1:9/model.safetensors"
    with pytest.raises(UserError) as error:
        fetch(WeightFile(url, "model.safetensors", None))
    assert url in str(error.value)
    assert str(tmp_path / "cache" / "model.safetensors") in str(error.value)
    assert "\n" not in str(error.value)
