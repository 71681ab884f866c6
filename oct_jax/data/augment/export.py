"""Changes of the exported picture: compression, cropped height, empty corners."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8


def jpeg(
    image: UInt8[np.ndarray, "rows columns"], rng: np.random.Generator, *, probability: float
) -> UInt8[np.ndarray, "rows columns"]:
    """JPEG of a quality from 25 to 94, with this probability (libjpeg's scale).

    As a corruption that networks are sensitive to: Hendrycks and Dietterich 2019, "Benchmarking
    neural network robustness to common corruptions and perturbations".
    """
    chance, quality = rng.random(2)
    if chance >= probability:
        return image
    settings = [cv2.IMWRITE_JPEG_QUALITY, 25 + int(70 * quality)]
    decoded = cv2.imdecode(cv2.imencode(".jpg", image, settings)[1], cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    return decoded


def crop_height(
    image: UInt8[np.ndarray, "rows columns"], rng: np.random.Generator, *, probability: float
) -> UInt8[np.ndarray, "rows columns"]:
    """Black above and below a band of 60 to 100 % of the rows: a scan cropped about the retina.

    Black, as the preprocessing pads a scan that is too shallow for its window.
    """
    chance, share, above = rng.random(3)
    if chance >= probability:
        return image
    rows = image.shape[0]
    kept = max(1, round((0.6 + 0.4 * share) * rows))
    top = round(above * (rows - kept))
    cropped = np.zeros_like(image)
    cropped[top : top + kept] = image[top : top + kept]
    return cropped


def dark_wedge(
    image: UInt8[np.ndarray, "rows columns"], rng: np.random.Generator, *, probability: float
) -> UInt8[np.ndarray, "rows columns"]:
    """Black above a line from the left to the right edge, each at most at a quarter of the height.

    Registration and shadow correction leave such corners; the preprocessing turns white ones dark.
    """
    chance, left, right = rng.random(3)
    if chance >= probability:
        return image
    rows, columns = image.shape
    corners = [[0, 0], [columns, 0], [columns, right * rows / 4], [0, left * rows / 4]]
    return cv2.fillPoly(image.copy(), [np.array(corners, np.int32)], 0)
