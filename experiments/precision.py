"""How far half precision moves a training step of the real network: its loss and its gradients.

    python experiments/precision.py data=OCT2017_SUBSET weights=FILE batches=4 statistics=running

One step on each of some batches of real scans from the pretrained weights, in float32, bfloat16
and float16, and in bfloat16 with BatchNorm's arithmetic in bfloat16 too, as it was once. The error
of a gradient is the norm of its difference from float32's over the norm of float32's; the median
over the batches is printed. BatchNorm takes its running statistics, the second stage's default, or
with `statistics=batch` those of the batch. XLA takes minutes to compile half precision for a CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oct_jax import UserError, load_backbone, open_folder
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.data.loader import in_order
from oct_jax.model.layers import normalisation
from oct_jax.model.protocol import Variables, build
from oct_jax.train.step import StepRules, initial_state, make_train_step

BATCH = 32
GROUPS: dict[str, Callable[[str], bool]] = {
    "kernels": lambda path: "kernel" in path,
    "BatchNorm's scales": lambda path: "scale" in path,
    "biases": lambda path: "bias" in path,
}


def main(words: list[str]) -> None:
    """Measures every dtype and prints the table."""
    given = {"batches": "4", "statistics": "running"} | split_words(words)
    if set(given) != {"batches", "statistics", "data", "weights"}:
        raise UserError("needs data= and weights=; may have batches= and statistics=")
    if given["statistics"] not in ("running", "batch"):
        raise UserError(f"statistics={given['statistics']}: choose of running, batch")
    update = given["statistics"] == "batch"
    start = load_backbone(weights=given["weights"], seed=0)
    scans = open_folder(Path(given["data"]).expanduser(), seed=0).select("train")
    batches = []
    for index, images in enumerate(
        in_order(scans, start.preprocess(), batch_size=BATCH, threads=1)
    ):
        if index == int(given["batches"]):
            break
        labels = scans.labels[index * BATCH : (index + 1) * BATCH]
        batches.append({"image": images, "label": np.asarray(labels, np.int32)})
    print(f"| dtype | loss | {' | '.join(GROUPS)} |\n{'|---' * (len(GROUPS) + 2)}|")
    exact = gradients(start, batches, "float32", update)
    for name, dtype, rounded in (
        ("bfloat16", "bfloat16", False),
        ("bfloat16, BatchNorm too", "bfloat16", True),
        ("float16", "float16", False),
    ):
        with rounded_batch_norm() if rounded else nullcontext():
            errors = errors_of(gradients(start, batches, dtype, update), exact)
        cells = " | ".join(f"{error:.2%}" for error in np.median(errors, axis=0))
        print(f"| {name} | {cells} |", flush=True)


def gradients(start: Any, batches: list[dict[str, Any]], dtype: str, update: bool) -> list[Any]:
    """Loss and gradient of every batch; the gradient is what a step of rate 1 subtracts."""
    optimizer = optax.sgd(1.0)
    rules = StepRules(update_statistics=update, precision=dtype)
    model = build(replace(start.config, dtype=dtype, dropout=0.0))
    step = jax.jit(make_train_step(model, start.preprocess(), optimizer, rules=rules))
    variables = jax.tree.map(jnp.asarray, Variables(*start.variables))
    state = initial_state(variables, optimizer, dtype)
    results = []
    for batch in batches:
        after = step(state, batch, jax.random.key(0))
        moved = jax.tree.map(lambda old, new: np.asarray(old - new), state.params, after.params)
        results.append((float(after.totals.loss) / BATCH, moved))
    return results


def errors_of(measured: list[Any], exact: list[Any]) -> list[list[float]]:
    """For every batch the relative error of the loss, then of each group of gradients."""
    rows = []
    for (loss, moved), (exact_loss, exact_moved) in zip(measured, exact, strict=True):
        row = [abs(loss - exact_loss) / exact_loss]
        for belongs in GROUPS.values():
            own, right = vector_of(moved, belongs), vector_of(exact_moved, belongs)
            row.append(float(np.linalg.norm(own - right) / np.linalg.norm(right)))
        rows.append(row)
    return rows


def vector_of(tree: Any, belongs: Callable[[str], bool]) -> np.ndarray:
    """The leaves of a group as one vector."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    chosen = [np.ravel(leaf) for path, leaf in leaves if belongs(jax.tree_util.keystr(path))]
    return np.concatenate(chosen).astype(np.float64)


@contextmanager
def rounded_batch_norm() -> Iterator[None]:
    """BatchNorm whose multiplier and offset are rounded to the dtype of its input."""
    exact = normalisation._affine

    def rounded(x: Any, multiplier: Any, bias: Any, mean: Any) -> Any:
        offset = (bias - mean * multiplier).astype(x.dtype)
        return (x * multiplier.astype(x.dtype) + offset).astype(jnp.float32)

    normalisation._affine = rounded
    try:
        yield
    finally:
        normalisation._affine = exact


if __name__ == "__main__":
    sys.exit(command.run(main))
