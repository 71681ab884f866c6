"""The units that networks are made of, with their parameters."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from oct_jax.arrays import Images
from oct_jax.model.layers.activation import Activation, activate
from oct_jax.model.layers.convolution import (
    Lowering,
    conv,
    depthwise_conv,
    dilated_depthwise_conv,
    pointwise_conv,
)
from oct_jax.model.layers.normalisation import batch_norm, batch_norm_train
from oct_jax.types import Padding


class ConvNorm(nnx.Module):
    """Convolution -> BatchNorm -> activation; or, folded, convolution + bias -> activation.

    Attributes:
      kernel: (in, out) for a 1x1 convolution, (k, k, 1, out) for a depthwise one, else
        (k, k, in, out).
      scale, mean, var: (out,), of BatchNorm; absent when folded.
      bias: (out,), BatchNorm's shift, or the convolution's bias when folded.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        activation: Activation = "none",
        padding: Padding = "symmetric",
        epsilon: float = 1e-3,
        momentum: float = 0.99,
        folded: bool = False,
        dtype: jax.typing.DTypeLike = jnp.float32,
        lowering: Lowering = "auto",
    ):
        shape = (kernel, kernel, 1 if depthwise else in_features, out_features)
        if kernel == 1 and not depthwise:
            shape = shape[2:]
        self.kernel = nnx.Param(jnp.zeros(shape))
        self.bias = nnx.Param(jnp.zeros(out_features))
        if not folded:
            self.scale = nnx.Param(jnp.ones(out_features))
            self.mean = nnx.BatchStat(jnp.zeros(out_features))
            self.var = nnx.BatchStat(jnp.ones(out_features))
        self.stride = stride
        self.depthwise = depthwise
        self.activation = activation
        self.padding = padding
        self.epsilon = epsilon
        self.momentum = momentum
        self.folded = folded
        self.dtype = dtype
        self.lowering = lowering

    def __call__(self, x: Images, *, train: bool, dilation: int | None = None) -> Images:
        """Applies the unit.

        `train=True` normalises with the batch's statistics and moves the running ones towards
        them by 1 - momentum; `train=False` uses the running ones. Folded, the two are the same.
        With `dilation`, a depthwise convolution leaves its stride out: `dilated_depthwise_conv`.
        """
        y = self._convolve(x.astype(self.dtype), dilation)
        if self.folded:
            return activate(y + self.bias[...].astype(self.dtype), self.activation)
        affine = self.scale[...], self.bias[...]
        rules = {"epsilon": self.epsilon, "activation": self.activation}
        if not train:
            return batch_norm(y, *affine, self.mean[...], self.var[...], **rules)
        y, mean, var = batch_norm_train(y, *affine, **rules)
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * var
        return y

    def _convolve(self, x, dilation):
        kernel = self.kernel[...].astype(self.dtype)
        if kernel.ndim == 2:
            return pointwise_conv(x, kernel, lowering=self.lowering)
        if self.depthwise:
            rules = {"stride": self.stride, "padding": self.padding, "lowering": self.lowering}
            if dilation is not None:
                return dilated_depthwise_conv(x, kernel, dilation=dilation, **rules)
            return depthwise_conv(x, kernel, **rules)
        return conv(x, kernel, stride=self.stride, padding=self.padding)


class Pointwise(nnx.Module):
    """1x1 convolution with a bias.

    Attributes:
      kernel: (in, out).
      bias: (out,).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dtype: jax.typing.DTypeLike = jnp.float32,
        lowering: Lowering = "auto",
    ):
        shape = (in_features, out_features)
        self.kernel = nnx.Param(jnp.zeros(shape))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.dtype = dtype
        self.lowering = lowering

    def __call__(self, x: Images) -> Images:
        """Maps (batch, height, width, in) to (batch, height, width, out)."""
        kernel = self.kernel[...].astype(self.dtype)
        y = pointwise_conv(x.astype(self.dtype), kernel, lowering=self.lowering)
        return y + self.bias[...].astype(self.dtype)


def global_average_pool(x: Images) -> Images:
    """Averages over rows and columns, kept as axes of length 1.

    Summed in float32, and rounded to the dtype of `x`: a sum of thousands of pixels in bfloat16
    stops growing. A window over the whole image rather than `x.mean`: the ONNX exporter knows the
    first as GlobalAveragePool and turns the second into arithmetic on shapes.
    """
    wide = x.astype(jnp.float32)
    return nnx.avg_pool(wide, window_shape=x.shape[1:3]).astype(x.dtype)


class SqueezeExcite(nnx.Module):
    """Scales every channel by a gate computed from all channels' averages.

    Hu et al. 2018, with the hard sigmoid relu6(x + 3) / 6 of Howard et al. 2019, section 5.3.
    """

    def __init__(
        self,
        features: int,
        squeezed: int,
        *,
        dtype: jax.typing.DTypeLike = jnp.float32,
        lowering: Lowering = "auto",
    ):
        self.reduce = Pointwise(features, squeezed, dtype=dtype, lowering=lowering)
        self.expand = Pointwise(squeezed, features, dtype=dtype, lowering=lowering)

    def __call__(self, x: Images, *, step: int = 1) -> Images:
        """Returns `x` with each channel gated by averages over every `step`-th row and column."""
        gate = jax.nn.relu(self.reduce(global_average_pool(x[:, ::step, ::step])))
        return x * jax.nn.hard_sigmoid(self.expand(gate))


def dropout(key: PRNGKeyArray, x: Float[Array, "..."], rate: float) -> Float[Array, "..."]:
    """Zeroes each value with probability `rate`, the rest divided by 1 - rate."""
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)
