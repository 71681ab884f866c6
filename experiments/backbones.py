"""Which backbone? All of them through the same loader, loss, stages, seed and splits.

    just backbones quick=true
    just backbones data=ROOT weights=FOLDER out=runs/backbones

For each backbone: parameters, FLOPs, forward latency at batch 1 and 32 (JAX in the form that
inference runs, and onnxruntime where the export works), time of a training step, memory of the
compiled step (on this CPU and, where libtpu is installed, on a TPU v5e), both stages of training,
accuracy and AUC on the test scans with intervals over patients, and one explained scan.

Accuracy on scans needs ImageNet weights: `weights=FOLDER` holds one file for each backbone, named
after it (`resnet50.weights.h5`, `mobilenetv3.safetensors`); a backbone without one is "not run: no
weights", unless `weights=random` asks for training from nothing. `quick=true` is the whole way in
minutes: phantoms, small images, few steps, random weights; its accuracies are SYNTHETIC and say
nothing of a backbone's worth.

Rounds of timing take turns between all backbones, so that a busy machine slows them alike. Run
again with the same words, it goes on where it was stopped.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import importlib.util
import io
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chz
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from folds import same_words
from memory import absent_tpu, measure
from rich.console import Console

from oct_jax import load
from oct_jax.commands import entry as command
from oct_jax.commands.evaluate import outputs_of
from oct_jax.commands.parsing import flatten, parse
from oct_jax.commands.train import train_stage
from oct_jax.commands.train_settings import read_settings
from oct_jax.data.datasets import PHANTOM
from oct_jax.data.preprocess import Preprocess, normalise
from oct_jax.decision.calibration import softmax
from oct_jax.files import read_json, write_atomic, write_json
from oct_jax.metrics.classification import bootstrap, figures
from oct_jax.model.backbones import BACKBONES, load_backbone
from oct_jax.model.fold import fold
from oct_jax.model.inference import make_forward
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Pretrained, build
from oct_jax.reports.overlay import encode_png, page
from oct_jax.runs.scans import select_scans
from oct_jax.task import KERMANY
from oct_jax.train.loss import class_weighted_loss
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
from oct_jax.types import UserError

QUICK = {
    "image_size": 64,
    "rounds": 3,
    "frozen_epochs": 2,
    "finetune_epochs": 1,
    "views": 1,
    "phantom_patients": 48,
    "batch_size": 8,
    "resamples": 200,
}
NO_WEIGHTS = "not run: no weights"
FORWARD_1, FORWARD_32, STEP = "forward 1", "forward 32", "step"
ORT_1, ORT_32 = "onnxruntime 1", "onnxruntime 32"
CALLS = {FORWARD_1: 8, FORWARD_32: 1, STEP: 1, ORT_1: 8, ORT_32: 1}


@chz.chz
class Bench:
    """Compare backbones: size, speed, memory, accuracy, an explanation."""

    out: str = chz.field(default="runs/backbones", doc="folder for results; continued if there")
    quick: bool = chz.field(default=False, doc="the whole way in minutes, on phantoms")
    only: str = chz.field(default=",".join(BACKBONES), doc="backbones, by commas")
    data: str = chz.field(default=PHANTOM, doc="a folder of scans, or phantom")
    weights: str | None = chz.field(
        default=None, doc="a folder of weight files named after backbones, or random"
    )
    image_size: int = chz.field(default=224, doc="side of the images, pixels")
    batch_size: int = chz.field(default=32, doc="scans in a training step")
    rounds: int = chz.field(default=5, doc="rounds of timing")
    frozen_epochs: int = chz.field(default=30, doc="of the first stage")
    finetune_epochs: int = chz.field(default=16, doc="of the second stage")
    learning_rate: float = chz.field(default=1e-3, doc="peak of the second stage")
    views: int = chz.field(default=5, doc="augmented versions in the feature cache")
    phantom_patients: int = chz.field(default=240, doc="synthetic patients")
    seed: int = chz.field(default=0, doc="of splits, order, augmentation, fresh weights")
    resamples: int = chz.field(default=1000, doc="draws of patients for the intervals")


def main(words: list[str]) -> None:
    """Measures, trains, then writes table and picture."""
    config = parse(Bench, words, QUICK if "quick=true" in words else {})
    out, console = Path(config.out), Console(soft_wrap=True, highlight=False)
    names = config.only.split(",")
    for name in names:
        if name not in BACKBONES:
            raise UserError(f"only={name}: choose among {', '.join(BACKBONES)}")
    out.mkdir(parents=True, exist_ok=True)
    same_words(out / "words.json", flatten(config))
    for name in names:
        (out / name).mkdir(exist_ok=True)
        once(out / name / "trained.json", lambda name=name: train_both(config, name, console))
        console.print(f"{name}: trained")
    measure_all(config, names, console)
    rows = [row_of(config, name) for name in names]
    write_results(config, rows)
    print("\n".join(to_markdown(config, rows)))


def once(path: Path, make: Callable[[], Any]) -> Any:
    """The JSON value of a file; made and written where there is none."""
    if not path.exists():
        write_json(path, make())
    return read_json(path)


# ---- training


def weights_of(config: Bench, name: str) -> str | None:
    """What `weights=` of the package is to say; None where there are none."""
    if config.data == PHANTOM or config.weights == "random":
        return "random"
    found = sorted(Path(config.weights).expanduser().glob(f"{name}.*")) if config.weights else []
    return str(found[0]) if found else None


def train_both(config: Bench, name: str, console: Console) -> dict[str, Any]:
    """Both stages, the test scans' figures with intervals, and one explained scan."""
    weights = weights_of(config, name)
    if weights is None:
        return {"status": NO_WEIGHTS}
    run, begun = Path(config.out) / name / "run", time.monotonic()
    shared = [f"run={run}", f"batch_size={config.batch_size}"]
    first = [
        f"backbone={name}",
        f"data={config.data}",
        f"weights={weights}",
        f"image_size={config.image_size}",
        f"phantom_patients={config.phantom_patients}",
        f"seed={config.seed}",
        f"epochs={config.frozen_epochs}",
        f"views={config.views}",
    ]
    train_stage(read_settings(["stage=frozen", *shared, *first]), console)
    rate = [f"epochs={config.finetune_epochs}", f"learning_rate={config.learning_rate}"]
    train_stage(read_settings(["stage=finetune", *shared, *rate]), console)
    seconds = time.monotonic() - begun

    classifier = load(run)
    scans = select_scans(run).scans
    probabilities = softmax(np.asarray(outputs_of(classifier, scans, threads=2).logits))
    truth = scans.labels

    def of(drawn: np.ndarray) -> dict[str, float | None]:
        found = figures(probabilities[drawn], truth[drawn], KERMANY.classes)
        return {name: found[name] for name in ("accuracy", "macro AUC")}

    patients = scans.patients
    intervals = bootstrap(patients, of, resamples=config.resamples, seed=0)
    scan = scans.read(int(np.flatnonzero(truth == KERMANY.classes.index("CNV"))[0]))
    explanation = classifier.explain(scan)
    marks = [f"{name}, trained as a bench"] + ["SYNTHETIC"] * classifier.synthetic
    picture = Path(config.out) / name / "explained.png"
    write_atomic(picture, encode_png(page(scan, explanation, marks)))
    return {
        "status": "SYNTHETIC" if classifier.synthetic else "real scans",
        "weights": weights,
        "scans": len(truth),
        "patients": len(set(patients)),
        "seconds": seconds,
        "figures": {
            name: {"value": value, "interval": intervals[name]}
            for name, value in of(np.arange(len(truth))).items()
        },
        "explained": {
            "cells": list(explanation.cells.shape),
            "peak": float(explanation.cells.max()),
        },
    }


