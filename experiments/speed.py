"""How fast MobileNetV3-Large runs here: ours, torchvision, and Flax NNX by the book, in one run.

    python experiments/speed.py peers=/path/to/python-with-torch picture=docs/images/speed.png

Without `peers=` torchvision's columns stay empty. Every round times all contenders one after the
other, so that a busy machine slows them alike; ratios are of medians. Random weights, 4 classes,
224x224; ours counts the z-score of uint8 scans too, the others begin at floats. Ours and Flax run
with `commands.entry.keep_freed_memory`, as every command of the package does; torchvision runs as
it comes, once more with the same setting of malloc, and once on one thread: OpenMP's threads burn
CPU time while they wait for each other, so on a busy machine only that one's CPU time means much.

- forward: batches of 1 and 32, ours with BatchNorm folded, as `predict` runs it.
- step: forward in training form, backward, AdamW; batch of 32, float32; BatchNorm's statistics
  those of the batch, as when training from scratch.
- frozen: ten epochs of the frozen stage with cached features, over one forward pass.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from flax import nnx

from oct_jax.commands.entry import keep_freed_memory
from oct_jax.commands.parsing import split_words
from oct_jax.data.loader import feature_stream, prefetch
from oct_jax.data.phantom import draw_anatomy, phantom_scan
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.scans import Scans, from_arrays
from oct_jax.data.strengths import Augment
from oct_jax.model.fold import fold
from oct_jax.model.inference import make_forward, predict_source
from oct_jax.model.mobilenet_v3 import LARGE, MobileNetV3Config, make_divisible
from oct_jax.model.protocol import build
from oct_jax.task import KERMANY
from oct_jax.train.feature_cache import cached_views
from oct_jax.train.loss import class_weighted_loss
from oct_jax.train.optimizer import make_optimizer
from oct_jax.train.settings import finetune, frozen
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

SIZE, BATCH, SCANS, EPOCHS = 224, 32, 320, 10
LOSS = class_weighted_loss(np.ones(4, np.float32), label_smoothing=0.1)
PREPROCESS = Preprocess(size=SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TASKS = {"forward 1": 1, "forward 32": BATCH, "step 32": BATCH}
OURS, BOOK = "ours", "book-style Flax"
# Name -> precision, and what is added to the environment.
PEERS: dict[str, tuple[str, dict[str, str]]] = {
    "torchvision fp32": ("fp32", {}),
    "torchvision bf16": ("bf16", {}),
    "torchvision fp32, 1 thread": ("fp32", {"OMP_NUM_THREADS": "1"}),
    "torchvision fp32, our malloc": (
        "fp32",
        {
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": "-1",
        },
    ),
}

PEER = """
import sys, time
import torch, torchvision
torch.manual_seed(0)
model = torchvision.models.mobilenet_v3_large(num_classes=4).to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
bfloat16 = sys.argv[1] == "bf16"
def images(count):
    return torch.rand(count, 3, 224, 224).to(memory_format=torch.channels_last)
def forward(x):
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        model(x)
def step(x, labels):
    model.train()
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = torch.nn.functional.cross_entropy(model(x), labels)
    loss.backward()
    optimizer.step()
tasks = {
    "forward 1": (forward, images(1)),
    "forward 32": (forward, images(32)),
    "step 32": (step, images(32), torch.arange(32) % 4),
}
print(torch.__version__, torchvision.__version__, torch.get_num_threads(), flush=True)
for line in sys.stdin:
    name, calls = line.rsplit(maxsplit=1)
    function, *arguments = tasks[name]
    begun, spent = time.perf_counter(), time.process_time()
    for _ in range(int(calls)):
        function(*arguments)
    wall, cpu = time.perf_counter() - begun, time.process_time() - spent
    print(wall / int(calls), cpu / int(calls), flush=True)
"""

Task = Callable[[int], tuple[float, float]]
"""Runs a task so many times; returns the seconds that one took, and of CPU time on all cores."""
Times = dict[str, dict[str, list[tuple[float, float]]]]
"""Task -> contender -> milliseconds for an image, of wall and of CPU time, one pair a round."""


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


@dataclass(frozen=True)
class Contender:
    """One implementation: its tasks by name, and its training step's compiled temporaries."""

    tasks: dict[str, Task]
    temporary: int | None = None


