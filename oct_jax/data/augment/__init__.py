"""Random changes to a training scan that stand for other devices, operators and exports.

Every function is pure: it takes a grey uint8 image of shape (rows, columns) and a generator,
returns an image of the same shape and dtype, and is decided by the two alone. At strength 0 it is
the identity, bit for bit; a strength that is a probability is the share of images that change.

Grain is made at the pixels of a scanner, not at those of the model's input: `augment` works on an
image that is `FINE` times as large along each side as its result, and reduces it last, as the
resize of a real scan averages real grain.

OpenCV does the work and releases Python's lock while it does. Its own threads change no result, but
split even a small warp: a loader that already runs one image per thread should turn them off with
`cv2.setNumThreads(1)`, which is a setting of the process and so is not made here.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from oct_jax.data.augment.export import crop_height, dark_wedge, jpeg
from oct_jax.data.augment.geometry import horizontal_flip, warp
from oct_jax.data.augment.signal import blur, grain, shade
from oct_jax.data.augment.tone import display
from oct_jax.data.strengths import Augment

__all__ = [
    "FINE",
    "Augment",
    "augment",
    "blur",
    "crop_height",
    "dark_wedge",
    "display",
    "grain",
    "horizontal_flip",
    "jpeg",
    "shade",
    "warp",
]

FINE = 2
"""Side of the image that `augment` is given, over that of the model's input."""


def augment(
    image: UInt8[np.ndarray, "rows columns"],
    rng: np.random.Generator,
    config: Augment,
    size: int,
) -> UInt8[np.ndarray, "size size"]:
    """All changes in the order in which a scan is made: eye, device, display, export.

    Args:
      image: grey, best `FINE * size` along each side; a smaller one is enlarged to that first.
      rng: decides every change.
      config: the strengths; `config.amount` scales all of them but the flip.
      size: side of the result, pixels.
    """
    if min(image.shape) < FINE * size:
        image = cv2.resize(image, (FINE * size, FINE * size), interpolation=cv2.INTER_LINEAR)
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
    image = dark_wedge(image, rng, probability=amount * config.wedge)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