# ---- measurements


def measure_all(config: Bench, names: list[str], console: Console) -> None:
    """What compilers say of each backbone, then rounds of timing that take turns."""
    out = Path(config.out)
    missing = [n for n in range(config.rounds) if not (out / f"round-{n}.json").exists()]
    if not missing and all((out / name / "compiled.json").exists() for name in names):
        return
    tasks = {}
    for name in names:
        begun = time.monotonic()
        tasks[name], described = prepare(config, name)
        write_json(out / name / "compiled.json", described)
        console.print(f"{name}: compiled in {time.monotonic() - begun:.0f} s")
    for number in missing:
        times = {}
        for task, calls in CALLS.items():
            for name in names:
                if task in tasks[name]:
                    times.setdefault(name, {})[task] = clock(tasks[name][task], calls)
        write_json(out / f"round-{number}.json", times)
        console.print(f"round {number + 1} of {config.rounds}")


def clock(function: Callable[[], Any], calls: int) -> float:
    """Milliseconds of one call."""
    begun = time.perf_counter()
    for _ in range(calls):
        function()
    return 1e3 * (time.perf_counter() - begun) / calls


def prepare(config: Bench, name: str) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """Everything of one backbone that is timed, compiled; and what the compilers say of it."""
    pretrained = load_backbone(
        name,
        "random",
        num_classes=len(KERMANY.classes),
        seed=config.seed,
        variant="large",
        width=1.0,
    )
    preprocess = Preprocess(size=config.image_size, mean=pretrained.mean, std=pretrained.std)
    shapes = build(pretrained.config).shapes.params
    tasks, described = forward_tasks(pretrained, preprocess)
    described |= {
        "parameters": {
            owner: sum(leaf.size for leaf in jax.tree.leaves(shapes[owner])) for owner in shapes
        }
    }
    tasks[STEP], temporaries = step_task(config, pretrained, preprocess)
    described["step_temporaries"] = temporaries
    described["tpu_peak"] = tpu_peak(config, pretrained, preprocess)
    try:
        tasks |= onnx_tasks(pretrained, preprocess)
        described["onnx"] = "works"
    except Exception as error:  # whatever the translator or the runtime raises
        described["onnx"] = f"export does not work: {reason_of(error)}"
    return tasks, described