def main(words: list[str]) -> None:
    """Measures in turns, prints tables, draws a picture."""
    given = {"peers": "", "rounds": "7", "picture": ""} | split_words(words)
    keep_freed_memory()
    told = " ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "numpy")
    )
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {told}", flush=True)
    contenders = {OURS: ours(), BOOK: book()}
    with open_peers(given["peers"]) as peers:
        found = measure(contenders | peers, int(given["rounds"]))
    show(found)
    show_memory(contenders)
    show_frozen()
    if given["picture"]:
        draw(found, Path(given["picture"]))


def measure(contenders: dict[str, Contender], rounds: int) -> Times:
    """Times every task of every contender, in turns."""
    found: Times = {}
    for task, batch in TASKS.items():
        slow = {
            name: min(one.tasks[task](1)[0] for _ in range(2)) for name, one in contenders.items()
        }
        for _ in range(rounds):
            for name, one in contenders.items():
                calls = max(1, min(30, round(0.5 / slow[name])))
                wall, cpu = one.tasks[task](calls)
                each = 1e3 * wall / batch, 1e3 * cpu / batch
                found.setdefault(task, {}).setdefault(name, []).append(each)
    return found


def repeat(function: Callable[[], Any]) -> Task:
    """A task whose every call waits for its result."""

    def run(calls: int) -> tuple[float, float]:
        begun, spent = time.perf_counter(), time.process_time()
        for _ in range(calls):
            jax.block_until_ready(function())
        wall, cpu = time.perf_counter() - begun, time.process_time() - spent
        return wall / calls, cpu / calls

    return run


def ours() -> Contender:
    """The package: folded inference, and the training loop's own step."""
    config = MobileNetV3Config()
    model = build(config)
    variables = model.init(0)
    folded, folded_config = fold(variables, config)
    forward = make_forward(build(folded_config), PREPROCESS)
    scans = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE), np.uint8)
    optimizer = make_optimizer(finetune(), optax.constant_schedule(1e-4))
    rules = StepRules(train_backbone=True, update_statistics=True, precision="float32")
    step = make_train_step(model, PREPROCESS, optimizer, LOSS, rules)
    mesh = data_mesh()
    batch = distribute({"image": scans, "label": np.arange(BATCH, dtype=np.int32) % 4}, mesh)
    key = run_key(0, mesh)
    state = replicate(initial_state(variables, optimizer, "float32"), mesh)
    compiled = jit_step(step, mesh).lower(state, batch, key).compile()

    def train() -> Any:
        nonlocal state
        state = compiled(state, batch, key)
        return state

    tasks = {
        "forward 1": repeat(lambda: forward(folded, scans[:1])),
        "forward 32": repeat(lambda: forward(folded, scans)),
        "step 32": repeat(train),
    }
    return Contender(tasks, compiled.memory_analysis().temp_size_in_bytes)


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


@contextmanager
def open_peers(python: str) -> Iterator[dict[str, Contender]]:
    """torchvision in processes of its own, which wait while others are timed."""
    if not python:
        print("no torchvision: name a Python that has torch and torchvision with peers=PYTHON")
        yield {}
        return
    opened = {name: open_peer(python, *how) for name, how in PEERS.items()}
    try:
        yield {name: Contender(tasks) for name, (_, tasks) in opened.items()}
    finally:
        for process, _ in opened.values():
            process.communicate()


