"""Who is compared: torchvision in processes of its own, and onnxruntime on both sides' exports."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from speed_parts.timing import PREPROCESS, SIZE, TASKS, Contender, Task, repeat

from oct_jax.classifier import Classifier
from oct_jax.export.graph import make_graphs
from oct_jax.model.fold import fold
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Variables, build

SCRIPT = Path(__file__).parent / "torch_peer.py"
# What `commands.entry.keep_freed_memory` sets, as glibc reads it from the environment.
OUR_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
}
EXPORTED, OUR_EXPORT = "onnxruntime, torchvision's export", "onnxruntime, our mobile file"


@contextmanager
def open_peers(
    python: str, precisions: list[str], modes: list[str]
) -> Iterator[dict[str, Contender]]:
    """torchvision as it comes and with our malloc, in processes that wait while others are timed.

    Args:
      python: an interpreter that has torch and torchvision.
      precisions: of `fp32`, `bf16`.
      modes: of `eager`, `compile`.
    """
    opened = {
        f"torch {mode} {precision}{note}": open_peer(python, precision, mode, environment)
        for precision in precisions
        for mode in modes
        for note, environment in (("", {}), (", our malloc", OUR_MALLOC))
    }
    try:
        yield {name: Contender(tasks) for name, (_, tasks) in opened.items()}
    finally:
        for process, _ in opened.values():
            process.communicate()


def open_peer(
    python: str, precision: str, mode: str, environment: dict[str, str]
) -> tuple[subprocess.Popen[str], dict[str, Task]]:
    """One torch process, and its tasks."""
    process = subprocess.Popen(
        [python, str(SCRIPT), precision, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    ask, answer = process.stdin, process.stdout
    greeting = answer.readline().split()
    if len(greeting) != 3:
        raise SystemExit(f"peers={python}: needs torch and torchvision installed")
    print(
        "torch {}, torchvision {}, {} threads, {} {}".format(*greeting, precision, mode), flush=True
    )

    def run(task: str, calls: int) -> tuple[float, float]:
        print(task, calls, file=ask, flush=True)
        wall, cpu = answer.readline().split()
        return float(wall), float(cpu)

    return process, {task: lambda calls, task=task: run(task, calls) for task in TASKS}


def exported(python: str) -> dict[str, Contender]:
    """onnxruntime on torchvision's export, and on ours of the same network with its heatmaps."""
    with tempfile.TemporaryDirectory() as folder:
        theirs, mine = Path(folder, "torchvision.onnx"), Path(folder, "ours.onnx")
        command = [python, str(SCRIPT), "export", str(theirs)]
        subprocess.run(command, check=True, capture_output=True)
        onnx.save(make_graphs(random_classifier()).mobile, mine)
        return {EXPORTED: session(theirs), OUR_EXPORT: session(mine)}


def session(path: Path) -> Contender:
    """The forward tasks of a file whose batches may have their sizes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tensor = opened.get_inputs()[0]
    batches = [tensor.shape[0]] if isinstance(tensor.shape[0], int) else [1, 32]
    tasks = {}
    for count in batches:
        image = np.random.default_rng(0).random((count, *tensor.shape[1:]), np.float32)
        values = {tensor.name: image * (255 if tensor.shape[1] == 1 else 1)}
        tasks[f"forward {count}"] = repeat(lambda values=values: opened.run(None, values))
    return Contender(tasks)


def random_classifier() -> Classifier:
    """torchvision's architecture, folded, with random weights and statistics."""
    config = MobileNetV3Config()
    rng = np.random.default_rng(0)
    params, stats = jax.tree.map(np.asarray, build(config).init(0))

    def drawn(path, leaf):
        if path[-1].key == "var":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return rng.normal(0, 0.1, leaf.shape).astype(np.float32)

    stats = jax.tree_util.tree_map_with_path(drawn, stats)
    folded, folded_config = fold(Variables(params, stats), config)
    assert PREPROCESS.size == SIZE
    variables = jax.tree.map(jnp.asarray, folded)
    return Classifier(build(folded_config), variables, PREPROCESS, True, "frozen")
