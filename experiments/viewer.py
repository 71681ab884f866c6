"""The offline page in Chromium: ready time, time a scan, memory, and agreement with Python.

    python experiments/viewer.py PAGE MODEL SCANS

PAGE is what `just viewer` wrote of MODEL (a run, a model file, or a name such as starter); SCANS is
a folder ROOT/CLASS/*.jpeg. Needs Chromium, Node.js, and OCT_NODE_MODULES with playwright-core.
Prints one JSON line.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from oct_jax.runs.load import load

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from viewer_browser import Browser

FEW, MANY = 40, 500
RESULTS = "self.viewer.queue.entries.map(({ name, result }) => [name, result])"


def main(page: Path, model: str, root: Path) -> None:
    """Prints the measurements."""
    paths = sorted(root.glob("*/*.jp*g"))
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, MANY).astype(int)]
    browser = Browser()
    try:
        status = browser.open(page.resolve())
        ready = int(browser("evaluate", script="document.documentElement.dataset.readyMs"))
        memory, seconds = [renderer_megabytes(browser.pid)], []
        processor = [renderer_seconds(browser.pid)]
        for part in (chosen[:FEW], chosen[FEW:]):
            begun = time.perf_counter()
            browser("choose", files=[str(path) for path in part])
            seconds.append((time.perf_counter() - begun) / len(part))
            browser("collect")
            memory.append(renderer_megabytes(browser.pid))
            processor.append(renderer_seconds(browser.pid))
        results = dict(browser("evaluate", script=RESULTS))
    finally:
        browser.close()
    measured = {
        "status": status,
        "page, MB": round(page.stat().st_size / 1e6, 1),
        "ready, ms": ready,
        f"ms a scan, first {FEW}": round(1e3 * seconds[0], 1),
        f"ms a scan, next {MANY - FEW}": round(1e3 * seconds[1], 1),
        "processor seconds until ready": round(processor[0], 2),
        "processor ms a scan": round(1e3 * (processor[2] - processor[0]) / MANY, 1),
        f"memory at start, after {FEW}, after {MANY}, MB": memory,
    }
    print(json.dumps(measured | compare(load(model), chosen[:FEW], results)))


def compare(classifier, paths: list[Path], results: dict[str, dict]) -> dict:
    """How far the page's answers, by file name, are from Python's."""
    predictions = classifier.predict(paths)
    differences, same = [], 0
    for path, prediction in zip(paths, predictions, strict=True):
        result = results[path.name]
        differences.append(np.abs(result["probabilities"] - prediction.probabilities).max())
        decision = prediction.decision
        same += (result["referral"], result["set"]) == (decision.referral, list(decision.classes))
    return {
        "largest difference of a probability": float(max(differences)),
        f"same referral and set, of {len(paths)}": same,
    }


def renderer_megabytes(driver: int) -> int:
    """Proportional set size of the page's process."""
    lines = Path(f"/proc/{renderer(driver)}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) // 1024


def renderer_seconds(driver: int) -> float:
    """Processor time of the page's process so far: other programs lengthen it little."""
    fields = Path(f"/proc/{renderer(driver)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def renderer(driver: int) -> int:
    """The process of the page, below the driver: the renderer that has worked most."""
    found = {}
    for pid in descendants(driver):
        if b"--type=renderer" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
    return max(found, key=found.__getitem__)


def descendants(pid: int) -> list[int]:
    """All processes below one, as Linux lists them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in children for each in (int(child), *descendants(int(child)))]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
