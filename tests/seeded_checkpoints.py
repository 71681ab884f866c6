"""Checkpoints of random numbers that two libraries can make alike, without storing them.

Only NumPy, so that the golden values' script can use it beside the original libraries.
"""

import math
import zlib

import numpy as np


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Float32 numbers that depend on the name and the shape alone.

    From raw Philox bits, which NumPy keeps for ever; its distributions may change.
    """
    bits = np.random.Philox(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    unit = np.asarray(bits >> np.uint64(11), np.float64) / 2**53
    return (low + (high - low) * unit).reshape(shape).astype(np.float32)


def seeded_array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of one array of a checkpoint, of the size that training leaves.

    Variances are small enough for BatchNorm's epsilon to show in the logits, and scales large
    enough for the images to: between the two, logits differ by a third of their own spread.
    """
    if key.endswith("num_batches_tracked"):
        return np.asarray(7, np.int64)
    if key.endswith(("running_var", "moving_variance")):
        return uniform(key, shape, 0.05, 0.15)
    if len(shape) == 1:
        is_scale = key.endswith(("gamma", ".weight"))
        return uniform(key, shape, 0.2, 0.4) if is_scale else uniform(key, shape, -0.3, 0.3)
    # He et al. 2015: limits that keep the variance, by the number of inputs of one output.
    if "/" not in key:
        fan_in = math.prod(shape[1:])
    else:
        fan_in = math.prod(shape[:2] if "depthwise" in key else shape[:-1])
    limit = math.sqrt(6 / fan_in)
    return uniform(key, shape, -limit, limit)


def seeded_checkpoint(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint, by key."""
    return {key: seeded_array(key, tuple(shape)) for key, shape in shapes.items()}


def seeded_images(size: int) -> np.ndarray:
    """Two normalised images, float32 (2, size, size, 3)."""
    return uniform("images", (2, size, size, 3), -2, 2)
