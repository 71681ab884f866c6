"""Layers against XLA's own convolution and BatchNorm written out, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.model import layers

SHAPES = {
    "size": st.tuples(st.integers(5, 9), st.integers(5, 9)),
    "kernel": st.sampled_from([3, 5]),
    "stride": st.sampled_from([1, 2]),
    "padding": st.sampled_from(["symmetric", "same"]),
}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def value_and_gradients(function, x, kernel, seed=9):
    """The output, and the gradients of its product with fixed numbers."""

    @jax.jit  # one program: operation by operation, every shape would compile a hundred
    def compute(x, kernel):
        y, pullback = jax.vjp(function, x, kernel)
        return y, *pullback(normal(seed, *y.shape))

    return compute(x, kernel)


def reference_pads(size, kernel, stride, padding):
    if padding == "same":
        return "SAME"
    return [((kernel - 1) // 2,) * 2] * 2


@given(**SHAPES)
def test_depthwise_on_cpu_is_the_grouped_convolution_in_value_and_gradient(
    size, kernel, stride, padding
):
    x, weights = normal(0, 2, *size, 4), normal(1, kernel, kernel, 1, 4)

    def grouped(x, weights):
        return jax.lax.conv_general_dilated(
            x,
            weights,
            (stride, stride),
            reference_pads(size, kernel, stride, padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    expected = value_and_gradients(grouped, x, weights)
    for lowering in ("auto", "conv"):

        def ours(x, weights, lowering=lowering):
            return layers.depthwise_conv(
                x, weights, stride=stride, padding=padding, lowering=lowering
            )

        for a, b in zip(value_and_gradients(ours, x, weights), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lowering", ["auto", "conv"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_dilated_convolution_holds_the_strided_one(kernel, padding, lowering):
    rng = np.random.default_rng(0)
    taps = jnp.asarray(rng.standard_normal((kernel, kernel, 1, 4), np.float32))
    rules = {"padding": padding, "lowering": lowering}
    for rows, columns in ((14, 13), (13, 8)):
        x = jnp.asarray(rng.standard_normal((2, rows, columns, 4), np.float32))
        strided = layers.depthwise_conv(x, taps, stride=2, **rules)
        dense = layers.dilated_depthwise_conv(x, taps, stride=2, **rules)
        assert dense.shape[1:3] == tuple(2 * side - 1 for side in strided.shape[1:3])
        np.testing.assert_allclose(dense[:, ::2, ::2], strided, rtol=1e-5, atol=1e-5)
    x = jnp.asarray(rng.standard_normal((2, 13, 9, 4), np.float32))
    dilated = layers.dilated_depthwise_conv(x, taps, dilation=2, **rules)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        phase = layers.depthwise_conv(x[:, down::2, right::2], taps, **rules)
        np.testing.assert_allclose(dilated[:, down::2, right::2], phase, rtol=1e-5, atol=1e-5)


@given(st.tuples(st.integers(1, 4), st.integers(1, 4)), st.sampled_from(["auto", "conv"]))
def test_pointwise_is_a_matrix_product_over_channels(size, lowering):
    x, kernel = normal(0, 2, *size, 3), normal(1, 3, 5)
    y = layers.pointwise_conv(x, kernel, lowering=lowering)
    np.testing.assert_allclose(y, np.einsum("bhwc,cf->bhwf", x, kernel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["none", "relu", "hard_swish"])
def test_batch_norm_normalises_with_the_batchs_own_statistics(activation):
    x, scale, bias = 3 * normal(0, 4, 5, 6, 7) + 2, normal(1, 7), normal(2, 7)

    def reference(x, scale):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean) / jnp.sqrt(var + 1e-3) * scale + bias
        return {
            "none": lambda y: y,
            "relu": jax.nn.relu,
            "hard_swish": lambda y: y * jnp.clip(y + 3, 0, 6) / 6,
        }[activation](y)

    def ours(x, scale):
        return layers.batch_norm_train(x, scale, bias, epsilon=1e-3, activation=activation)[0]

    expected = value_and_gradients(reference, x, scale)
    for a, b in zip(value_and_gradients(ours, x, scale), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    _, mean, var = layers.batch_norm_train(x, scale, bias, epsilon=1e-3, activation=activation)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=1e-4)
    again = layers.batch_norm(x, scale, bias, mean, var, epsilon=1e-3, activation=activation)
    np.testing.assert_allclose(again, expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_its_type_and_float32_statistics(dtype):
    x = normal(0, 2, 8, 8, 4).astype(dtype)
    kernel = normal(1, 3, 3, 1, 4).astype(dtype)
    y = layers.depthwise_conv(x, kernel)
    assert y.dtype == x.dtype
    z, mean, var = layers.batch_norm_train(y, jnp.ones(4), jnp.zeros(4), epsilon=1e-3)
    assert z.dtype == x.dtype
    assert mean.dtype == var.dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("activation", ["none", "hard_swish"])
def test_gradients_in_half_precision_are_those_of_float32_to_its_rounding(dtype, activation):
    x, kernel = normal(0, 2, 8, 8, 4), normal(1, 3, 3, 1, 4)
    scale, bias = 1 + 0.1 * normal(2, 4), normal(3, 4)

    def unit(x, kernel):
        y = layers.depthwise_conv(x, kernel.astype(x.dtype), stride=2)
        out = layers.batch_norm_train(y, scale, bias, epsilon=1e-3, activation=activation)[0]
        return out.astype(jnp.float32)

    exact = value_and_gradients(unit, x, kernel)
    for half, full in zip(value_and_gradients(unit, x.astype(dtype), kernel), exact, strict=True):
        error = np.linalg.norm(np.float32(half) - full) / np.linalg.norm(full)
        assert error < 4 * float(jnp.finfo(dtype).eps)


def relative_error(actual, expected):
    return np.linalg.norm(np.float32(actual) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("trained", [False, True])
def test_batch_norm_in_half_precision_rounds_its_result_alone(dtype, trained):
    x = normal(0, 4, 8, 8, 16).astype(dtype)
    scale, bias = 1 + 0.3 * normal(2, 16), normal(3, 16)
    mean, var = 4 + normal(4, 16), 1 + jnp.abs(normal(5, 16))

    def apply(x):
        if trained:
            return layers.batch_norm_train(x + 4, scale, bias, epsilon=1e-3)[0]
        return layers.batch_norm(x + 4, scale, bias, mean, var, epsilon=1e-3)

    exact = apply(jnp.asarray(x + 4, jnp.float32) - 4)
    # Rounding to the nearest number of the type and nothing else.
    np.testing.assert_allclose(
        np.float32(apply(x)), exact, rtol=0.51 * float(jnp.finfo(dtype).eps), atol=1e-6
    )


@pytest.mark.parametrize("trained", [False, True])
def test_the_gradient_of_scale_keeps_its_digits_where_the_mean_is_large(trained):
    x, dy = 1000 + normal(0, 16, 32, 32, 4), 0.5 + normal(1, 16, 32, 32, 4)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))

    def apply(scale):
        if trained:
            return layers.batch_norm_train(x, scale, jnp.zeros(4), epsilon=0.0)[0]
        return layers.batch_norm(x, scale, jnp.zeros(4), mean, var, epsilon=0.0)

    (dscale,) = jax.vjp(apply, jnp.ones(4))[1](dy)
    centred = np.float64(x) - np.float64(mean)
    expected = (np.float64(dy) * centred).sum((0, 1, 2)) / np.sqrt(np.float64(var))
    np.testing.assert_allclose(
        dscale, expected, atol=0.05
    )  # the sums of which it is the difference are 8e6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_pooling_in_half_precision_sums_in_float32(dtype):
    x = (3 + normal(0, 2, 56, 56, 8)).astype(dtype)
    exact = np.float32(x).mean((1, 2), keepdims=True)
    pooled = layers.global_average_pool(x)
    assert pooled.dtype == x.dtype
    np.testing.assert_allclose(np.float32(pooled), exact, rtol=0.51 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("rate", [0, 0.0])
def test_dropout_at_rate_0_of_either_kind_keeps_all(rate):
    x = jnp.arange(1.0, 5.0)
    np.testing.assert_array_equal(layers.dropout(jax.random.key(0), x, rate), x)
