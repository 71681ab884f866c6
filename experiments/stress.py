"""Accuracy when test scans are disturbed, severity 1 to 5.

    python experiments/stress.py run=runs/real out=runs/real/stress

Every test scan of the run is disturbed at its full size, then goes through the run's own
preprocessing. Prints a table, draws curves.png. A disturbance whose curve falls early tells what
the model leans on; the severities are ours, and comparable between models only.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from rich.progress import track

from oct_jax import KERMANY, UserError, load
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.files import write_atomic, write_json
from oct_jax.runs.scans import select_scans

Disturbance = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def speckle(scan: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Multiplicative noise of standard deviation 0.1 to 0.5."""
    factor = 1 + 0.1 * severity * rng.standard_normal(scan.shape)
    return np.clip(scan * factor, 0, 255).astype(np.uint8)


def blur(scan: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian of standard deviation 1 to 5 pixels."""
    return cv2.GaussianBlur(scan, (0, 0), severity)


def gamma_up(scan: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Darker: gamma 1.3 to 3.7."""
    return _gamma(scan, 1.3**severity)


def gamma_down(scan: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Brighter: gamma 0.77 to 0.27."""
    return _gamma(scan, 1.3**-severity)


def crop(scan: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """5 to 25 % of each side lost, half of it at either end."""
    rows, columns = (round(0.025 * severity * side) for side in scan.shape)
    return scan[rows : scan.shape[0] - rows, columns : scan.shape[1] - columns]


def shift(scan: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Moved by 4 to 20 % of the height and width, black behind it."""
    height, width = scan.shape
    signs = rng.choice([-1, 1], 2)
    move = np.array(
        [[1, 0, 0.04 * severity * width * signs[0]], [0, 1, 0.04 * severity * height * signs[1]]]
    )
    return cv2.warpAffine(scan, move, (width, height))


def jpeg(scan: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """JPEG of quality 50, 30, 15, 8, 4."""
    quality = (50, 30, 15, 8, 4)[severity - 1]
    coded = cv2.imencode(".jpg", scan, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)


def white_border(scan: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """White wedges at top and bottom, up to 6 to 30 % of the height, as registration leaves."""
    height, width = scan.shape
    deep = round(0.06 * severity * height)
    disturbed = scan.copy()
    cv2.fillPoly(disturbed, [np.array([[0, 0], [width, 0], [width, deep]])], 255)
    cv2.fillPoly(disturbed, [np.array([[0, height], [width, height], [0, height - deep]])], 255)
    return disturbed


def resolution(scan: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Reduced to 1/2 ... 1/6 of its resolution."""
    size = tuple(max(8, side // (severity + 1)) for side in scan.shape[::-1])
    return cv2.resize(scan, size, interpolation=cv2.INTER_AREA)


def aspect(scan: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The middle of the width alone: 90 to 50 % of it, so that a squash widens what is left."""
    cut = round(0.05 * severity * scan.shape[1])
    return scan[:, cut : scan.shape[1] - cut]


DISTURBANCES: dict[str, Disturbance] = {
    "speckle": speckle,
    "blur": blur,
    "gamma, darker": gamma_up,
    "gamma, brighter": gamma_down,
    "crop": crop,
    "shift": shift,
    "JPEG quality": jpeg,
    "white borders": white_border,
    "resolution": resolution,
    "aspect": aspect,
}


def main(words: list[str]) -> None:
    """Disturbs, predicts, prints and draws."""
    given = {"out": ""} | split_words(words)
    if "run" not in given:
        raise UserError("run=: is missing")
    run = Path(given["run"])
    out = Path(given["out"] or run / "stress")
    classifier = load(run)
    source = select_scans(run).scans
    scans = [source.read(index) for index in range(len(source))]
    plain = accuracy(classifier.predict(scans), source.labels)
    rows: dict[str, list[float]] = {}
    deferred: dict[str, list[float]] = {}
    for name, disturb in track(DISTURBANCES.items(), "disturbing"):
        for severity in range(1, 6):
            rng = np.random.default_rng(severity)
            said = classifier.predict([disturb(scan, severity, rng) for scan in scans])
            rows.setdefault(name, [plain]).append(accuracy(said, source.labels))
            waits = [one.decision is not None and one.decision.referral == "defer" for one in said]
            deferred.setdefault(name, []).append(float(np.mean(waits)))
    out.mkdir(parents=True, exist_ok=True)
    mark = "SYNTHETIC " if classifier.synthetic else ""
    told = {"synthetic": classifier.synthetic, "scans": len(scans)}
    write_json(out / "stress.json", told | {"accuracy": rows, "deferred": deferred})
    write_atomic(out / "curves.png", draw(rows, f"{mark}{run}: {len(scans)} test scans"))
    print(f"{mark}{len(scans)} test scans of {run}; accuracy, and share deferred at severity 5\n")
    print("| disturbance | none | 1 | 2 | 3 | 4 | 5 | deferred at 5 |\n" + "|---" * 8 + "|")
    for name, row in rows.items():
        told = " | ".join(f"{value:.3f}" for value in row)
        print(f"| {name} | {told} | {deferred[name][-1]:.2f} |")


def accuracy(said: list, truth: np.ndarray) -> float:
    """Of predictions."""
    right = [one.label == KERMANY.classes[label] for one, label in zip(said, truth, strict=True)]
    return float(np.mean(right))


def draw(rows: dict[str, list[float]], title: str) -> bytes:
    """Accuracy over severity, a panel for each disturbance."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = figure.subplots(2, 5, sharex=True, sharey=True).ravel()
    for axes, (name, row) in zip(panels, rows.items(), strict=True):
        axes.plot(range(6), row, marker="o", color="#087e8b")
        axes.axhline(0.25, color="#c1c1c1", linestyle="--")
        axes.set(title=name, ylim=(0, 1.03))
    figure.supxlabel("severity (dashed: chance)")
    figure.supylabel("accuracy")
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def _gamma(scan: np.ndarray, power: float) -> np.ndarray:
    table = np.rint(255 * (np.arange(256) / 255) ** power).astype(np.uint8)
    return table[scan]


if __name__ == "__main__":
    sys.exit(command.run(main))
