"""Convolution, BatchNorm and activation: the unit that MobileNetV3 is made of.

Arrays are channels last (NHWC). Parameters and BatchNorm statistics are float32; `dtype` is
what the arithmetic on activations runs in.
"""

import functools
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from oct_jax.arrays import Images
from oct_jax.types import Padding

Activation: TypeAlias = Literal["none", "relu", "hard_swish"]
Lowering: TypeAlias = Literal["auto", "conv"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def pad_amounts(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Zeros before and after an axis of `size` pixels.

    `"symmetric"` is PyTorch's (k - 1) // 2 on both sides. `"same"` is TensorFlow's: just enough
    for an output of ceil(size / stride), the odd zero behind, so an even image at stride 2 is
    sampled half a pixel away from where `"symmetric"` samples it.
    """
    if padding == "symmetric":
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _image_padding(
    x: Array, kernel: Array, stride: int, padding: Padding
) -> tuple[tuple[int, int], tuple[int, int]]:
    rows = pad_amounts(x.shape[1], kernel.shape[0], stride, padding)
    columns = pad_amounts(x.shape[2], kernel.shape[1], stride, padding)
    return rows, columns


def conv(
    x: Images,
    kernel: Float[Array, "rows columns channels features"],
    *,
    stride: int = 1,
    padding: Padding = "symmetric",
) -> Images:
    """Convolves NHWC images with an HWIO kernel."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        _image_padding(x, kernel, stride, padding),
        dimension_numbers=_DIMENSIONS,
    )


def pointwise_conv(
    x: Images, kernel: Float[Array, "channels features"], *, lowering: Lowering = "auto"
) -> Images:
    """Applies a 1x1 convolution, given as a matrix.

    `"auto"` is a matrix product over the flattened pixels; `"conv"` is a convolution, which is
    what an ONNX graph should hold.
    """
    if lowering == "conv":
        return conv(x, kernel[None, None])
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def depthwise_conv(
    x: Images,
    kernel: Float[Array, "rows columns 1 channels"],
    *,
    stride: int = 1,
    padding: Padding = "symmetric",
    lowering: Lowering = "auto",
) -> Images:
    """Convolves every channel with its own kernel.

    Args:
      x: NHWC images.
      kernel: one (rows, columns) stencil for each channel.
      stride: of the output grid, both ways.
      padding: see `pad_amounts`.
      lowering: `"auto"` chooses when the computation is lowered: shifted products on a CPU,
        grouped convolution elsewhere. `"conv"` is the grouped convolution everywhere.
    """
    pads = _image_padding(x, kernel, stride, padding)
    if lowering == "conv":
        return _grouped_conv(x, kernel, stride, pads)
    return _depthwise_conv(x, kernel, stride, pads)


def _grouped_conv(x, kernel, stride, pads):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=_DIMENSIONS,
        feature_group_count=x.shape[-1],
    )


def _shifted(x, kernel_shape, stride, pads):
    """Yields, for each tap of the kernel, the pixels that it multiplies."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = kernel_shape[:2]
    height = (x.shape[1] - rows) // stride + 1
    width = (x.shape[2] - columns) // stride + 1
    for i in range(rows):
        for j in range(columns):
            yield (
                x[:, i : i + stride * (height - 1) + 1 : stride][
                    :, :, j : j + stride * (width - 1) + 1 : stride
                ]
            )


def _shifted_conv(x, kernel, stride, pads):
    taps = kernel.reshape(-1, kernel.shape[-1])
    shifts = _shifted(x, kernel.shape, stride, pads)
    return sum(shift * tap for shift, tap in zip(shifts, taps, strict=True))


def _shifted_conv_transpose(residuals, dy, stride, pads):
    x, kernel = residuals
    dx = _input_gradient(dy, kernel, stride, pads, x.shape)
    return dx, _kernel_gradient(x, dy, kernel.shape, stride, pads).astype(kernel.dtype)


def _input_gradient(dy, kernel, stride, pads, shape):
    """The transposed convolution: one sum of shifted products for each phase of the stride.

    Row h of the input met tap i at output row (h + top - i) / stride. Rows of one phase, h modulo
    stride, meet the taps for which that is whole, each at a shift of its own; columns likewise.
    Autodiff of the shifts adds up k*k padded arrays instead: with it, and with the kernel's
    gradient summed over columns in every step, MobileNetV3's training step took 1.25 to 1.3 times
    the CPU time (batch 32, 224x224, float32) and 1.5 times as long to compile.
    """
    (top, _), (left, _) = pads
    rows, columns = -(-shape[1] // stride), -(-shape[2] // stride)
    # Zeros where the shifts reach beyond the output, and no more: they are read like all else.
    above = -((top - kernel.shape[0] + 1) // stride)
    before = -((left - kernel.shape[1] + 1) // stride)
    below = max((stride - 1 + top) // stride + rows - dy.shape[1], 0)
    behind = max((stride - 1 + left) // stride + columns - dy.shape[2], 0)
    dy = jnp.pad(dy, ((0, 0), (above, below), (before, behind), (0, 0)))

    def phase(p, q):
        total = 0
        for i in range((p + top) % stride, kernel.shape[0], stride):
            for j in range((q + left) % stride, kernel.shape[1], stride):
                row = above + (p + top - i) // stride
                column = before + (q + left - j) // stride
                total += dy[:, row : row + rows, column : column + columns] * kernel[i, j, 0]
        return total

    phases = [jnp.stack([phase(p, q) for q in range(stride)], 3) for p in range(stride)]
    dx = jnp.stack(phases, 2).reshape(shape[0], rows * stride, columns * stride, shape[3])
    return dx[:, : shape[1], : shape[2]]


def _kernel_gradient(x, dy, shape, stride, pads):
    """Correlates x with dy row by row, so that what is added up stays in the cache.

    The sums are kept for each column of the output, (kernel rows, width, channels) for each column
    of the kernel, until the end: adding rows is a plain vector addition, a sum over columns in
    every step is not.
    """
    rows, columns = shape[:2]
    images, height, width, channels = dy.shape
    # The forward pass padded the same array in the same way: the compiler keeps that one for here.
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))

    def add_row(sums, step):
        image, h = step // height, step % height
        window = lax.dynamic_slice(x, (image, h * stride, 0, 0), (1, rows, *x.shape[2:]))[0]
        row = lax.dynamic_slice(dy, (image, h, 0, 0), (1, 1, width, channels))[0, 0]
        taps = [window[:, j : j + stride * (width - 1) + 1 : stride] * row for j in range(columns)]
        return [a + b for a, b in zip(sums, taps, strict=True)], None

    sums = [jnp.zeros((rows, width, channels), jnp.float32)] * columns
    sums, _ = lax.scan(add_row, sums, jnp.arange(images * height), unroll=4)
    return jnp.stack([jnp.sum(a, 1) for a in sums], 1).reshape(shape)


def _grouped_conv_transpose(residuals, dy, stride, pads):
    _, vjp = jax.vjp(lambda x, kernel: _grouped_conv(x, kernel, stride, pads), *residuals)
    return vjp(dy)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise_conv(x, kernel, stride, pads):
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_shifted_conv, stride=stride, pads=pads),
        default=functools.partial(_grouped_conv, stride=stride, pads=pads),
    )


def _depthwise_conv_forward(x, kernel, stride, pads):
    return _depthwise_conv(x, kernel, stride, pads), (x, kernel)


def _depthwise_conv_backward(stride, pads, residuals, dy):
    return lax.platform_dependent(
        residuals,
        dy,
        cpu=functools.partial(_shifted_conv_transpose, stride=stride, pads=pads),
        default=functools.partial(_grouped_conv_transpose, stride=stride, pads=pads),
    )


_depthwise_conv.defvjp(_depthwise_conv_forward, _depthwise_conv_backward)


def hard_swish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * relu6(x + 3) / 6 (Howard et al. 2019, section 5.2)."""
    # Looked up at call time: the ONNX exporter replaces this name with its HardSwish node.
    return jax.nn.hard_swish(x)


