"""Convolution, BatchNorm and activation: the unit that MobileNetV3 is made of.

Arrays are channels last (NHWC). Parameters and BatchNorm statistics are float32; `dtype` is
what the arithmetic on activations runs in.
"""

from oct_jax.model.layers.activation import Activation, activate, hard_swish
from oct_jax.model.layers.convolution import (
    Lowering,
    conv,
    depthwise_conv,
    dilated_depthwise_conv,
    pad_amounts,
    pointwise_conv,
)
from oct_jax.model.layers.modules import (
    ConvNorm,
    Pointwise,
    SqueezeExcite,
    dropout,
    global_average_pool,
)
from oct_jax.model.layers.normalisation import batch_norm, batch_norm_train

__all__ = [
    "Activation",
    "ConvNorm",
    "Lowering",
    "Pointwise",
    "SqueezeExcite",
    "activate",
    "batch_norm",
    "batch_norm_train",
    "conv",
    "depthwise_conv",
    "dilated_depthwise_conv",
    "dropout",
    "global_average_pool",
    "hard_swish",
    "pad_amounts",
    "pointwise_conv",
]