def tpu_peak(config: Bench, pretrained: Pretrained, preprocess: Preprocess) -> int | str:
    """Bytes of a TPU v5e's memory that a training step takes, compiled for it; or why not."""
    if config.quick:
        return "not run: quick"
    if importlib.util.find_spec("libtpu") is None:
        return "not run: no libtpu"
    try:
        return measure(pretrained.config, absent_tpu(), config.batch_size, preprocess).peak
    except Exception as error:  # whatever libtpu raises
        return f"not run: {reason_of(error)}"


def reason_of(error: Exception) -> str:
    """One line on an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def forward_tasks(
    pretrained: Pretrained, preprocess: Preprocess
) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """The form that inference runs, from grey scans to logits, at both batch sizes."""
    variables, config = fold(pretrained.variables, pretrained.config)
    tasks: dict[str, Callable[[], Any]] = {}
    described: dict[str, Any] = {}
    size = preprocess.size
    for task, batch in ((FORWARD_1, 1), (FORWARD_32, 32)):
        scans = np.random.default_rng(0).integers(0, 256, (batch, size, size), np.uint8)
        compiled = make_forward(build(config), preprocess).lower(variables, scans).compile()
        described[f"{task} temporaries"] = compiled.memory_analysis().temp_size_in_bytes
        tasks[task] = lambda run=compiled, scans=scans: jax.block_until_ready(run(variables, scans))
        tasks[task]()
    # Counted before XLA rewrites the program, every convolution being one: as others count.
    counted = make_forward(build(as_convolutions(config)), preprocess)
    scan = jax.ShapeDtypeStruct((1, size, size), jnp.uint8)
    described["flops"] = counted.lower(variables, scan).cost_analysis()["flops"]
    return tasks, described


def as_convolutions(config: Any) -> Any:
    """The config whose program holds convolutions and not what replaces them on a CPU."""
    if isinstance(config, MobileNetV3Config):
        return dataclasses.replace(config, lowering="conv")
    return config


def step_task(
    config: Bench, pretrained: Pretrained, preprocess: Preprocess
) -> tuple[Callable[[], Any], int]:
    """One step of the second stage, BatchNorm in training form, AdamW."""
    optimizer = make_optimizer(finetune(), optax.constant_schedule(1e-4))
    rules = StepRules(train_backbone=True, update_statistics=True, precision="float32")
    loss = class_weighted_loss(np.ones(len(KERMANY.classes), np.float32), label_smoothing=0.1)
    one = make_train_step(build(pretrained.config), preprocess, optimizer, loss, rules)
    mesh, size = data_mesh(), preprocess.size
    rng = np.random.default_rng(0)
    batch = distribute(
        {
            "image": rng.integers(0, 256, (config.batch_size, size, size), np.uint8),
            "label": np.arange(config.batch_size, dtype=np.int32) % len(KERMANY.classes),
        },
        mesh,
    )
    copied = jax.tree.map(jnp.array, pretrained.variables)  # the step gives its state away
    state = replicate(initial_state(copied, optimizer, "float32"), mesh)
    key = run_key(0, mesh)
    step = jit_step(one, mesh).lower(state, batch, key).compile()

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, batch, key))

    run()
    return run, step.memory_analysis().temp_size_in_bytes


def onnx_tasks(pretrained: Pretrained, preprocess: Preprocess) -> dict[str, Callable[[], Any]]:
    """The network as jax2onnx translates it, without more, in onnxruntime; equal to JAX's."""
    import onnxruntime
    from jax2onnx import to_onnx

    variables, config = fold(jax.tree.map(np.asarray, pretrained.variables), pretrained.config)
    model, size = build(as_convolutions(config)), preprocess.size

    def logits(images: Any) -> Any:
        return model.head(variables, model.features(variables, images, train=False)[0])

    translated = to_onnx(logits, [("batch", size, size, preprocess.channels)])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        translated.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    entry = session.get_inputs()[0].name
    tasks = {}
    for task, batch in ((ORT_1, 1), (ORT_32, 32)):
        scans = np.random.default_rng(0).integers(0, 256, (batch, size, size), np.uint8)
        images = np.asarray(normalise(scans, preprocess))
        tasks[task] = lambda images=images: session.run(None, {entry: images})[0]
        found, expected = tasks[task](), np.asarray(jax.jit(logits)(images))
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        if not difference < 1e-3:
            raise ValueError(f"logits differ by {difference:.1e} of the largest")
    return tasks