def open_peer(
    python: str, kind: str, environment: dict[str, str]
) -> tuple[subprocess.Popen[str], dict[str, Task]]:
    """One torch process, and its tasks."""
    process = subprocess.Popen(
        [python, "-c", PEER, kind],
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
    print("torch {}, torchvision {}, {} threads, {}".format(*greeting, kind), flush=True)

    def run(task: str, calls: int) -> tuple[float, float]:
        print(task, calls, file=ask, flush=True)
        wall, cpu = answer.readline().split()
        return float(wall), float(cpu)

    return process, {task: lambda calls, task=task: run(task, calls) for task in TASKS}


def show(found: Times) -> None:
    """Prints medians and our ratio to each, of wall and of CPU time."""
    for task, times in found.items():
        print(
            f"\n| {task} | ms an image | lowest to highest | ours / this | CPU ms | ours / this |"
        )
        print("|---|---|---|---|---|---|")
        mine, mine_cpu = medians(times[OURS])
        for name, values in times.items():
            wall, cpu = medians(values)
            walls = [value for value, _ in values]
            print(
                f"| {name} | {wall:.2f} | {min(walls):.2f} to {max(walls):.2f} | {mine / wall:.2f}"
                f" | {cpu:.2f} | {mine_cpu / cpu:.2f} |",
                flush=True,
            )


def medians(values: list[tuple[float, float]]) -> tuple[float, float]:
    """Of wall and of CPU time."""
    walls, cpus = zip(*values, strict=True)
    return statistics.median(walls), statistics.median(cpus)


def show_memory(contenders: dict[str, Contender]) -> None:
    """Prints what the compiled training steps take for temporaries."""
    print("\n| training step, batch 32 | temporaries, MB | ours / this |\n|---|---|---|")
    mine = contenders[OURS].temporary
    assert mine is not None
    for name in (OURS, BOOK):
        size = contenders[name].temporary
        assert size is not None
        print(f"| {name} | {size / 2**20:.0f} | {mine / size:.2f} |", flush=True)


def phantoms_in_memory() -> Scans:
    """Synthetic scans of all classes."""
    scans = []
    for number in range(SCANS):
        rng = np.random.default_rng(number)
        drawn = phantom_scan(
            KERMANY.classes[number % len(KERMANY.classes)], rng, draw_anatomy(rng)
        ).image
        scans.append(cv2.resize(drawn, (512, 496)))
    return from_arrays(scans, np.arange(SCANS) % len(KERMANY.classes))


def show_frozen() -> None:
    """Prints what ten frozen epochs cost with cached features, over one pass without gradients."""
    source, config = phantoms_in_memory(), MobileNetV3Config()
    variables = build(config).init(0)
    folded, folded_config = fold(variables, config)
    model, threads = build(folded_config), os.cpu_count() or 1
    epochs = frozen_epochs(source, variables)

    def one_pass() -> None:
        predict_source(model, folded, source, PREPROCESS, threads=threads)

    def stage(views: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            features = cached_views(
                Path(folder), model, folded, source, PREPROCESS, Augment(),
                views=views, seed=0, threads=threads,
            )  # fmt: skip
            epochs(features)

    one_pass(), stage(1)  # compile
    times: dict[str, list[float]] = {}
    for _ in range(3):
        times.setdefault("one forward pass", []).append(clock(one_pass))
        for views in (1, frozen().views):
            name = f"views={views}: the cache, then {EPOCHS} epochs"
            times.setdefault(name, []).append(clock(lambda views=views: stage(views)))
    print(f"\n| frozen stage, {SCANS} scans | seconds | / one forward pass |\n|---|---|---|")
    first = statistics.median(times["one forward pass"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.2f} | {median / first:.2f} |", flush=True)


def frozen_epochs(source: Scans, variables: Any) -> Callable[[np.ndarray], None]:
    """Trains the head on cached features for ten epochs, the step compiled once."""
    model = build(MobileNetV3Config())
    optimizer = make_optimizer(frozen(), optax.constant_schedule(3e-3))
    rules = StepRules(
        train_backbone=False,
        update_statistics=False,
        precision="float32",
        cached_features=True,
    )
    mesh = data_mesh()
    one = make_train_step(model, PREPROCESS, optimizer, LOSS, rules)
    step, key = jit_step(one, mesh), run_key(0, mesh)

    def epochs(features: np.ndarray) -> None:
        # A copy: the step gives its state's memory away.
        copied = jax.tree.map(jnp.array, variables)
        state = replicate(initial_state(copied, optimizer, "float32"), mesh)
        stream = feature_stream(features, source.labels, batch_size=BATCH, seed=0)
        batches = prefetch(stream, threads=1)
        for _ in range(EPOCHS * len(source) // BATCH):
            state = step(state, distribute(next(batches), mesh), key)
        jax.block_until_ready(state)

    return epochs


def clock(function: Callable[[], None]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def draw(found: Times, path: Path) -> None:
    """Bars of medians, a panel for each task."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(9, 2.4), layout="constrained")
    for axis, (task, times) in zip(axes, found.items(), strict=True):
        names = list(times)[::-1]
        values = [medians(times[name])[0] for name in names]
        colours = ["#1b6ca8" if name == OURS else "#b9c4cc" for name in names]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        axis.set_title(f"{task}: ms an image", fontsize=9)
        axis.set_xlim(0, max(values) * 1.2)
        axis.tick_params(labelsize=8, left=False, labelleft=axis is axes[0])
        axis.xaxis.set_visible(False)
        axis.spines[:].set_visible(False)
    figure.suptitle(f"MobileNetV3-Large, 224x224, {os.cpu_count()} CPU cores", fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
