"""Where the positions of a network's last feature map look in its input, measured.

The arithmetic of strides and padding gives the receptive field of each position, but a network
looks at a small part of it, rarely its middle (Luo et al. 2016, "Understanding the effective
receptive field in deep convolutional networks"). Five stride-2 convolutions put the middle of
position i's field at pixel 32 i (symmetric padding) or 32 i + 31 (TensorFlow's SAME); a trained
network looks in between, and not at 32 i + 15.5, where Grad-CAM is usually drawn.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from oct_jax.data.preprocess import HeatmapGrid, Preprocess, normalise
from oct_jax.files import read_json, write_json
from oct_jax.model.protocol import Model, Variables, fingerprint_of
from oct_jax.types import UserError

_FILE = "heatmap_grid.json"
_BATCHES, _IMAGES = 4, 16
_SIDE = 224
_LARGEST_STRIDE = 64
_SEED = 0


@dataclass(frozen=True)
class StoredGrid:
    """A grid as it is stored with a stage.

    Attributes:
      model: fingerprint of the weights that it was measured on.
      grid: of these.
    """

    model: str
    grid: HeatmapGrid


def measure_grid(model: Model, variables: Variables, preprocess: Preprocess) -> HeatmapGrid:
    """The grid of a network: the stride of its positions and the pixel that the first looks at.

    The stride is by how much an image must grow for one more position. The offset is the centroid
    of the squared gradient of one position over the image, less the strides before it: a random
    sign for each channel makes the squared gradient of the sum the sum of squared gradients, in
    expectation. The position is in the middle of an image of about 224 pixels, larger or smaller
    than the model's input by whole strides, so that padding that depends on the size is the same.
    The images are smoothed noise of a fixed seed: measured again, the grid is the same.

    Args:
      model: the network; the folded form is the fastest.
      variables: of the model.
      preprocess: its input's size, and how that is normalised.

    Returns:
      The grid. Where nothing reaches the feature map, each position is in the middle of its stride.
    """
    stride = stride_of(model, preprocess.size)
    side = preprocess.size % stride
    side += stride * max(1, -(-(_SIDE - side) // stride))
    rows, columns, channels = model.features_shape(side, side)
    row, column = (rows - 1) // 2, (columns - 1) // 2
    rng = np.random.default_rng(_SEED)
    gradients = _squared_gradients(model, preprocess, (row, column))
    squares = np.concatenate(
        [
            np.asarray(gradients(variables, _noise(rng, side), _signs(rng, channels)), np.float64)
            for _ in range(_BATCHES)
        ]
    )
    total = squares.sum((1, 2))
    squares = squares[total > 0] / total[total > 0, None, None]
    if not len(squares):
        return HeatmapGrid(stride, stride, (stride - 1) / 2, (stride - 1) / 2)
    places = np.arange(side)
    return HeatmapGrid(
        scale_y=float(stride),
        scale_x=float(stride),
        offset_y=round(float(squares.sum(2).mean(0) @ places) - stride * row, 3),
        offset_x=round(float(squares.sum(1).mean(0) @ places) - stride * column, 3),
    )


def stride_of(model: Model, size: int) -> int:
    """By how many pixels an image must grow for each further row of the feature map.

    Raises:
      UserError: by none up to 64.
    """
    rows, *_ = model.features_shape(size, size)
    further = 64
    for stride in sorted(range(1, _LARGEST_STRIDE + 1), key=lambda s: abs(s - size / rows)):
        try:
            grown, *_ = model.features_shape(size + further * stride, size + further * stride)
        except UserError:
            continue  # a size that the network does not take
        if grown == rows + further:
            return stride
    raise UserError(
        f"{type(model).__name__}: its feature map has no stride of 1 to {_LARGEST_STRIDE} pixels,"
        " so nothing says where its heatmaps belong"
    )


def write_grid(stage: Path, grid: HeatmapGrid, variables: Variables) -> None:
    """Stores the grid that was measured on these variables with a stage."""
    write_json(
        stage / _FILE, {"model": fingerprint_of(variables), "grid": dataclasses.asdict(grid)}
    )


def read_grid(stage: Path, variables: Variables) -> HeatmapGrid | None:
    """The grid of a stage's variables; None where none is stored, or one of other variables.

    Raises:
      UserError: the file is damaged.
    """
    path = stage / _FILE
    if not path.is_file():
        return None
    stored = read_json(path, StoredGrid, remedy="delete it: it is measured again")
    return stored.grid if stored.model == fingerprint_of(variables) else None


@functools.lru_cache(maxsize=8)
def _squared_gradients(model: Model, preprocess: Preprocess, place: tuple[int, int]):
    """From variables, images and signs to the squared gradient of one position's signed sum."""

    @jax.jit
    def squared(variables, images, signs):
        def signed_sum(inputs):
            features, _ = model.features(variables, inputs, train=False)
            return (features[:, *place] * signs).sum()

        gradients = jax.grad(signed_sum)(normalise(images, preprocess))
        return (gradients.astype(jnp.float32) ** 2).sum(-1)

    return squared


def _signs(rng: np.random.Generator, channels: int) -> Float32[np.ndarray, "images channels"]:
    return rng.choice(np.array([-1, 1], np.float32), (_IMAGES, channels))


def _noise(rng: np.random.Generator, side: int) -> Float32[np.ndarray, "images side side"]:
    """Grey noise with the grain of a B-scan: speckle some pixels wide, of all levels."""
    smooth = [
        cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), 4)
        for _ in range(_IMAGES)
    ]
    return np.clip(128 + 64 * np.stack(smooth) / np.std(smooth), 0, 255).astype(np.float32)
