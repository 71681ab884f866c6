"""What is timed, and how: tasks, contenders, medians."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from oct_jax.data.preprocess import Preprocess
from oct_jax.train.loss import class_weighted_loss

SIZE, BATCH = 224, 32
LOSS = class_weighted_loss(np.ones(4, np.float32), label_smoothing=0.1)
PREPROCESS = Preprocess(size=SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TASKS = {"forward 1": 1, "forward 32": BATCH, "step 32": BATCH}

Task = Callable[[int], tuple[float, float]]
"""Runs a task so many times; returns the seconds that one took, and of CPU time on all cores."""
Times = dict[str, dict[str, list[tuple[float, float]]]]
"""Task -> contender -> milliseconds for an image, of wall and of CPU time, one pair a round."""


@dataclass(frozen=True)
class Contender:
    """One implementation: its tasks by name, and its training step's compiled temporaries."""

    tasks: dict[str, Task]
    temporary: int | None = None


def repeat(function: Callable[[], Any]) -> Task:
    """A task whose every call waits for its result."""

    def run(calls: int) -> tuple[float, float]:
        begun, spent = time.perf_counter(), time.process_time()
        for _ in range(calls):
            jax.block_until_ready(function())
        wall, cpu = time.perf_counter() - begun, time.process_time() - spent
        return wall / calls, cpu / calls

    return run


def measure(contenders: dict[str, Contender], rounds: int, tasks: list[str]) -> Times:
    """Times the tasks of every contender that has them, in turns; about half a second each."""
    times: Times = {}
    for task in tasks:
        able = {name: one.tasks[task] for name, one in contenders.items() if task in one.tasks}
        slow = {name: min(run(1)[0] for _ in range(2)) for name, run in able.items()}
        for _ in range(rounds):
            for name, run in able.items():
                wall, cpu = run(max(1, min(30, round(0.5 / slow[name]))))
                pair = 1e3 * wall / TASKS[task], 1e3 * cpu / TASKS[task]
                times.setdefault(task, {}).setdefault(name, []).append(pair)
    return times


def medians(values: list[tuple[float, float]]) -> tuple[float, float]:
    """Of wall and of CPU time."""
    walls, cpus = zip(*values, strict=True)
    return statistics.median(walls), statistics.median(cpus)
