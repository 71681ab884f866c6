"""Where a network's positions look, on networks of which that is known."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_model import ToyModel

from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import HeatmapGrid, Preprocess
from oct_jax.model.grid import measure_grid, read_grid, stride_of, write_grid
from oct_jax.model.layers import conv, global_average_pool
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Variables, build
from oct_jax.model.vit import ViT
from oct_jax.types import UserError


@dataclass(frozen=True)
class OnePixelModel:
    """Five stride-2 convolutions with one weight each: a position sees a single pixel."""

    padding: str
    tap: tuple[int, int] = (1, 1)
    num_classes: int = 4

    def features_shape(self, height, width):
        return -(-height // 32), -(-width // 32), 1

    def features(self, variables, images, *, train):
        x = images[..., :1]
        kernel = jnp.zeros((3, 3, 1, 1)).at[self.tap].set(1)
        for _ in range(5):
            x = conv(x, kernel, stride=2, padding=self.padding)
        return x, variables.stats

    def pool(self, features):
        return global_average_pool(features)

    def head(self, variables, features, *, dropout_key=None):
        return self.pool(features)[:, 0, 0] * jnp.arange(1.0, 1 + self.num_classes)

    @property
    def shapes(self):
        return jax.eval_shape(lambda: self.init(0))

    def init(self, seed):
        return Variables({"backbone": {}, "head": {"unused": jnp.zeros(1)}}, {"backbone": {}})


SIDES = {"letterbox": max, "crop": min}


def preprocess_of(size, resize="squash"):
    return Preprocess(size=size, resize=resize, mean=(0.0,), std=(1.0,))


def pixel_of(model, size, row, column):
    """The one pixel that a position sees: the network's answer to pixels that hold their number."""
    rows, columns = np.meshgrid(np.arange(1, size + 1), np.arange(1, size + 1), indexing="ij")
    places = np.stack([rows, columns]).astype(np.float32)[..., None]
    features, _ = model.features(model.init(0), jnp.asarray(places), train=False)
    return tuple(int(value) - 1 for value in features[:, row, column, 0])


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [224, 200, 97, 250])
@pytest.mark.parametrize("tap", [(1, 1), (0, 2)])
def test_the_measured_place_is_the_pixel_that_a_position_sees(padding, size, tap):
    model = OnePixelModel(padding, tap)
    grid = measure_grid(model, model.init(0), preprocess_of(size))
    assert (grid.scale_y, grid.scale_x) == (32, 32)
    row, column = pixel_of(model, size, 2, 1)
    assert grid.offset_y + 2 * 32 == pytest.approx(row, abs=0.01)
    assert grid.offset_x + 32 == pytest.approx(column, abs=0.01)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize("shape", [(224, 224), (300, 420)])
