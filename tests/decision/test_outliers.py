import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA

from oct_jax.decision.outliers import (
    DIRECTIONS,
    fit_outliers,
    outlier_threshold,
    squared_distance,
)


def features_of(seed, scans=300, channels=48):
    rng = np.random.default_rng(seed)
    scale = np.linspace(3, 0.2, channels)
    return (rng.normal(size=(scans, channels)) * scale + 1).astype(np.float32)


def test_the_distance_is_the_mahalanobis_distance_of_the_fitted_gaussian():
    features = features_of(0)
    model = fit_outliers(features)
    pca = PCA(n_components=DIRECTIONS).fit(features.astype(np.float64))
    gaussian = EmpiricalCovariance(store_precision=True)
    gaussian.location_, gaussian.precision_ = pca.mean_, pca.get_precision()
    expected = gaussian.mahalanobis(features.astype(np.float64))
    np.testing.assert_allclose(squared_distance(model, features), expected, rtol=1e-3)


@given(st.integers(0, 50))
def test_distances_are_least_at_the_mean_and_grow_with_the_square(seed):
    model = fit_outliers(features_of(seed, 60, 20))
    away = np.random.default_rng(seed).normal(size=(1, 20))
    at = [squared_distance(model, model.mean + step * away)[0] for step in (0, 1, 2)]
    assert at[0] == 0
    np.testing.assert_allclose(at[2], 4 * at[1], rtol=1e-3)


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
