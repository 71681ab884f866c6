"""MobileNetV3-Large (Howard et al. 2019, table 1) and its minimalistic variant.

The network is a `backbone`, images to feature map, and a `head`, feature map to logits, so that
each can be trained, explained or exported without the other.
"""

import dataclasses
import itertools
import operator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray
from msgspec import Meta

from oct_jax.arrays import FeatureMap, Images, Logits
from oct_jax.files import Positive, Rate, Share
from oct_jax.model.fold import fold_batch_norm
from oct_jax.model.layers import (
    Activation,
    ConvNorm,
    Lowering,
    SqueezeExcite,
    activate,
    dropout,
    global_average_pool,
)
from oct_jax.model.protocol import Model, Tree, Variables, initial, path_name
from oct_jax.types import Padding

Variant: TypeAlias = Literal["large", "large_minimalistic"]


class Block(NamedTuple):
    """One row of the paper's table: an inverted residual."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    activation: Activation
    stride: int


# fmt: off
LARGE = (
    #     kernel expanded out squeeze activation    stride
    Block(3,     16,      16,  False, "relu",       1),
    Block(3,     64,      24,  False, "relu",       2),
    Block(3,     72,      24,  False, "relu",       1),
    Block(5,     72,      40,  True,  "relu",       2),
    Block(5,     120,     40,  True,  "relu",       1),
    Block(5,     120,     40,  True,  "relu",       1),
    Block(3,     240,     80,  False, "hard_swish", 2),
    Block(3,     200,     80,  False, "hard_swish", 1),
    Block(3,     184,     80,  False, "hard_swish", 1),
    Block(3,     184,     80,  False, "hard_swish", 1),
    Block(3,     480,     112, True,  "hard_swish", 1),
    Block(3,     672,     112, True,  "hard_swish", 1),
    Block(5,     672,     160, True,  "hard_swish", 2),
    Block(5,     960,     160, True,  "hard_swish", 1),
    Block(5,     960,     160, True,  "hard_swish", 1),
)
# fmt: on
STEM = 16
HIDDEN = 1280
STRIDE = 32
"""Pixels of the image for one position of the feature map."""


@dataclass(frozen=True)
class MobileNetV3Config:
    """What the network computes; hashable, and JSON through `dataclasses.asdict`.

    Attributes:
      variant: `"large_minimalistic"` has 3x3 kernels and ReLU throughout and no squeeze-excite.
      width: multiplier of every channel count; see `channels_of`.
      padding: of strided convolutions, as the weights were trained; see `layers.pad_amounts`.
      bn_epsilon: added to BatchNorm's variances, as the weights were trained.
      bn_momentum: share of the old running statistics that one training step keeps.
      num_classes: length of the logits.
      channels: of the input images.
      dropout: rate before the classifier, in training.
      dtype: of the backbone's arithmetic; parameters, statistics and the head stay float32.
      folded: BatchNorm is folded into the convolutions (see `oct_jax.model.fold`).
      lowering: `"conv"` writes every convolution as one, for ONNX; see `layers`.
      remat: `"blocks"` recomputes the first inverted residuals, whose maps are the largest, in the
        backward pass rather than keep their activations.
    """

    variant: Variant = "large"
    width: Annotated[float, Meta(gt=0, le=16)] = 1.0
    padding: Padding = "symmetric"
    bn_epsilon: Positive = 1e-3
    bn_momentum: Share = 0.99
    num_classes: Annotated[int, Meta(ge=1, le=10_000)] = 4
    channels: Annotated[int, Meta(ge=1, le=1_000)] = 3
    dropout: Rate = 0.2
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    folded: bool = False
    lowering: Lowering = "auto"
    remat: Literal["none", "blocks"] = "none"

    def build(self) -> Model:
        """The model; traces the module."""
        module = nnx.eval_shape(lambda: MobileNetV3(self))
        backbone, params, stats = nnx.split(module.backbone, nnx.Param, nnx.BatchStat)
        head, head_params = nnx.split(module.head, nnx.Param)
        shapes = Variables(
            {"backbone": _arrays(params), "head": _arrays(head_params)},
            {"backbone": _arrays(stats)},
        )
        return NNXModel(self, shapes, backbone, head)

    def fold(self, variables: Variables) -> "tuple[Variables, MobileNetV3Config]":
        """The same function of `variables` without BatchNorm; `stats` is left without a leaf."""
        if self.folded:
            return variables, self
        params = variables.params | {
            "backbone": fold_batch_norm(
                variables.params["backbone"], variables.stats["backbone"], self.bn_epsilon
            )
        }
        return Variables(params, {"backbone": {}}), dataclasses.replace(self, folded=True)


def make_divisible(value: int | float, divisor: int = 8) -> int:
    """Rounds to a multiple of `divisor` that is not more than 10 % below `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor


def channels_of(channels: int, config: MobileNetV3Config) -> int:
    """Channel count at the configured width, by torchvision's rule.

    Every count of the table, the stem's and the hidden layer's are multiplied and made divisible
    by 8; the last feature map has six times the channels of the last block. timm and Keras
    differ from it below or above width 1 (they keep the stem and the hidden layer); all three
    agree at width 1, which every published weight file here has.
    """
    return make_divisible(channels * config.width)


def blocks_of(config: MobileNetV3Config) -> tuple[Block, ...]:
    """The table of the configured variant and width."""
    blocks = LARGE
    if config.variant == "large_minimalistic":
        blocks = [b._replace(kernel=3, squeeze=False, activation="relu") for b in blocks]
    return tuple(
        b._replace(expanded=channels_of(b.expanded, config), out=channels_of(b.out, config))
        for b in blocks
    )


def feature_channels(config: MobileNetV3Config) -> int:
    """Channels of the last feature map: 960 at width 1."""
    return 6 * blocks_of(config)[-1].out


def last_activation(config: MobileNetV3Config) -> Activation:
    """The activation of stem, last convolution and head."""
    return "hard_swish" if config.variant == "large" else "relu"


def _conv_norm(config: MobileNetV3Config, in_features, out_features, **kwargs):
    return ConvNorm(
        in_features,
        out_features,
        padding=config.padding,
        epsilon=config.bn_epsilon,
        momentum=config.bn_momentum,
        folded=config.folded,
        dtype=jnp.dtype(config.dtype),
        lowering=config.lowering,
        **kwargs,
    )


class InvertedResidual(nnx.Module):
    """Expand, depthwise, squeeze-excite, project; plus the input where shapes allow.

    Sandler et al. 2018, section 3.3; squeeze-excite as in Howard et al. 2019, section 5.3, with
    a quarter of the expanded channels. A block that does not widen has no `expand`.
    """

    def __init__(self, in_features: int, block: Block, config: MobileNetV3Config):
        kernel, expanded, out, squeeze, activation, stride = block
        dtype = jnp.dtype(config.dtype)
        self.expand = nnx.data(None)
        if expanded != in_features:
            self.expand = _conv_norm(config, in_features, expanded, activation=activation)
        self.depthwise = _conv_norm(
            config,
            expanded,
            expanded,
            kernel=kernel,
            stride=stride,
            depthwise=True,
            activation=activation,
        )
        self.squeeze_excite = nnx.data(None)
        if squeeze:
            self.squeeze_excite = SqueezeExcite(
                expanded,
                make_divisible(expanded // 4),
                dtype=dtype,
                lowering=config.lowering,
            )
        self.project = _conv_norm(config, expanded, out)
        self.residual = stride == 1 and in_features == out
        self.stride = stride

    def __call__(self, x: Images, *, train: bool, dilation: int | None = None) -> Images:
        """Maps (batch, height, width, in) to (batch, height/stride, width/stride, out).

        With `dilation`, the stride is left out, see `dilated_depthwise_conv`; squeeze-excite
        averages over the positions that the block has with its stride.
        """
        y = x if self.expand is None else self.expand(x, train=train)
        y = self.depthwise(y, train=train, dilation=dilation)
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y, step=1 if dilation is None else dilation * self.stride)
        y = self.project(y, train=train)
        return x + y if self.residual else y


def _large_blocks(config: MobileNetV3Config) -> int:
    """How many blocks, from the first, come before the map is a sixteenth of the image's side.

    Those are what rematerialisation is worth: they hold two thirds of the activations and take a
    third of the multiplications. In the backward pass the later blocks' activations are gone before
    the first blocks' are computed again, so recomputing those too lowers no peak.
    """
    strides = itertools.accumulate((block.stride for block in blocks_of(config)), operator.mul)
    return sum(stride <= 4 for stride in strides)  # after the stem, whose stride is 2


class Backbone(nnx.Module):
    """Images to the last feature map."""

    def __init__(self, config: MobileNetV3Config):
        activation = last_activation(config)
        features = channels_of(STEM, config)
        self.stem = _conv_norm(
            config, config.channels, features, kernel=3, stride=2, activation=activation
        )
        # Keyed by the row of the table, as strings: every path in the parameters is of names.
        self.blocks = nnx.Dict()
        for row, block in enumerate(blocks_of(config)):
            self.blocks[str(row)] = InvertedResidual(features, block, config)
            features = block.out
        self.last = _conv_norm(config, features, feature_channels(config), activation=activation)
        self.recomputed = _large_blocks(config) if config.remat == "blocks" else 0

    def dense(self, images: Images) -> FeatureMap:
        """The last feature map at twice the positions along each axis, with running statistics.

        The last stage computes without its stride and with taps two apart: the weights and what
        a position sees of the image stay, and every second row and column are the map itself.
        """
        x = self.stem(images, train=False)
        last_stride = max(
            row for row in range(len(self.blocks)) if self.blocks[str(row)].stride > 1
        )
        for row in range(len(self.blocks)):
            dilation = None if row < last_stride else 1 if row == last_stride else 2
            x = self.blocks[str(row)](x, train=False, dilation=dilation)
        return self.last(x, train=False)

    def __call__(self, images: Images, *, train: bool) -> FeatureMap:
        """Maps normalised images to (batch, height/32, width/32, feature_channels)."""

        def apply(block, x):
            return block(x, train=train)

        recompute = nnx.remat(apply)
        x = self.stem(images, train=train)
        for row in range(len(self.blocks)):
            x = (recompute if row < self.recomputed else apply)(self.blocks[str(row)], x)
        return self.last(x, train=train)


class Head(nnx.Module):
    """The last feature map to logits, in float32 whatever the backbone computes in."""

    def __init__(self, config: MobileNetV3Config):
        hidden = channels_of(HIDDEN, config)
        zeros: Any = {"kernel_init": nnx.initializers.zeros, "rngs": nnx.Rngs(0)}
        self.hidden = nnx.Linear(feature_channels(config), hidden, **zeros)
        self.classifier = nnx.Linear(hidden, config.num_classes, **zeros)
        self.activation = last_activation(config)
        self.dropout = config.dropout

    def __call__(self, features: FeatureMap, *, dropout_key: PRNGKeyArray | None = None) -> Logits:
        """Maps a feature map to (batch, num_classes); without a key, nothing is dropped."""
        x = global_average_pool(features.astype(jnp.float32))[:, 0, 0]
        x = activate(self.hidden(x), self.activation)
        if dropout_key is not None:
            x = dropout(dropout_key, x, self.dropout)
        return self.classifier(x)


class MobileNetV3(nnx.Module):
    """MobileNetV3-Large: `head(backbone(images, train=False))` are logits.

    Parameters begin at zero: `NNXModel.init` draws them.
    """

    def __init__(self, config: MobileNetV3Config):
        self.backbone = Backbone(config)
        self.head = Head(config)


@dataclass(frozen=True)
class NNXModel:
    """`Model` by an NNX module whose submodules are exactly `backbone` and `head`.

    Two of them are equal when their configs are. The graph definitions are the module without
    its arrays; merging them with arrays inside each function keeps the functions pure.
    """

    config: MobileNetV3Config
    shapes: Variables = field(repr=False, compare=False)
    _backbone: nnx.GraphDef = field(repr=False, compare=False)
    _head: nnx.GraphDef = field(repr=False, compare=False)

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.config.num_classes

    def features_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, columns, features) of the feature map of one image."""
        return -(-height // STRIDE), -(-width // STRIDE), feature_channels(self.config)

    def init(self, seed: int) -> Variables:
        """Fresh variables, the same for the same seed."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: initial(path_name(path[1:]), leaf.shape, seed), self.shapes
        )

    def features(
        self, variables: Variables, images: Images, *, train: bool
    ) -> tuple[FeatureMap, Tree]:
        """The last feature map and the statistics after it; see `Model.features`."""
        backbone = self._merged_backbone(variables)
        feature_map = backbone(images, train=train)
        if not train:
            return feature_map, variables.stats
        return feature_map, {"backbone": _arrays(nnx.state(backbone, nnx.BatchStat))}

    def dense_features(self, variables: Variables, images: Images) -> FeatureMap:
        """The map at twice the positions along each axis; see `DenseModel.dense_features`."""
        return self._merged_backbone(variables).dense(images)

    def pool(self, features: FeatureMap) -> FeatureMap:
        """The head's own global average pooling, which changes nothing when done twice."""
        return global_average_pool(features.astype(jnp.float32))

    def head(
        self,
        variables: Variables,
        features: FeatureMap,
        *,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Logits:
        """Float32 logits; see `Model.head`."""
        head = nnx.merge(self._head, nnx.State(variables.params["head"]), copy=True)
        return head(features, dropout_key=dropout_key)

    def _merged_backbone(self, variables: Variables) -> Backbone:
        return nnx.merge(
            self._backbone,
            nnx.State(variables.params["backbone"]),
            nnx.State(variables.stats["backbone"]),
            copy=True,
        )


def _arrays(state: nnx.State) -> Tree:
    return nnx.to_pure_dict(state)
