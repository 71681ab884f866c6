"""How fast MobileNetV3-Large runs here: ours against the fastest form of torchvision, in one run.

    python experiments/speed.py peers=/path/to/python-with-torch [picture=FILE.png] [rounds=5]
        [tasks="forward 1,step 32"] [precisions=fp32] [modes=eager] [frozen=false] [book=false]

Every round times all contenders one after the other, so that a busy machine slows them alike;
ratios are of medians. Random weights, 4 classes, 224x224. Nothing that changes results: the
settings of each are

- ours: float32, BatchNorm folded for the forward pass, the z-score of uint8 scans included, the
  setting of malloc that every command of the package makes (`commands.entry.keep_freed_memory`).
- torchvision: `channels_last`, inference mode; eager and `torch.compile` (`dynamic=False`; the
  forward pass with `torch._inductor.config.freezing`, the loss with its backward pass compiled,
  AdamW as torch has it), float32 and bfloat16 autocast, each as it comes and with our malloc.
- onnxruntime, all cores: torchvision's export (1000 classes), and our mobile file of the same
  network, which gives probabilities and heatmaps; the forward pass alone.
- Flax NNX as its documentation writes it, with our malloc.

Tasks: `forward 1` and `forward 32` for batches of 1 and 32; `step 32`: forward in training form,
backward, AdamW; BatchNorm's statistics those of the batch, as when training from scratch. Then ten
epochs of the frozen stage with cached features, over one forward pass. Compiling takes some
minutes: torch keeps its programs in TORCHINDUCTOR_CACHE_DIR. Only on an idle machine does any of it
mean much: OpenMP's threads, which torch runs on, burn CPU time while they wait for each other.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optax
from speed_parts.book import book
from speed_parts.frozen import show_frozen
from speed_parts.peers import exported, open_peers
from speed_parts.timing import (
    BATCH,
    LOSS,
    PREPROCESS,
    SIZE,
    TASKS,
    Contender,
    Times,
    measure,
    medians,
    repeat,
)

from oct_jax.commands.entry import keep_freed_memory
from oct_jax.commands.parsing import split_words
from oct_jax.model.fold import fold
from oct_jax.model.inference import make_forward
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import build
from oct_jax.train.optimizer import make_optimizer
from oct_jax.train.settings import finetune
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

OURS, BOOK = "ours", "Flax by the book"
DEFAULTS = {
    "peers": "",
    "rounds": "5",
    "picture": "",
    "tasks": ",".join(TASKS),
    "precisions": "fp32,bf16",
    "modes": "eager,compile",
    "frozen": "true",
    "book": "true",
}


def main(words: list[str]) -> None:
    """Measures in turns, prints tables, draws a picture."""
    given = DEFAULTS | split_words(words)
    keep_freed_memory()
    versions = " ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("jax", "flax", "numpy", "onnxruntime")
    )
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}", flush=True)
    contenders = {OURS: ours()} | ({BOOK: book()} if given["book"] == "true" else {})
    with ExitStack() as stack:
        if given["peers"]:
            kinds = given["precisions"].split(","), given["modes"].split(",")
            contenders |= stack.enter_context(open_peers(given["peers"], *kinds))
            contenders |= exported(given["peers"])
        else:
            print("no torchvision: name a Python that has torch and torchvision with peers=PYTHON")
        times = measure(contenders, int(given["rounds"]), given["tasks"].split(","))
    show_fastest(times)
    show(times)
    show_memory(contenders)
    if given["frozen"] == "true":
        show_frozen()
    if given["picture"]:
        draw(times, Path(given["picture"]))


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


def show_fastest(times: Times) -> None:
    """Prints each task's fastest torch, and the fastest of all that are not ours."""
    print("\n| task | ours, ms an image | fastest torch | ms | ours / it | fastest of all | ms |")
    print("|---" * 7 + "|")
    for task, found in times.items():
        walls = {name: medians(values)[0] for name, values in found.items()}
        torch = {name: wall for name, wall in walls.items() if name.startswith("torch")}
        if not torch:
            continue
        best, first = min(torch, key=torch.__getitem__), min(walls, key=walls.__getitem__)
        print(
            f"| {task} | {walls[OURS]:.2f} | {best} | {walls[best]:.2f}"
            f" | **{walls[OURS] / walls[best]:.2f}** | {first} | {walls[first]:.2f} |",
            flush=True,
        )


def show(times: Times) -> None:
    """Prints medians and our ratio to each, of wall and of CPU time; the fastest first."""
    for task, found in times.items():
        print(
            f"\n| {task} | ms an image | lowest to highest | ours / this | CPU ms | ours / this |"
        )
        print("|---" * 6 + "|")
        mine, mine_cpu = medians(found[OURS])
        for name, values in sorted(found.items(), key=lambda item: medians(item[1])):
            wall, cpu = medians(values)
            walls = [value for value, _ in values]
            print(
                f"| {name} | {wall:.2f} | {min(walls):.2f} to {max(walls):.2f} | {mine / wall:.2f}"
                f" | {cpu:.2f} | {mine_cpu / cpu:.2f} |",
                flush=True,
            )


def show_memory(contenders: dict[str, Contender]) -> None:
    """Prints what the compiled training steps take for temporaries."""
    print("\n| training step, batch 32 | temporaries, MB | ours / this |\n|---|---|---|")
    sizes = {name: one.temporary for name, one in contenders.items() if one.temporary}
    for name, size in sizes.items():
        print(f"| {name} | {size / 2**20:.0f} | {sizes[OURS] / size:.2f} |", flush=True)


def draw(times: Times, path: Path) -> None:
    """Bars of medians, a panel for each task."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(times), figsize=(9, 3.6), layout="constrained")
    for axis, (task, walls) in zip(axes, times.items(), strict=True):
        names = list(walls)[::-1]
        values = [medians(walls[name])[0] for name in names]
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
