"""How fast scans become batches: ours against torchvision v2 in a DataLoader, in one run.

    python experiments/pipeline.py peers=/path/to/python-with-torch

Both sides make the same: decode, resize to 224 by antialiased bicubic, flip, rotate by up to 10
degrees, change brightness and contrast, z-score, batches of 32. Measurements take turns, so that a
busy machine is unfair to nobody; the median of the rounds counts, and torchvision's best worker
count. Both draw from a list as long as Kermany's, in which 320 pictures stand again and again (a
short list is no easier: Grain's shuffle of few elements costs 60 microseconds, of many, one). Both
read and decode a scan each time it is drawn: the memory in which our loader keeps small training
sets is turned off, but for the one row that says so.
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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import cv2
import jax
import numpy as np
from PIL import Image

from oct_jax.commands.parsing import split_words
from oct_jax.data import loader
from oct_jax.data.datasets import open_data
from oct_jax.data.loader import prefetch, training_stream
from oct_jax.data.phantom import draw_anatomy, phantom_scan
from oct_jax.data.prepare import prepare
from oct_jax.data.preprocess import Preprocess, normalise
from oct_jax.data.scans import Scans
from oct_jax.data.strengths import Augment
from oct_jax.task import KERMANY

BATCH, SIZE, SCANS = 32, 224, 320
REPEATS = 262  # 83,840 list entries
PREPROCESS = Preprocess(size=SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# What torchvision is given too: flips, rotations and levels of grey.
OFF = ("shear", "axial", "squeeze", "stretch", "shift", "blur", "shade", "grain", "gamma", "jpeg")
STRENGTHS = Augment(**dict.fromkeys((*OFF, "crop", "wedge"), 0.0))
WORKERS = (0, 1, 2)

TORCHVISION = """
import sys, time
from pathlib import Path
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

