"""Convolutions of NHWC images, and a depthwise one that is fast on a CPU in both directions."""

import functools
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from oct_jax.arrays import Images
from oct_jax.types import Padding

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


def dilated_depthwise_conv(
    x: Images,
    kernel: Float[Array, "rows columns 1 channels"],
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: Padding = "symmetric",
    lowering: Lowering = "auto",
) -> Images:
    """`depthwise_conv` at all positions between its own: what it gives without its stride.

    With `stride` n, every n-th row and column of the result are those of `depthwise_conv`, to the
    bit on one platform. `dilation` does the same for what follows: with it, every `dilation`-th
    row and column of `x` give every `dilation`-th of the result.

    Args:
      x: NHWC images.
      kernel: one (rows, columns) stencil for each channel.
      stride: that is left out.
      dilation: rows and columns between neighbouring taps, the product of the strides left out
        before.
      padding: see `pad_amounts`.
      lowering: as for `depthwise_conv`.
    """
    pads = [
        _dilated_padding(side, taps, stride, dilation, padding)
        for side, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    ]
    grouped = functools.partial(_grouped_conv, stride=1, pads=pads, dilation=dilation)
    if lowering == "conv":
        return grouped(x, kernel)
    shifted = functools.partial(_dilated_shifts, pads=pads, dilation=dilation)
    return lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


def _dilated_padding(
    side: int, taps: int, stride: int, dilation: int, padding: Padding
) -> tuple[int, int]:
    """Zeros for results from the first to the last position of the strided convolution."""
    size = -(-side // dilation)
    before, after = pad_amounts(size, taps, stride, padding)
    last = (size + before + after - taps) // stride * stride
    return before * dilation, (last + taps - before) * dilation - dilation + 1 - side


def _dilated_shifts(x, kernel, pads, dilation):
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = kernel.shape[:2]
    height = x.shape[1] - (rows - 1) * dilation
    width = x.shape[2] - (columns - 1) * dilation
    return sum(
        lax.slice_in_dim(
            lax.slice_in_dim(x, down, down + height, axis=1), right, right + width, axis=2
        )
        * kernel[i, j, 0]
        for i, down in enumerate(range(0, rows * dilation, dilation))
        for j, right in enumerate(range(0, columns * dilation, dilation))
    )


def _grouped_conv(x, kernel, stride, pads, dilation=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
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