# ---- results


def row_of(config: Bench, name: str) -> dict[str, Any]:
    """All that was found of one backbone."""
    out = Path(config.out)
    rounds = [read_json(out / f"round-{number}.json")[name] for number in range(config.rounds)]
    return {
        "backbone": name,
        **read_json(out / name / "compiled.json"),
        "ms": {task: [times[task] for times in rounds] for task in rounds[0]},
        "trained": read_json(out / name / "trained.json"),
    }


def told(row: dict[str, Any], config: Bench) -> dict[str, str]:
    """The cells of a backbone's row of the table."""
    trained = row["trained"]
    per_image = {FORWARD_1: 1, FORWARD_32: 32, STEP: config.batch_size, ORT_1: 1, ORT_32: 32}

    def ms(task: str) -> str:
        if task not in row["ms"]:
            return "export does not work"
        return f"{statistics.median(row['ms'][task]) / per_image[task]:.3g}"

    def figure(name: str) -> str:
        if "figures" not in trained:
            return trained["status"]
        found = trained["figures"][name]
        if found["value"] is None or found["interval"] is None:
            return "-"
        return "{:.3f} ({:.3f} to {:.3f})".format(found["value"], *found["interval"])

    mark = ", SYNTHETIC" if trained["status"] == "SYNTHETIC" else ""
    tpu = row["tpu_peak"]
    return {
        "backbone": row["backbone"],
        "parameters, M": f"{sum(row['parameters'].values()) / 1e6:.2f}",
        "GFLOP": f"{row['flops'] / 1e9:.3g}",
        "forward, batch 1": ms(FORWARD_1),
        "forward, batch 32": ms(FORWARD_32),
        "onnxruntime, batch 1": ms(ORT_1),
        "onnxruntime, batch 32": ms(ORT_32),
        "training step": ms(STEP),
        "step's temporaries, MB": f"{row['step_temporaries'] / 2**20:.0f}",
        "TPU peak, MB": tpu if isinstance(tpu, str) else f"{tpu / 1e6:.0f}",
        f"accuracy{mark}": figure("accuracy"),
        f"macro AUC{mark}": figure("macro AUC"),
    }


