"""The offline page in Chromium: ready time, time a scan, memory, and agreement with Python.

    python experiments/viewer.py PAGE MODEL SCANS

PAGE is what `just viewer` wrote of MODEL (a run, a model file, or a name such as starter); SCANS is
a folder ROOT/CLASS/*.jpeg. Needs Chromium, Node.js, and OCT_NODE_MODULES with playwright-core.
Prints one JSON line.
"""

import json
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
        for part in (chosen[:FEW], chosen[FEW:]):
            begun = time.perf_counter()
            browser("choose", files=[str(path) for path in part])
            seconds.append((time.perf_counter() - begun) / len(part))
            memory.append(renderer_megabytes(browser.pid))
        results = dict(browser("evaluate", script=RESULTS))
    finally:
        browser.close()
    measured = {
        "status": status,
        "page, MB": round(page.stat().st_size / 1e6, 1),
        "ready, ms": ready,
        f"ms a scan, first {FEW}": round(1e3 * seconds[0], 1),
        f"ms a scan, next {MANY - FEW}": round(1e3 * seconds[1], 1),
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
    """Proportional set size of the largest process below the driver: that of the page."""
    sizes = [0]
    for pid in descendants(driver):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"--type=renderer" in command:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            sizes.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")))
    return max(sizes) // 1024


def descendants(pid: int) -> list[int]:
    """All processes below one, as Linux lists them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in children for each in (int(child), *descendants(int(child)))]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
