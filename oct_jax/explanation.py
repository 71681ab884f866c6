"""A heatmap of one scan, with what is needed to draw it over the scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from oct_jax.data.preprocess import Geometry, HeatmapGrid, Preprocess, to_scan_coordinates
from oct_jax.explain.drawing import overlay
from oct_jax.explain.gradcam import Method
from oct_jax.prediction import Prediction, prediction_card, scan_pixels


@dataclass(frozen=True)
class Explanation:
    """Where in a scan the evidence for a class lies.

    Attributes:
      prediction: what the classifier says of the scan.
      target: the class that is explained.
      method: a name of `oct_jax.explain.gradcam.METHODS`.
      cells: the map as the method gives it, at its feature map's resolution; in [0, 1], its
        maximum 1, or all 0 where nothing speaks for the class.
      geometry: which part of the scan the model's input shows.
      preprocess: from the scan to the model's input.
      grid: where the positions of `cells` look in the model's input.
    """

    prediction: Prediction
    target: str
    method: Method
    cells: Float32[np.ndarray, "rows columns"]
    geometry: Geometry
    preprocess: Preprocess
    grid: HeatmapGrid

    @property
    def scan_shape(self) -> tuple[int, int]:
        """(height, width) of the scan."""
        return self.geometry.scan_shape

    @property
    def heatmap(self) -> Float32[np.ndarray, "height width"]:
        """The map over the scan, float32 in [0, 1]; see `to_scan_coordinates`."""
        return to_scan_coordinates(self.cells, self.grid, self.geometry)

    def _repr_html_(self) -> str:
        """The heatmap over the scan beside the prediction, for a notebook."""
        pixels = scan_pixels(self.prediction)
        same = pixels is not None and pixels.shape == self.scan_shape  # a file may have changed
        picture = overlay(pixels, self.heatmap) if same else None
        line = f"evidence for {self.target} ({self.method}), unverified"
        return prediction_card(self.prediction, picture, [line])
