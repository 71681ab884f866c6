"""BatchNorm with its activation, as one operation with a gradient of its own."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from oct_jax.arrays import Images
from oct_jax.model.layers.activation import Activation, activate, slope


def batch_norm(
    x: Images,
    scale: Float[Array, "channels"],
    bias: Float[Array, "channels"],
    mean: Float[Array, "channels"],
    var: Float[Array, "channels"],
    *,
    epsilon: float,
    activation: Activation = "none",
) -> Images:
    """Normalises with given (running) statistics, then activates.

    Ioffe & Szegedy 2015, algorithm 2. The four vectors are float32 and so is the arithmetic; only
    the result is rounded to the dtype of `x`. In bfloat16 a rounded multiplier would train channel
    scales that are off by up to 1 part in 256 from those that evaluation runs. `mean` and `var`
    are constants: they have no gradient.
    """
    return _batch_norm(x, scale, bias, mean, var, epsilon, activation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _batch_norm(x, scale, bias, mean, var, epsilon, activation):
    affine = _affine(x, scale * lax.rsqrt(var + epsilon), bias, mean)
    return activate(affine, activation).astype(x.dtype)


def _affine(x, multiplier, bias, mean):
    """(x - mean) * multiplier + bias in float32, as one multiplication and one addition."""
    return x.astype(jnp.float32) * multiplier + (bias - mean * multiplier)


def _batch_norm_forward(x, scale, bias, mean, var, epsilon, activation):
    y = _batch_norm(x, scale, bias, mean, var, epsilon, activation)
    return y, (x, scale, bias, mean, var)


def _batch_norm_backward(epsilon, activation, residuals, dy):
    dz, dscale, dbias = _affine_gradients(epsilon, activation, residuals, dy)
    x, scale, _, mean, var = residuals
    dx = dz * (scale * lax.rsqrt(var + epsilon))
    return dx.astype(x.dtype), dscale, dbias, jnp.zeros_like(mean), jnp.zeros_like(var)


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _affine_gradients(epsilon, activation, residuals, dy):
    """Gradients of the activation's argument, of scale and of bias, with the statistics constant.

    Of the arrays as large as the batch only the convolution's output x is kept; the argument of
    the activation is computed again, where autodiff keeps it too. The gradient of scale is a sum
    over x - mean: a sum over x less the mean times another, which is the same on paper, loses its
    digits where a channel's mean is large against its deviation.
    """
    x, scale, bias, mean, var = residuals
    inverse = lax.rsqrt(var + epsilon)
    dz = dy.astype(jnp.float32) * slope(_affine(x, scale * inverse, bias, mean), activation)
    # Not x - mean, which the forward pass has too: the compiler would keep it, as large as x.
    centred = x.astype(jnp.float32) + -mean
    dscale = jnp.sum(dz * centred, (0, 1, 2)) * inverse
    return dz, dscale, jnp.sum(dz, (0, 1, 2))


def batch_norm_train(
    x: Images,
    scale: Float[Array, "channels"],
    bias: Float[Array, "channels"],
    *,
    epsilon: float,
    activation: Activation = "none",
) -> tuple[Images, Float[Array, "channels"], Float[Array, "channels"]]:
    """Normalises with the statistics of the batch itself, then activates.

    Ioffe & Szegedy 2015, algorithm 1, in float32 as `batch_norm`.

    Returns:
      The activated batch in the dtype of `x`, and the float32 mean and *biased* variance (divided
      by the number of pixels n) that normalised it. TensorFlow and Flax put that variance into
      the running statistics and so does `ConvNorm`; PyTorch puts n / (n - 1) times it there,
      which differs by 1/1568 in the smallest layer of a batch of 32.
    """
    y, mean, var = _batch_norm_train(x, scale, bias, epsilon, activation)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _batch_norm_train(x, scale, bias, epsilon, activation):
    mean = jnp.mean(x, (0, 1, 2), dtype=jnp.float32)
    var = jnp.mean(jnp.square(x.astype(jnp.float32) - mean), (0, 1, 2))
    y = batch_norm(x, scale, bias, mean, var, epsilon=epsilon, activation=activation)
    return y, mean, var


def _batch_norm_train_forward(x, scale, bias, epsilon, activation):
    y, mean, var = _batch_norm_train(x, scale, bias, epsilon, activation)
    return (y, mean, var), (x, scale, bias, mean, var)


def _batch_norm_train_backward(epsilon, activation, residuals, cotangents):
    """Ioffe & Szegedy 2015, section 3, gathered into two sums and one pass over the pixels."""
    x, scale, _, mean, var = residuals
    dy, _, _ = cotangents  # the statistics themselves are stopped
    dz, dscale, dbias = _affine_gradients(epsilon, activation, residuals, dy)
    # multiplier * (dz - dbias / n - normalised x * dscale / n), as one affine form in dz and x
    inverse, count = lax.rsqrt(var + epsilon), x.size // x.shape[-1]
    multiplier = scale * inverse
    correction = -multiplier * inverse * dscale / count
    dx = dz * multiplier + _affine(x, correction, -multiplier * dbias / count, mean)
    return dx.astype(x.dtype), dscale, dbias


_batch_norm_train.defvjp(_batch_norm_train_forward, _batch_norm_train_backward)
