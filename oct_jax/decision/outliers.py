"""Is a scan like those that the model was trained on? A density of its features.

Probabilistic PCA (Tipping and Bishop 1999, section 3) of the pooled features of training scans,
each scaled to length 1: a Gaussian with a few free directions, and the same variance in all
others. The score of a scan is its squared Mahalanobis distance. It needs no labels, fits in one
matrix of (channels, directions), and is plain arithmetic, so that it can be exported.

The length is dropped because it misleads: blank and noisy pictures excite few features, and short
vectors lie near the mean of everything (Mueller and Hein 2025 find the same on photographs).
Without the scaling the models of the real scans called none of noise, blank and grey pictures an
outlier; with it all of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from oct_jax.arrays import SameArray, ScanBatch, namespace_of, widest
from oct_jax.decision.conformal import Patients, patient_ids, patient_threshold

DIRECTIONS = 32
"""At most; fewer where there are few training scans."""
TILES = 14
"""In a row and in a column of a shuffled scan: too small to hold a piece of retina."""

Features = Float[SameArray, "scans channels"]


class OutlierModel(NamedTuple):
    """A Gaussian over pooled features of length 1, and how far from it is too far; a pytree.

    Attributes:
      mean: of the training scans' features.
      directions: orthonormal columns, the free directions.
      precisions: 1 / variance along each of them.
      rest_precision: 1 / variance along every other direction.
      threshold: squared distance above which a scan is an outlier.
      no_retina: squared distance above which a picture shows no retina at all; not below
        `threshold`.
    """

    mean: Float32[SameArray, "channels"]
    directions: Float32[SameArray, "channels directions"]
    precisions: Float32[SameArray, "directions"]
    rest_precision: Any
    threshold: Any
    no_retina: Any = float("inf")


def fit_outliers(features: Features) -> OutlierModel:
    """The model of training features, its threshold still infinite; `fit_rule` sets it.

    Args:
      features: of at least 3 scans.
    """
    from sklearn.decomposition import PCA  # slow to import, and only fitting needs it

    directions = min(DIRECTIONS, len(features) - 2, features.shape[1] - 1)
    # Not the randomised solver that is the default for so many channels: the same features must
    # give the same bits.
    pca = PCA(n_components=directions, svd_solver="full")
    pca.fit(_of_length_one(features))
    # Features that never vary would have an infinite precision.
    floor = 1e-6 * max(float(pca.explained_variance_.sum()), 1e-12)
    return OutlierModel(
        mean=pca.mean_.astype(np.float32),
        directions=pca.components_.T.astype(np.float32),
        precisions=(1 / np.maximum(pca.explained_variance_, floor)).astype(np.float32),
        rest_precision=float(1 / max(pca.noise_variance_, floor)),
        threshold=float("inf"),
    )


def squared_distance(model: OutlierModel, features: Features) -> Float[SameArray, "scans"]:
    """Squared Mahalanobis distance of each scan's features from the training scans'.

    Computed in float64 of NumPy features; in float32 of JAX's, for which it may be traced.
    """
    away = _of_length_one(features) - model.mean
    along = away @ model.directions
    rest = namespace_of(away).maximum((away**2).sum(1) - (along**2).sum(1), 0)
    return (along**2) @ model.precisions + model.rest_precision * rest


def outlier_threshold(
    distances: Float[np.ndarray, "scans"], rate: float, patients: Patients | None = None
) -> float:
    """The distance that at most about `rate` of a new patient's scans like these exceed.

    Args:
      distances: of held-out scans.
      rate: in (0, 1).
      patients: of each scan; without them every scan counts as a patient of its own.

    Returns:
      The `patient_threshold` of closeness; infinite where there is no scan.
    """
    closeness = patient_threshold(-distances, patient_ids(patients, len(distances)), 1 - rate)
    return float("inf") if closeness is None else -closeness


def no_retina_threshold(threshold: float, shuffled: Float[np.ndarray, "scans"]) -> float:
    """Two thirds of the way, on a logarithmic scale, from unusual scans to those without a retina.

    Args:
      threshold: the `outlier_threshold`.
      shuffled: distances of `shuffle_tiles` of held-out scans, which have the scans' grain and grey
        levels, but no retina. Their lower twentieth counts as their edge.

    Returns:
      A distance; the threshold itself where shuffled scans are no further away.
    """
    edge = float(np.quantile(shuffled, 0.05))
    return threshold if edge <= threshold else float((threshold * edge**2) ** (1 / 3))


def shuffle_tiles(scans: ScanBatch, rng: np.random.Generator) -> ScanBatch:
    """The scans cut into 14 x 14 tiles, each scan's put together in an order of its own.

    Args:
      scans: uint8 grey of shape (scans, size, size).
      rng: draws the orders.
    """
    tile = scans.shape[1] // TILES
    whole = scans[:, : tile * TILES, : tile * TILES]
    grid = whole.reshape(-1, TILES, tile, TILES, tile).swapaxes(2, 3)
    tiles = grid.reshape(len(scans), TILES**2, tile, tile)
    mixed = np.stack([of_scan[rng.permutation(TILES**2)] for of_scan in tiles])
    shuffled = scans.copy()
    back = mixed.reshape(grid.shape).swapaxes(2, 3).reshape(whole.shape)
    shuffled[:, : tile * TILES, : tile * TILES] = back
    return shuffled


def _of_length_one(features: Features) -> Features:
    numpy, long = namespace_of(features), widest(features)
    return long / numpy.maximum(numpy.linalg.norm(long, axis=1, keepdims=True), 1e-12)
