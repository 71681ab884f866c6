"""MobileNetV3-Large as Flax's documentation would have it written."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from speed_parts.timing import BATCH, SIZE, Contender, repeat

from oct_jax.model.mobilenet_v3 import LARGE, make_divisible


class BookConv(nnx.Module):
    """Convolution, BatchNorm, activation, each as Flax's documentation writes it."""

    def __init__(self, features_in, out, kernel=1, stride=1, groups=1, act=None, *, rngs):
        self.conv = nnx.Conv(
            features_in,
            out,
            (kernel, kernel),
            strides=stride,
            padding=kernel // 2,
            feature_group_count=groups,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(out, momentum=0.99, epsilon=1e-3, rngs=rngs)
        self.act = act

    def __call__(self, x):
        x = self.norm(self.conv(x))
        return self.act(x) if self.act else x


class BookBlock(nnx.Module):
    """Inverted residual of the same table as ours."""

    def __init__(self, features_in, block, *, rngs):
        act = {"relu": nnx.relu, "hard_swish": nnx.hard_swish}[block.activation]
        wide = block.expanded
        self.expand = nnx.data(None)
        if wide != features_in:
            self.expand = BookConv(features_in, wide, act=act, rngs=rngs)
        self.depthwise = BookConv(wide, wide, block.kernel, block.stride, wide, act, rngs=rngs)
        self.reduce = self.widen = nnx.data(None)
        if block.squeeze:
            squeezed = make_divisible(wide // 4)
            self.reduce = nnx.Conv(wide, squeezed, (1, 1), rngs=rngs)
            self.widen = nnx.Conv(squeezed, wide, (1, 1), rngs=rngs)
        self.project = BookConv(wide, block.out, rngs=rngs)
        self.residual = block.stride == 1 and features_in == block.out

    def __call__(self, x):
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        if self.reduce is not None:
            pooled = y.mean((1, 2), keepdims=True)
            y = y * nnx.hard_sigmoid(self.widen(nnx.relu(self.reduce(pooled))))
        y = self.project(y)
        return x + y if self.residual else y


class BookMobileNetV3(nnx.Module):
    """MobileNetV3-Large from `nnx.Conv`, `nnx.BatchNorm` and `nnx.Linear`."""

    def __init__(self, *, rngs):
        self.stem = BookConv(3, 16, 3, 2, act=nnx.hard_swish, rngs=rngs)
        features, blocks = 16, []
        for block in LARGE:
            blocks.append(BookBlock(features, block, rngs=rngs))
            features = block.out
        self.blocks = nnx.List(blocks)
        self.last = BookConv(features, 960, act=nnx.hard_swish, rngs=rngs)
        self.hidden = nnx.Linear(960, 1280, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.classifier = nnx.Linear(1280, 4, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.last(x).mean((1, 2))
        return self.classifier(self.dropout(nnx.hard_swish(self.hidden(x))))


def book() -> Contender:
    """Flax NNX as its documentation writes a training step."""
    model = BookMobileNetV3(rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(1e-4), wrt=nnx.Param)
    images = jax.random.uniform(jax.random.key(0), (BATCH, SIZE, SIZE, 3))
    labels = jnp.arange(BATCH) % 4

    def loss_of(model, images, labels):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return losses.mean()

    @nnx.jit
    def step(model, optimizer, images, labels):
        loss, gradients = nnx.value_and_grad(loss_of)(model, images, labels)
        optimizer.update(model, gradients)
        return loss

    forward = nnx.jit(lambda model, images: model(images))
    trained = nnx.view(model, deterministic=False, use_running_average=False)
    evaluated = nnx.view(model, deterministic=True, use_running_average=True)
    compiled = step.lower(trained, optimizer, images, labels).compile()
    tasks = {
        "forward 1": repeat(lambda: forward(evaluated, images[:1])),
        "forward 32": repeat(lambda: forward(evaluated, images)),
        "step 32": repeat(lambda: compiled(trained, optimizer, images, labels)),
    }
    return Contender(tasks, compiled.memory_analysis().temp_size_in_bytes)
