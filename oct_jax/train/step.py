"""One training step as a pure function: (state, batch, key) -> state.

The step is jitted once, with the old state donated. Over several devices the batch is split along
its first axis and the state is replicated; the program is written for the global batch, and the
compiler inserts the sums over devices. One device is the same code with a mesh of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32, PyTree, Shaped

from oct_jax.data.loader import Batch
from oct_jax.data.preprocess import Preprocess, normalise
from oct_jax.model.protocol import Model, Variables
from oct_jax.train.loss import Loss
from oct_jax.train.precision import LossScale, Precision, all_finite, initial_scale, next_scale

Key: TypeAlias = Array


class Totals(NamedTuple):
    """Sums over the steps of an epoch so far, skipped ones left out, for its loss and accuracy."""

    loss: Float32[Array, ""]
    correct: Int32[Array, ""]
    scans: Int32[Array, ""]


class TrainState(NamedTuple):
    """All that changes while a stage trains.

    Attributes:
      step: finished steps, skipped ones included.
      params: float32, top level `backbone` and `head`.
      stats: BatchNorm's running statistics, float32.
      opt_state: the optimizer's moments, of trained leaves only.
      loss_scale: state of dynamic loss scaling.
      totals: of the epoch that is under way.
    """

    step: Int32[Array, ""]
    params: PyTree
    stats: PyTree
    opt_state: PyTree
    loss_scale: LossScale
    totals: Totals


@dataclass(frozen=True, kw_only=True)
class StepRules:
    """What a stage asks of its steps.

    Attributes:
      train_backbone: whether gradients flow into the backbone.
      update_statistics: whether BatchNorm uses and updates batch statistics.
      precision: compute type; decides on loss scaling.
      accumulate: micro-batches whose gradients one step averages.
      cached_features: whether a batch brings the backbone's pooled features instead of scans.
    """

    train_backbone: bool = True
    update_statistics: bool = False
    precision: Precision = "float32"
    accumulate: int = 1
    cached_features: bool = False


TrainStep: TypeAlias = Callable[[TrainState, Batch, Key], TrainState]


def initial_state(
    variables: Variables,
    optimizer: optax.GradientTransformation,
    precision: Precision = "float32",
) -> TrainState:
    """The state before the first step.

    Args:
      variables: pretrained or fresh, float32.
      optimizer: whose moments it holds.
      precision: compute type of the steps; with `float16` the loss is scaled.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables.params,
        stats=variables.stats,
        opt_state=optimizer.init(variables.params),
        loss_scale=initial_scale(precision),
        totals=empty_totals(),
    )


def empty_totals() -> Totals:
    """The totals at the start of an epoch."""
    return Totals(
        loss=jnp.zeros((), jnp.float32),
        correct=jnp.zeros((), jnp.int32),
        scans=jnp.zeros((), jnp.int32),
    )


