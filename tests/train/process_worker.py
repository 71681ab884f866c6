"""One of several processes that train together; `test_processes.py` starts it.

python process_worker.py INDEX COUNT PORT OUT
"""

import sys
from pathlib import Path

import jax
import numpy as np

STEPS, BATCH, SEED = 4, 8, 0


def main(index: int, count: int, port: str, out: Path) -> None:
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", count, index)
    import optax
    from toy_model import ToyModel

    from oct_jax.config import Augment, TrainConfig
    from oct_jax.data.loader import prefetch, training_stream
    from oct_jax.data.phantom import PhantomSource
    from oct_jax.data.preprocess import Preprocess
    from oct_jax.train.optimizer import make_optimizer
    from oct_jax.train.step import (
        StepRules,
        data_mesh,
        distribute,
        initial_state,
        jit_step,
        make_train_step,
        replicate,
        run_key,
    )

    preprocess = Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    stream = training_stream(
        PhantomSource(patients=24, seed=SEED).select("train"),
        preprocess,
        Augment(),
        batch_size=BATCH,
        seed=SEED,
        shard=jax.process_index(),
        shards=jax.process_count(),
    )
    rules = StepRules(
        train_backbone=True, update_statistics=True, label_smoothing=0.1, precision="float32"
    )
    model = ToyModel()
    optimizer = make_optimizer(TrainConfig(stage="finetune"), optax.constant_schedule(1e-2))
    mesh = data_mesh()
    step = make_train_step(model, preprocess, optimizer, np.ones(4, np.float32), rules)
    step = jit_step(step, mesh)
    state = replicate(initial_state(model.init(SEED), optimizer, rules.precision), mesh)
    key = run_key(SEED, mesh)
    batches = prefetch(stream, threads=1)
    images = []
    for _ in range(STEPS):
        batch = next(batches)
        images.append(batch["image"])
        state = step(state, distribute(batch, mesh), key)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.stats))]
    totals = np.array(
        [float(state.totals.loss), int(state.totals.correct), int(state.totals.scans)]
    )
    named = {f"leaf{number}": leaf for number, leaf in enumerate(leaves)}
    np.savez(out, images=np.stack(images), totals=totals, **named)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
