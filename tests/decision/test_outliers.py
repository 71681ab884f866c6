import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA

from oct_jax.decision.outliers import (
    DIRECTIONS,
    TILES,
    fit_outliers,
    no_retina_threshold,
    outlier_threshold,
    shuffle_tiles,
    squared_distance,
)


def features_of(seed, scans=300, channels=48):
    rng = np.random.default_rng(seed)
    scale = np.linspace(3, 0.2, channels)
    return (rng.normal(size=(scans, channels)) * scale + 1).astype(np.float32)


def of_length_one(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_the_distance_is_the_mahalanobis_distance_of_the_fitted_gaussian():
    features = features_of(0)
    unit = of_length_one(features.astype(np.float64))
    pca = PCA(n_components=DIRECTIONS).fit(unit)
    gaussian = EmpiricalCovariance(store_precision=True)
    gaussian.location_, gaussian.precision_ = pca.mean_, pca.get_precision()
    distances = squared_distance(fit_outliers(features), features)
    np.testing.assert_allclose(distances, gaussian.mahalanobis(unit), rtol=1e-3)


@given(st.integers(0, 50), st.floats(0.01, 100))
def test_the_length_of_the_features_does_not_matter(seed, factor):
    features = features_of(seed, 60, 20)
    model = fit_outliers(features)
    scaled = squared_distance(model, (factor * features).astype(np.float32))
    np.testing.assert_allclose(scaled, squared_distance(model, features), rtol=1e-3)


def test_the_same_features_give_the_same_bits():
    features = features_of(1, 600, 520)  # where scikit-learn would draw random numbers
    one, other = fit_outliers(features), fit_outliers(features)
    np.testing.assert_array_equal(one.directions, other.directions)
    np.testing.assert_array_equal(one.precisions, other.precisions)


def test_other_directions_are_further_away():
    rng = np.random.default_rng(0)
    usual = np.abs(rng.normal(size=(200, 30)))
    usual[:, 15:] *= 0.05  # half of the features stay silent on usual scans
    model = fit_outliers(usual)
    strange = usual[:, ::-1]
    assert squared_distance(model, strange).min() > squared_distance(model, usual).max()


def test_features_that_never_vary_are_no_trouble():
    features = np.zeros((20, 30), np.float32)
    features[:, 0] = np.arange(20)
    distances = squared_distance(fit_outliers(features), features)
    assert np.isfinite(distances).all()


@given(st.integers(1, 400), st.sampled_from([0.01, 0.05, 0.2]))
def test_no_more_held_out_scans_than_the_rate_are_above_the_threshold(scans, rate):
    distances = np.random.default_rng(scans).uniform(size=scans)
    threshold = outlier_threshold(distances, rate)
    assert threshold in distances
    assert (distances > threshold).mean() <= rate


@given(st.integers(1, 5), st.integers(14, 40), st.integers(0, 9))
def test_shuffling_tiles_moves_pixels_and_makes_none(scans, size, seed):
    rng = np.random.default_rng(seed)
    batch = rng.integers(0, 256, (scans, size, size)).astype(np.uint8)
    before = batch.copy()
    shuffled = shuffle_tiles(batch, rng)
    np.testing.assert_array_equal(batch, before)
    for scan, mixed in zip(batch, shuffled, strict=True):
        np.testing.assert_array_equal(np.sort(scan, axis=None), np.sort(mixed, axis=None))
    tile = size // TILES
    corners = {scan[:tile, :tile].tobytes() for scan in shuffled}
    tiles = {
        scan[r : r + tile, c : c + tile].tobytes()
        for scan in batch
        for r in range(0, tile * TILES, tile)
        for c in range(0, tile * TILES, tile)
    }
    assert corners <= tiles


@given(st.floats(0.1, 1e4), st.floats(0.1, 1e4))
def test_what_shows_no_retina_lies_between_unusual_scans_and_shuffled_ones(threshold, shuffled):
    between = no_retina_threshold(threshold, np.full(20, shuffled))
    assert threshold <= between <= max(threshold, shuffled) * (1 + 1e-9)