def test_the_heatmap_peaks_at_what_the_network_saw(padding, resize, shape):
    """A bright spot where one position looks is where the heatmap of the scan has its peak."""
    model, preprocess = OnePixelModel(padding), preprocess_of(224, resize)
    classifier = Classifier(model, model.init(0), preprocess, True, "frozen")
    place = np.array(pixel_of(model, 224, 3, 2))
    scale = np.array(shape) if resize == "squash" else SIDES[resize](shape)
    # Every form of resizing keeps the centre in the centre.
    centre = (np.array(shape) - 1) / 2 + (place - 111.5) * scale / 224
    rows, columns = np.meshgrid(*(np.arange(side) for side in shape), indexing="ij")
    scan = np.zeros(shape, np.uint8)
    scan[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 12] = 255
    heat = classifier.explain(scan, target="CNV").heatmap
    peak = np.unravel_index(heat.argmax(), shape)
    assert np.hypot(*(peak - centre)) <= 1.5


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_the_mirrored_scan_has_the_mirrored_average(padding):
    """Each of the two averaged maps is drawn off centre, to opposite sides."""
    model = OnePixelModel(padding)
    classifier = Classifier(model, model.init(0), preprocess_of(224), True, "frozen")
    scan = np.zeros((224, 224), np.uint8)
    row, column = pixel_of(model, 224, 3, 2)
    scan[row - 1 : row + 2, column - 1 : column + 2] = 255
    scan[100:, 224 - column - 3 : 224 - column + 2] = 90  # seen in the mirrored scan
    heat, mirrored = (
        classifier.explain(each, "DME", flip=True).heatmap for each in (scan, scan[:, ::-1])
    )
    assert heat.any()
    np.testing.assert_allclose(mirrored[:, ::-1], heat, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_random_mobilenet_looks_between_the_two_paddings(padding):
    config = MobileNetV3Config("large_minimalistic", width=0.25, padding=padding)
    model = build(config)
    preprocess = Preprocess(size=96, mean=(0.5,) * 3, std=(0.5,) * 3)
    variables = model.init(0)
    grid = measure_grid(model, variables, preprocess)
    assert (grid.scale_y, grid.scale_x) == (32, 32)
    centre = {"symmetric": 0, "same": 31}[padding]  # random kernels look at their fields' middle
    assert grid.offset_y == pytest.approx(centre, abs=5)
    assert grid.offset_x == pytest.approx(centre, abs=5)
    assert measure_grid(model, variables, preprocess) == grid


def test_positions_between_look_between():
    """The dense map's grid is halved: each new position looks half a stride further."""
    model = build(MobileNetV3Config("large_minimalistic", width=0.25, padding="same"))
    variables, preprocess = model.init(0), Preprocess(size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = np.random.default_rng(0).normal(0, 1, (4, 224, 224, 3)).astype(np.float32)

    @jax.jit
    def squares(images, row, column):
        def total(images):
            features = model.dense_features(variables, images)[:, row, column]
            return (features * jnp.where(jnp.arange(features.shape[-1]) % 2, 1, -1)).sum()

        return (jax.grad(total)(images) ** 2).sum((0, 3))

    places = []
    for position in (6, 7):
        seen = np.asarray(squares(images, position, position), np.float64)
        places.append((seen.sum(1) @ np.arange(224)) / seen.sum())
    classifier = Classifier(model, variables, preprocess, True, "frozen")
    assert classifier.grid_of("gradcam-dense").scale_y == 16
    assert places[1] - places[0] == pytest.approx(16, abs=4)


def test_patches_of_a_transformer_look_at_their_middle(optimised):
    model = ViT(width=32, depth=1, heads=2)
    grid = measure_grid(model, model.init(0), Preprocess(size=96, mean=(0.5,) * 3, std=(0.5,) * 3))
    assert (grid.scale_y, grid.scale_x) == (16, 16)
    assert grid.offset_y == pytest.approx(7.5, abs=1)
    assert grid.offset_x == pytest.approx(7.5, abs=1)


@pytest.mark.parametrize("size", [33, 64, 97, 224, 240, 320])
def test_the_stride_does_not_depend_on_the_size(size):
    assert stride_of(OnePixelModel("same"), size) == 32
    assert stride_of(ToyModel(), 2 * size) == 2


def test_a_map_without_stride_is_refused():
    class Pooled(OnePixelModel):
        def features_shape(self, height, width):
            return 1, 1, 1

    with pytest.raises(UserError, match="no stride"):
        stride_of(Pooled("same"), 224)


def test_a_stored_grid_is_of_its_weights_alone(tmp_path):
    model = OnePixelModel("same")
    variables, grid = model.init(0), HeatmapGrid(32.0, 32.0, 20.5, 21.25)
    assert read_grid(tmp_path, variables) is None
    write_grid(tmp_path, grid, variables)
    assert read_grid(tmp_path, variables) == grid
    others = Variables({"backbone": {}, "head": {"unused": jnp.ones(1)}}, {"backbone": {}})
    assert read_grid(tmp_path, others) is None


def test_a_damaged_grid_is_one_line(tmp_path):
    damaged = json.dumps({"model": "x", "grid": {"scale_y": "a"}})
    (tmp_path / "heatmap_grid.json").write_text(damaged)
    with pytest.raises(UserError, match=r"heatmap_grid\.json") as caught:
        read_grid(tmp_path, OnePixelModel("same").init(0))
    assert "\n" not in str(caught.value)
