"""What a training step takes of a TPU's memory, compiled for a TPU that is not there.

    uv sync --group tpu-aot && python experiments/memory.py

MobileNetV3-Large, batch of 128 at 224x224 on one TPU v5e, BatchNorm in training form, AdamW.
`libtpu` compiles the step ahead of time; nothing runs. One compilation takes minutes.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from oct_jax.commands.parsing import split_words
from oct_jax.data.preprocess import Preprocess
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import build
from oct_jax.train.loss import class_weighted_loss
from oct_jax.train.optimizer import make_optimizer
from oct_jax.train.settings import finetune
from oct_jax.train.step import StepRules, initial_state, jit_step, make_train_step

BATCH, SIZE = 128, 224
LOSS = class_weighted_loss(np.ones(4, np.float32), label_smoothing=0.1)
PREPROCESS = Preprocess(size=SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
POLICIES = {
    "float32": {"dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "bf16, remat=blocks": {"dtype": "bfloat16", "remat": "blocks"},
}


@dataclass(frozen=True)
class Cost:
    """What the compiler says of one step.

    Attributes:
      peak: bytes of TPU memory at the step's fullest moment, state and batch included.
      temporary: bytes of all temporaries.
      flops: of the step, recomputation included.
      seconds: that compiling took.
    """

    peak: int
    temporary: int
    flops: float
    seconds: float


def main(words: list[str]) -> None:
    """Compiles the step under every policy, prints a table."""
    given = {"batch": str(BATCH), "only": ""} | split_words(words)
    try:
        mesh = absent_tpu()
    except Exception as error:
        raise SystemExit(f"needs libtpu: uv sync --group tpu-aot ({error})") from error
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu")]
    print(", ".join(versions), mesh.devices[0].device_kind, f"batch {given['batch']}")
    print(
        "| policy | peak, MB | / float32 | temporaries, MB | GFLOP | / float32 | compiled in, s |"
        "\n|---|---|---|---|---|---|---|"
    )
    first = None
    for name, settings in POLICIES.items():
        if given["only"] and name != given["only"]:
            continue
        config = replace(MobileNetV3Config(), **settings)
        cost = measure(config, mesh, int(given["batch"]), PREPROCESS)
        first = first or cost
        print(
            f"| {name} | {cost.peak / 1e6:.0f} | {cost.peak / first.peak:.2f}"
            f" | {cost.temporary / 1e6:.0f} | {cost.flops / 1e9:.0f}"
            f" | {cost.flops / first.flops:.2f} | {cost.seconds:.0f} |",
            flush=True,
        )


def absent_tpu() -> Mesh:
    """One device of a TPU v5e, to compile for; raises whatever libtpu raises."""
    # The compiler asks the machine for a TPU's metadata unless it is told.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    topology = topologies.get_topology_desc("v5e:2x2", "tpu")
    return Mesh(np.array(topology.devices[:1]), ("data",), axis_types=(AxisType.Auto,))


def measure(config: Any, mesh: Mesh, batch_size: int, preprocess: Preprocess) -> Cost:
    """Compiles the training loop's own step of a model, for shapes alone."""
    model, size = build(config), preprocess.size
    optimizer = make_optimizer(finetune(), optax.constant_schedule(1e-4))
    rules = StepRules(
        train_backbone=True,
        update_statistics=True,
        precision=config.dtype,
    )
    step = make_train_step(model, preprocess, optimizer, LOSS, rules)
    state = jax.eval_shape(lambda v: initial_state(v, optimizer, config.dtype), model.shapes)
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, size, size), jnp.uint8),
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    begun = time.perf_counter()
    compiled = jit_step(step, mesh).lower(state, batch, key).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return Cost(
        peak=memory.peak_memory_in_bytes,
        temporary=memory.temp_size_in_bytes,
        flops=cost["flops"],
        seconds=time.perf_counter() - begun,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