def write_results(config: Bench, rows: list[dict[str, Any]]) -> None:
    """`backbones.json`, `.csv`, `.md` and `.png`."""
    out, cells = Path(config.out), [told(row, config) for row in rows]
    write_json(out / "backbones.json", {"settings": flatten(config), "rows": rows})
    heads = list(dict.fromkeys(head for row in cells for head in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, heads)
    writer.writeheader()
    writer.writerows(cells)
    write_atomic(out / "backbones.csv", text.getvalue())
    write_atomic(out / "backbones.md", "\n".join(to_markdown(config, rows)) + "\n")
    draw(config, rows, out / "backbones.png")


def to_markdown(config: Bench, rows: list[dict[str, Any]]) -> list[str]:
    """The table, and under it what was not run and why."""
    cells = [told(row, config) for row in rows]
    heads = list(dict.fromkeys(head for row in cells for head in row))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "keras")]
    lines = [
        f"{config.image_size}x{config.image_size}, medians of {config.rounds} rounds, milliseconds"
        f" an image; training step of {config.batch_size}; {os.cpu_count()} cores of"
        f" {platform.machine()}, {', '.join(versions)}",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
        *("| " + " | ".join(row.get(head, "") for head in heads) + " |" for row in cells),
        "",
    ]
    lines += [f"- {row['backbone']}: {row['onnx']}" for row in rows if row["onnx"] != "works"]
    return lines


def draw(config: Bench, rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over latency at batch 1; backbones without accuracy stand below the axis."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
    synthetic = any(row["trained"]["status"] == "SYNTHETIC" for row in rows)
    for number, row in enumerate(rows):
        latency = statistics.median(row["ms"][FORWARD_1])
        found = row["trained"].get("figures", {}).get("accuracy")
        name = row["backbone"]
        if found is None:
            axis.axvline(latency, color="#b9c4cc", linewidth=1)
            place = axis.get_xaxis_transform()
            height = 0.02 + 0.3 * (number % 3)  # that names of like latency do not overlap
            label = f" {name}: no weights"
            axis.text(latency, height, label, rotation=90, fontsize=7, transform=place)
            continue
        value, ends = found["value"], found["interval"] or [found["value"]] * 2
        error = [[value - ends[0]], [ends[1] - value]]
        axis.errorbar(latency, value, error, fmt="o", color="#1b6ca8", capsize=3)
        axis.annotate(name, (latency, value), (6, 4), textcoords="offset points", fontsize=8)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("milliseconds for one image, JAX, this CPU")
    axis.set_ylabel("accuracy on test scans, 95 % interval")
    title = f"Backbones at {config.image_size}x{config.image_size}"
    axis.set_title(title + (": SYNTHETIC scans, a few steps" if synthetic else ""), fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    plt.close(figure)
    write_atomic(path, buffer.getvalue())


if __name__ == "__main__":
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    sys.exit(command.run(main))
