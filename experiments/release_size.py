"""What a data set of the release's size costs: audit, frozen stage, finetuning, and a resume.

    python experiments/release_size.py [scans=747,84000] [audit=100000] [steps=200] [views=1]
        [folder=FOLDER]

Makes synthetic grey 512x496 JPEGs on the fly, each another picture, four to a patient (2,000 files
take 100 MB); they are removed afterwards unless `folder=` names a place to keep them in. For every
number of scans, each in a process of its own as a user runs it:

- audit (for the numbers in `audit=` too): time, peak of resident memory;
- frozen stage, `views` augmented views, one epoch: time, memory, the feature cache on disk;
- finetuning (not with `steps=0`), killed after its second checkpoint, then resumed to its third:
  seconds before the first step, scans a second, memory, seconds before the first step after the
  kill.

The last column is over the first number of scans. Seconds to the first step are those to the first
checkpoint without as many steps as lie between the first and the second.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from oct_jax.commands.parsing import split_words
from oct_jax.data.phantom import draw_anatomy, phantom_scan
from oct_jax.task import KERMANY

DRAWN, FOR_EACH_PATIENT, BATCH = 64, 4, 32
DEFAULTS = {"scans": "747,84000", "audit": "", "steps": "200", "views": "1", "folder": ""}


@dataclass(frozen=True)
class Cost:
    """Of a process: seconds of wall and of CPU time, and the peak of its resident memory in MB."""

    wall: float
    cpu: float
    memory: float


def main(words: list[str]) -> None:
    """Makes scans, measures, prints a table."""
    given = DEFAULTS | split_words(words)
    counts = [int(count) for count in given["scans"].split(",")]
    audited = [int(count) for count in given["audit"].split(",") if count]
    rows: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given["folder"] or temporary)
        for count in sorted({*counts, *audited}):
            root = folder / f"scans-{count}"
            begun = time.perf_counter()
            write_scans(root, count)
            print(f"{count} JPEGs there after {time.perf_counter() - begun:.0f} s", flush=True)
            note = recorder(rows, count)
            note_cost(note, "audit", measure(["oct_jax.data", "audit", str(root)], folder))
            if count in counts:
                run = folder / f"run-{count}"
                shutil.rmtree(run, ignore_errors=True)
                measure_training(note, root, run, int(given["steps"]), given["views"])
            if not given["folder"]:
                shutil.rmtree(root)
    show(rows, sorted({*counts, *audited}))


def write_scans(root: Path, count: int) -> None:
    """Writes phantoms, each moved and shaded in its own way, unless they are there."""
    if root.exists():
        return
    drawn = []
    for number in range(DRAWN):
        rng = np.random.default_rng(number)
        label = KERMANY.classes[number % len(KERMANY.classes)]
        drawn.append(cv2.resize(phantom_scan(label, rng, draw_anatomy(rng)).image, (512, 496)))

    def write(number: int) -> None:
        patient = number // FOR_EACH_PATIENT
        label = KERMANY.classes[patient % len(KERMANY.classes)]
        rng = np.random.default_rng([1, number])
        picture = drawn[rng.integers(DRAWN // 4) * 4 + patient % 4]
        moved = np.roll(picture, rng.integers(-20, 20), 0)[:, :: rng.choice([-1, 1])]
        shaded = cv2.convertScaleAbs(moved, alpha=rng.uniform(0.8, 1.2), beta=rng.uniform(-10, 10))
        noise = rng.integers(0, 12, (62, 64), np.uint8)
        shaded = cv2.add(shaded, cv2.resize(noise, (512, 496), interpolation=cv2.INTER_LINEAR))
        path = unfinished / label / f"{label}-{patient + 1}-{number % FOR_EACH_PATIENT + 1}.jpeg"
        cv2.imwrite(str(path), shaded, [cv2.IMWRITE_JPEG_QUALITY, 75])

    unfinished = root.with_name(f"{root.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for label in KERMANY.classes:
        (unfinished / label).mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(count)))
    unfinished.rename(root)


def measure_training(
    note: Callable[[str, float], None], root: Path, run: Path, steps: int, views: str
) -> None:
    """Both stages of one run."""
    words = ["oct_jax.train", f"run={run}", f"batch_size={BATCH}"]
    frozen = ["stage=frozen", f"data={root}", f"views={views}", "epochs=1", "weights=starter"]
    note_cost(note, "frozen stage", measure([*words, *frozen], run.parent))
    cache = sum(path.stat().st_size for path in run.glob("frozen/features-*.npy"))
    note("frozen stage: feature cache, MB", cache / 2**20)
    if not steps:
        return
    finetune = [*words, "stage=finetune", "epochs=1000", f"checkpoint_steps={steps}"]
    first, second, cost = until_checkpoints(finetune, run, 2)
    note("finetuning: scans/s", steps * BATCH / (second - first))
    note("finetuning: s to the first step", first - (second - first))
    note("finetuning: peak memory, MB", cost.memory)
    again, _ = until_checkpoints(finetune, run, 1)
    note("resumed: s to the first step", again - (second - first))


def until_checkpoints(words: list[str], run: Path, count: int) -> tuple:
    """Trains until so many new checkpoints are there, then kills.

    Returns:
      Of each checkpoint the seconds from the start; then the `Cost`.
    """
    saved = run / "finetune" / "last"
    before = {path.name for path in saved.glob("[0-9]*")}
    begun, reached = time.perf_counter(), []
    process = start(words, run.parent)
    while len(reached) < count:
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(words)}: ended early; see {run.parent / 'log.txt'}")
        new = {path.name for path in saved.glob("[0-9]*") if path.name.isdigit()} - before
        if new:
            reached.append(time.perf_counter() - begun)
            before |= new
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    return *reached, wait(process, begun)


def start(words: list[str], folder: Path) -> subprocess.Popen:
    """A module of the package in a process; its output goes to a file."""
    with (folder / "log.txt").open("a") as log:
        command = [sys.executable, "-m", *words]
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def wait(process: subprocess.Popen, begun: float) -> Cost:
    """What a process has cost when it ends."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begun
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10)


def measure(words: list[str], folder: Path) -> Cost:
    """Runs a module of the package to its end."""
    begun = time.perf_counter()
    process = start(words, folder)
    cost = wait(process, begun)
    if process.returncode not in (0, 1):  # an audit that finds something ends with 1
        raise SystemExit((folder / "log.txt").read_text()[-2000:])
    return cost


def recorder(rows: dict[str, dict[int, float]], count: int) -> Callable[[str, float], None]:
    """A function that keeps a value of this number of scans, and prints it."""

    def note(name: str, value: float) -> None:
        rows.setdefault(name, {})[count] = value
        print(f"{count} scans, {name}: {value:.1f}", flush=True)

    return note


def note_cost(note: Callable[[str, float], None], name: str, cost: Cost) -> None:
    """Keeps the three figures of a process."""
    note(f"{name}: wall s", cost.wall)
    note(f"{name}: CPU s", cost.cpu)
    note(f"{name}: peak memory, MB", cost.memory)


def show(rows: dict[str, dict[int, float]], counts: list[int]) -> None:
    """Prints the table."""
    print(f"\n| | {' | '.join(f'{count} scans' for count in counts)} | last / first |")
    print("|---" * (len(counts) + 2) + "|")
    for name, values in rows.items():
        cells = [f"{values[count]:.1f}" if count in values else "" for count in counts]
        known = list(values.values())
        print(f"| {name} | {' | '.join(cells)} | {known[-1] / known[0]:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
