"""Random changes to a training scan that stand for other devices, operators and exports.

Every function is pure: it takes a grey uint8 image of shape (rows, columns) and a generator,
returns an image of the same shape and dtype, and is decided by the two alone. At strength 0 it is
the identity, bit for bit; a strength that is a probability is the share of images that change.

Grain is made at the pixels of a scanner, not at those of the model's input: `augment` works on an
image that is `FINE` times as large along each side as its result, and reduces it last, as the
resize of a real scan averages real grain.

OpenCV does the work and releases Python's lock while it does. Its own threads change no result, but
split even a small warp: a loader that already runs one image per thread should turn them off with
`cv2.setNumThreads(1)`, which is a setting of the process, made by commands and not here.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from oct_jax.arrays import Augmentation
from oct_jax.data.augment.export import crop_height, dark_wedge, jpeg
from oct_jax.data.augment.geometry import horizontal_flip, warp
from oct_jax.data.augment.signal import blur, grain, shade
from oct_jax.data.augment.tone import display
from oct_jax.data.strengths import Augment
from oct_jax.types import UserError

__all__ = [
    "FINE",
    "Augment",
    "Augmentation",
    "augment",
    "blur",
    "crop_height",
    "dark_wedge",
    "display",
    "grain",
    "horizontal_flip",
    "jpeg",
    "random_changes",
    "shade",
    "warp",
]

FINE = 2
"""Side of the image that `augment` is given, over that of the model's input."""


def augment(
    image: UInt8[np.ndarray, "rows columns"],
    rng: np.random.Generator,
    augmentation: Augment | Augmentation,
    size: int,
) -> UInt8[np.ndarray, "size size"]:
    """Changes a training scan at random, then reduces it to the model's input.

    Args:
      image: grey, best `FINE * size` along each side; a smaller one is enlarged to that first.
      rng: decides every change.
      augmentation: strengths of `random_changes`, or a function in its place.
      size: side of the result, pixels.

    Raises:
      UserError: the function returns another shape or dtype than it was given.
    """
    if min(image.shape) < FINE * size:
        image = cv2.resize(image, (FINE * size, FINE * size), interpolation=cv2.INTER_LINEAR)
    if isinstance(augmentation, Augment):
        changed = random_changes(image, rng, augmentation)
    else:
        changed = np.asarray(augmentation(image, rng))
    if changed.shape != image.shape or changed.dtype != np.uint8:
        raise UserError(
            f"augmentation: returned {changed.dtype} of shape {changed.shape}; must be uint8 of"
            f" shape {image.shape}, as the image it was given"
        )
    return cv2.resize(changed, (size, size), interpolation=cv2.INTER_AREA)


def random_changes(
    image: UInt8[np.ndarray, "rows columns"], rng: np.random.Generator, config: Augment
) -> UInt8[np.ndarray, "rows columns"]:
    """All built-in changes in the order in which a scan is made: eye, device, display, export.

    Args:
      image: grey, 0 to 255.
      rng: decides every change.
      config: the strengths; `config.amount` scales all of them but the flip.
    """
    amount = config.amount
    image = horizontal_flip(image, rng, probability=config.flip)
    image = warp(
        image,
        rng,
        rotation=amount * config.rotation,
        shear=amount * config.shear,
        axial=amount * config.axial,
        squeeze=amount * config.squeeze,
        stretch=amount * config.stretch,
        shift=amount * config.shift,
    )
    image = blur(image, rng, probability=amount * config.blur)
    image = shade(image, rng, probability=amount * config.shade)
    image = grain(image, rng, probability=amount * config.grain)
    image = display(
        image,
        rng,
        black=amount * config.black,
        white=amount * config.white,
        gamma=amount * config.gamma,
    )
    image = jpeg(image, rng, probability=amount * config.jpeg)
    image = crop_height(image, rng, probability=amount * config.crop)
    return dark_wedge(image, rng, probability=amount * config.wedge)
