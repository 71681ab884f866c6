"""The frozen stage with cached features, over one forward pass."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from speed_parts.timing import BATCH, LOSS, PREPROCESS

from oct_jax.data.loader import feature_stream, prefetch
from oct_jax.data.phantom import draw_anatomy, phantom_scan
from oct_jax.data.scans import Scans, from_arrays
from oct_jax.data.strengths import Augment
from oct_jax.model.fold import fold
from oct_jax.model.inference import predict_source
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import build
from oct_jax.task import KERMANY
from oct_jax.train.feature_cache import cached_views
from oct_jax.train.optimizer import make_optimizer
from oct_jax.train.settings import frozen
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

SCANS, EPOCHS = 320, 10


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