class Scans(torch.utils.data.Dataset):
    def __init__(self, root, repeats):
        self.paths = sorted(Path(root).rglob("*.jpeg")) * int(repeats)
        self.classes = sorted({path.parent.name for path in self.paths})
        self.transform = v2.Compose([
            v2.ToImage(),
            v2.Resize((224, 224), InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(10, InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.1, contrast=0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Grayscale(3),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, index):
        path = self.paths[index]
        return self.transform(Image.open(path)), self.classes.index(path.parent.name)

if __name__ == "__main__":
    root, repeats, workers, seconds = sys.argv[1:5]
    workers, seconds = int(workers), float(seconds)
    loader = torch.utils.data.DataLoader(
        Scans(root, repeats), 32, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0)
    def endless():
        while True:
            yield from loader
    batches = endless()
    for _ in range(3):
        next(batches)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        count += len(next(batches)[1])
    print(count / (time.perf_counter() - began), flush=True)
"""
RETINA = replace(PREPROCESS, resize="retina")
FORMS = {"folder": "512x496 JPEGs", "records": "prepared records", "cache": "prepared cache"}
SQUASHED, WINDOWED = "ours, 512x496 JPEGs", "ours, 512x496 JPEGs, resize=retina"
KEPT = "ours, any form, later epochs of up to 21,000 scans: kept in memory"


def main(words: list[str]) -> None:
    """Makes scans, measures in turns, prints a table."""
    given = {"peers": "", "rounds": "5", "seconds": "4", "reads": "100000"} | split_words(words)
    seconds, rounds = float(given["seconds"]), int(given["rounds"])
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions_here()}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_scans(root / "folder")
        prepare(str(root / "folder"), root / "records")
        prepare(str(root / "folder"), root / "cache", cache=PREPROCESS)
        rates: dict[str, list[float]] = {}
        for _ in range(rounds):
            for form, told in FORMS.items():
                rates.setdefault(f"ours, {told}", []).append(ours(root / form, seconds, kept=False))
            rate = ours(root / "folder", seconds, kept=False, preprocess=RETINA)
            rates.setdefault(WINDOWED, []).append(rate)
            kept = ours(root / "folder", seconds, kept=True)
            rates.setdefault(KEPT, []).append(kept)
            for workers in WORKERS if given["peers"] else ():
                name = f"torchvision, 512x496 JPEGs, {workers} workers"
                rate = torchvision(given["peers"], root, workers, seconds)
                rates.setdefault(name, []).append(rate)
        show(rates)
        show_memory(root / "records", int(given["reads"]))


def versions_here() -> str:
    """Versions of what our side stands on."""
    names = ("jax", "grain", "opencv-python-headless", "pillow", "numpy")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def write_scans(root: Path) -> None:
    """Writes synthetic scans as grey 512x496 JPEGs, one for each patient."""
    for number in range(SCANS):
        label = KERMANY.classes[number % len(KERMANY.classes)]
        rng = np.random.default_rng(number)
        scan = cv2.resize(phantom_scan(label, rng, draw_anatomy(rng)).image, (512, 496))
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(scan).save(
            root / label / f"{label}-{number}-1.jpeg", quality=75
        )  # as large as the real ones


def open_train(path: Path, repeats: int) -> Scans:
    """All scans of a data set, as training scans, one list of them behind the other."""
    data = open_data(str(path), manifest=None, on_bad_scan="refuse", seed=0, phantom_patients=24)
    records = tuple(replace(record, split="train") for record in data.records)
    source = replace(data, records=records)
    lists = [name for name in ("records", "places", "rows") if hasattr(source, name)]
    return replace(source, **{name: getattr(source, name) * repeats for name in lists})


def batches_of(source: Scans, preprocess: Preprocess) -> Iterator[jax.Array]:
    """Training batches as the model eats them."""
    stream = training_stream(source, preprocess, STRENGTHS, batch_size=BATCH, seed=0)
    to_input = jax.jit(lambda images: normalise(images, preprocess))
    for batch in prefetch(stream, threads=os.cpu_count() or 1):
        yield to_input(batch["image"])


def ours(path: Path, seconds: float, *, kept: bool, preprocess: Preprocess = PREPROCESS) -> float:
    """Scans a second of our loader, the z-score included.

    `kept` reads a short list, which the loader keeps in memory; the epoch that fills the memory
    is not timed. Otherwise every scan is read and decoded each time it is drawn.
    """
    source = open_train(path, 1 if kept else REPEATS)
    with mock.patch.object(loader, "MEMORY_BYTES", loader.MEMORY_BYTES if kept else 0):
        batches = batches_of(source, preprocess)
        for _ in range(2 + SCANS // BATCH):
            next(batches).block_until_ready()
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            count += len(next(batches).block_until_ready())
        return count / (time.perf_counter() - began)


def torchvision(python: str, root: Path, workers: int, seconds: float) -> float:
    """Scans a second of a DataLoader, in a process of its own."""
    script = root / "torchvision_loader.py"
    script.write_text(TORCHVISION)
    words = [python, str(script), str(root / "folder"), str(REPEATS), str(workers), str(seconds)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def show(rates: dict[str, list[float]]) -> None:
    """Prints the median rate of each, and its ratio to the best of torchvision."""
    median = {name: statistics.median(found) for name, found in rates.items()}
    peers = [rate for name, rate in median.items() if name.startswith("torchvision")]
    print("| pipeline | images/s | lowest to highest | / torchvision's best |\n|---|---|---|---|")
    for name, rate in median.items():
        ratio = f"{rate / max(peers):.2f}" if peers else "-"
        print(
            f"| {name} | {rate:.0f} | {min(rates[name]):.0f} to {max(rates[name]):.0f} | {ratio} |"
        )
    print(f"resize=retina / squash: {median[WINDOWED] / median[SQUASHED]:.2f}")
    if not peers:
        print("no torchvision: name a Python that has torch and torchvision with peers=PYTHON")


def show_memory(path: Path, reads: int) -> None:
    """Reads records again and again, and prints the memory that the process holds."""
    source = open_train(path, 1)
    print("\n| records read | resident memory, MB |\n|---|---|")
    for number in range(1, reads + 1):
        source.read(number % len(source))
        if number % max(reads // 5, 1) == 0:
            print(f"| {number} | {resident_megabytes():.0f} |", flush=True)


def resident_megabytes() -> float:
    """Memory of this process, as Linux counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main(sys.argv[1:])