def make_train_step(
    model: Model,
    preprocess: Preprocess,
    optimizer: optax.GradientTransformation,
    loss: Loss = optax.softmax_cross_entropy_with_integer_labels,
    rules: StepRules = StepRules(),
) -> TrainStep:
    """Builds the pure step, (state, batch, key) -> state; compile it by `jax.jit` or `jit_step`.

    Args:
      model: whose variables the state holds, in the form that is trained: its own dtype, dropout
        and remat are used.
      preprocess: mean and std of the model's input.
      optimizer: any optax transformation; it moves all that it gives an update for, so that
        leaves to be kept are for `optax.multi_transform`, see `oct_jax.train.optimizer`. It is
        given the batch's loss as `value`, which `optax.contrib.reduce_on_plateau` wants.
      loss: of every scan; the step takes its mean.
      rules: what else is asked.

    Returns:
      The step. `batch` is a dict of `image`, grey uint8 (batch, size, size), and `label`, int32
      (batch,). `key` is the run's, the same at every step: a step's own randomness is
      `fold_in(key, state.step)`. A step whose loss or gradient is not finite changes nothing but
      counters and the loss scale.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def features_of(params, stats, batch):
        if rules.cached_features:
            return batch["feature"], stats
        images = normalise(batch["image"], preprocess)
        return model.features(Variables(params, stats), images, train=rules.update_statistics)

    def losses(params, stats, micro_batch, key, scale):
        features, stats = features_of(params, stats, micro_batch)
        if not rules.train_backbone:
            # States that no gradient is wanted below: the backward pass stops here.
            features = jax.lax.stop_gradient(features)
        logits = model.head(Variables(params, stats), features, dropout_key=key)
        mean_loss = jnp.mean(loss(logits, micro_batch["label"]))
        correct = jnp.sum(jnp.argmax(logits, -1) == micro_batch["label"], dtype=jnp.int32)
        return mean_loss * scale, (stats, mean_loss, correct)

    gradients = jax.grad(losses, has_aux=True)

    def accumulated(state, batch, key):
        """Mean gradient and loss over the micro-batches, one after the other in memory."""

        def add(carry, micro_batch_and_index):
            stats, total = carry
            micro_batch, index = micro_batch_and_index
            micro_key = jax.random.fold_in(key, index)
            scale = state.loss_scale.scale / rules.accumulate
            grads, (stats, mean_loss, correct) = gradients(
                state.params, stats, micro_batch, micro_key, scale
            )
            part = (grads, mean_loss / rules.accumulate, correct)
            return (stats, jax.tree.map(jnp.add, total, part)), None

        micro_batches = jax.tree.map(lambda leaf: _micro_batches(leaf, rules.accumulate), batch)
        nothing = (jax.tree.map(jnp.zeros_like, state.params), jnp.float32(0), jnp.int32(0))
        (stats, (grads, mean_loss, correct)), _ = jax.lax.scan(
            add, (state.stats, nothing), (micro_batches, jnp.arange(rules.accumulate))
        )
        return grads, stats, mean_loss, correct

    def whole(state, batch, key):
        grads, (stats, mean_loss, correct) = gradients(
            state.params, state.stats, batch, key, state.loss_scale.scale
        )
        return grads, stats, mean_loss, correct

    def step(state: TrainState, batch: Batch, key: Key) -> TrainState:
        step_key = jax.random.fold_in(key, state.step)
        gradient_of = whole if rules.accumulate == 1 else accumulated
        grads, moved_stats, mean_loss, correct = gradient_of(state, batch, step_key)
        grads = jax.tree.map(lambda grad: grad / state.loss_scale.scale, grads)
        finite = all_finite((mean_loss, grads))

        def learn():
            updates, opt_state = optimizer.update(
                grads, state.opt_state, state.params, value=mean_loss
            )
            return optax.apply_updates(state.params, updates), moved_stats, opt_state

        def keep():
            return state.params, state.stats, state.opt_state

        # A branch, not a select of every leaf: XLA compiles it in a third of the time.
        params, stats, opt_state = jax.lax.cond(finite, learn, keep)
        scans = jnp.where(finite, batch["label"].shape[0], 0)
        return TrainState(
            step=state.step + 1,
            params=params,
            stats=stats,
            opt_state=opt_state,
            loss_scale=next_scale(state.loss_scale, finite, rules.precision),
            totals=Totals(
                loss=state.totals.loss + jnp.where(finite, mean_loss, 0) * scans,
                correct=state.totals.correct + jnp.where(finite, correct, 0),
                scans=state.totals.scans + scans,
            ),
        )

    return step


def _micro_batches(
    leaf: Shaped[Array, "batch ..."], count: int
) -> Shaped[Array, "count micro ..."]:
    # Micro-batch i is scans i, i + count, ...: of every device's shard the same share, so that
    # cutting the batch moves nothing between devices.
    return jnp.moveaxis(leaf.reshape(-1, count, *leaf.shape[1:]), 1, 0)


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`."""
    # Auto: the compiler decides how each array inside a step is laid out.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def jit_step(step: TrainStep, mesh: Mesh) -> TrainStep:
    """Compiles a step for a mesh: state replicated and donated, batch split over `data`."""
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(replicated, split, replicated),
        out_shardings=replicated,
    )


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts the same values on every device of the mesh.

    From the host: of an array on a local device, `device_put` to the devices of several processes
    makes one that computes but cannot be saved (jax 0.10).
    """
    return jax.device_put(jax.tree.map(np.asarray, tree), NamedSharding(mesh, PartitionSpec()))


def run_key(seed: int, mesh: Mesh) -> Key:
    """The run's random key on every device; made there, for keys cannot be sent to other hosts."""
    return jax.jit(
        lambda: jax.random.key(seed), out_shardings=NamedSharding(mesh, PartitionSpec())
    )()


def distribute(batch: Batch, mesh: Mesh) -> Batch:
    """Makes the global batch from this process's part of it."""
    split = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(
        lambda part: jax.make_array_from_process_local_data(split, part), dict(batch)
    )