def activate(x: Float[Array, "..."], activation: Activation) -> Float[Array, "..."]:
    """Applies the named activation."""
    if activation == "relu":
        return jax.nn.relu(x)
    if activation == "hard_swish":
        return hard_swish(x)
    return x


def dropout(key: PRNGKeyArray, x: Float[Array, "..."], rate: float) -> Float[Array, "..."]:
    """Zeroes each value with probability `rate`, the rest divided by 1 - rate."""
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


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
    dz = dy.astype(jnp.float32) * _slope(_affine(x, scale * inverse, bias, mean), activation)
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
    slope = -multiplier * inverse * dscale / count
    dx = dz * multiplier + _affine(x, slope, -multiplier * dbias / count, mean)
    return dx.astype(x.dtype), dscale, dbias


_batch_norm_train.defvjp(_batch_norm_train_forward, _batch_norm_train_backward)


def _slope(z, activation):
    """The derivative of an activation."""
    if activation == "relu":
        return (z > 0).astype(z.dtype)
    if activation == "hard_swish":
        return jnp.where(z <= -3, 0, jnp.where(z >= 3, 1, (2 * z + 3) / 6)).astype(z.dtype)
    return jnp.ones_like(z)


_kaiming_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


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
        rngs: nnx.Rngs,
    ):
        shape = (kernel, kernel, 1 if depthwise else in_features, out_features)
        if kernel == 1 and not depthwise:
            shape = shape[2:]
        self.kernel = nnx.Param(_kaiming_fan_out(rngs.params(), shape, jnp.float32))
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

    def __call__(self, x: Images, *, train: bool) -> Images:
        """Applies the unit.

        `train=True` normalises with the batch's statistics and moves the running ones towards
        them by 1 - momentum; `train=False` uses the running ones. Folded, the two are the same.
        """
        x = x.astype(self.dtype)
        if self.folded:
            return activate(self._convolve(x) + self.bias[...].astype(self.dtype), self.activation)
        affine = self.scale[...], self.bias[...]
        rules = {"epsilon": self.epsilon, "activation": self.activation}
        if not train:
            return batch_norm(self._convolve(x), *affine, self.mean[...], self.var[...], **rules)
        y, mean, var = batch_norm_train(self._convolve(x), *affine, **rules)
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * var
        return y

    def _convolve(self, x):
        kernel = self.kernel[...].astype(self.dtype)
        if kernel.ndim == 2:
            return pointwise_conv(x, kernel, lowering=self.lowering)
        if self.depthwise:
            return depthwise_conv(
                x, kernel, stride=self.stride, padding=self.padding, lowering=self.lowering
            )
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
        rngs: nnx.Rngs,
    ):
        shape = (in_features, out_features)
        self.kernel = nnx.Param(_kaiming_fan_out(rngs.params(), shape, jnp.float32))
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
        rngs: nnx.Rngs,
    ):
        self.reduce = Pointwise(features, squeezed, dtype=dtype, lowering=lowering, rngs=rngs)
        self.expand = Pointwise(squeezed, features, dtype=dtype, lowering=lowering, rngs=rngs)

    def __call__(self, x: Images) -> Images:
        """Returns `x` with each channel gated; the shape is kept."""
        gate = jax.nn.relu(self.reduce(global_average_pool(x)))
        return x * jax.nn.hard_sigmoid(self.expand(gate))
