"""The commands that the campaign interrupts: how each is run, and what it must leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fault_parts.tally import Tally
from oct_jax import CLASSES, UserError, load
from oct_jax.data.phantom import phantom_scans
from oct_jax.data.prepared import open_prepared
from oct_jax.export.verify import SUMS, check_files
from oct_jax.files import read_json
from oct_jax.model.protocol import fingerprint_of

TRAIN = [
    "data=phantom",
    "phantom_patients=24",
    "width=0.25",
    "variant=large_minimalistic",
    "image_size=32",
    "batch_size=8",
    "checkpoint_steps=1",
]
_FINETUNE = ["batch_size=8", "checkpoint_steps=1", "epochs=2"]
_MINE = "mine.txt"


@dataclass(frozen=True)
class Work:
    """One command.

    Attributes:
      words: after `python -m`, for the folder that it works in.
      digest: of what it leaves there; equal for equal results.
      starts_from: the command whose result must be there first; "": none.
    """

    words: Callable[[Path], list[str]]
    digest: Callable[[Path], str]
    starts_from: str = ""


def _hash(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _trained(folder: Path, stage: str) -> str:
    """Of the weights, the rule and the rows of a stage, without its speed."""
    run = folder / "run"
    loaded = load(run)
    rows = [
        {name: value for name, value in row.items() if name != "images_per_second"}
        for row in map(json.loads, (run / stage / "metrics.jsonl").read_text().splitlines())
    ]
    rule = (run / stage / "decision" / "rule.json").read_bytes()
    return _hash((loaded.stage, fingerprint_of(loaded.variables), rows, rule))


def _prepared(folder: Path) -> str:
    source = open_prepared(folder / "prepared")
    scans = [source.read(index).tobytes() for index in range(len(source.records))]
    return _hash((source.records, scans))


def _evaluated(folder: Path) -> str:
    report = read_json(folder / "run" / "evaluation" / "report.json") | {"run": ""}
    return _hash((report, (folder / "run" / "evaluation" / "predictions.csv").read_bytes()))


def _exported(folder: Path) -> str:
    return _hash((folder / "run" / "export" / SUMS).read_bytes())


WORKS = {
    "frozen": Work(
        lambda at: [
            "oct_jax.train",
            "stage=frozen",
            f"run={at}/run",
            "epochs=2",
            "views=1",
            *TRAIN,
        ],
        lambda at: _trained(at, "frozen"),
    ),
    "finetune": Work(
        lambda at: ["oct_jax.train", "stage=finetune", f"run={at}/run", *_FINETUNE],
        lambda at: _trained(at, "finetune"),
        "frozen",
    ),
    "prepare": Work(
        lambda at: ["oct_jax.data", "prepare", f"{at}/scans", f"out={at}/prepared"], _prepared
    ),
    "evaluate": Work(
        lambda at: ["oct_jax.evaluate", f"run={at}/run", "resamples=50"], _evaluated, "frozen"
    ),
    "export": Work(lambda at: ["oct_jax.export", f"run={at}/run"], _exported, "frozen"),
}


def begin(name: str, folder: Path, references: Path) -> None:
    """Fills a new folder with what a command starts from, and with files of the user's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MINE).write_text("mine")
    before = WORKS[name].starts_from
    if before:
        shutil.copytree(references / before / "run", folder / "run")
        (folder / "run" / _MINE).write_text("mine")
    elif name == "prepare":
        write_scans(folder / "scans")


def write_scans(root: Path) -> None:
    """A folder of phantoms as PNG files, named as Kermany's are."""
    source = phantom_scans(patients=24, seed=0)
    for index, record in enumerate(source.records):
        label = CLASSES[source.labels[index]]
        path = root / label / f"{label}-{record.patient.rpartition('-')[2]}-{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(index)).save(path)


def start(name: str, folder: Path) -> subprocess.Popen[str]:
    """Starts a command, its output caught."""
    return subprocess.Popen(
        [sys.executable, "-m", *WORKS[name].words(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        start_new_session=True,
    )


def kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """Kills a command and all that it started with SIGKILL; False where it had ended before."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    process.communicate()
    return False


def finish(tally: Tally, name: str, folder: Path, label: str, *, codes: tuple[int, ...]) -> int:
    """Runs a command to its end; another exit code than these, or a traceback, is a slip."""
    return judge(tally, start(name, folder), label, codes=codes)


def judge(
    tally: Tally, process: subprocess.Popen[str], label: str, *, codes: tuple[int, ...]
) -> int:
    """Waits for a command; another exit code, or an error of several lines, is a slip."""
    tally.tried += 1
    _, errors = process.communicate()
    code = process.returncode
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    if code == 2:
        tally.refused += 1
    if code not in codes or "Traceback" in errors or (code == 2 and len(lines) != 1):
        tally.add("tracebacks", f"{label}: exit code {code}: {errors[-250:]}")
    return code


def check_left(tally: Tally, name: str, folder: Path, label: str) -> None:
    """After an interruption: files under their final names are whole, the user's are there."""
    for path in folder.rglob("*.json"):
        if not _is_temporary(path.relative_to(folder)):
            try:
                json.loads(path.read_bytes())
            except ValueError:
                tally.add("half_written", f"{label}: {path.relative_to(folder)}")
    out = folder / "run" / "export"
    try:
        if out.exists() and check_files(out):
            tally.add("half_written", f"{label}: {check_files(out)[0]}")
        if (folder / "prepared").exists():
            _prepared(folder)
    except (OSError, UserError) as error:
        tally.add("half_written", f"{label}: {error}")
    check_mine(tally, name, folder, label)


def check_mine(tally: Tally, name: str, folder: Path, label: str) -> None:
    """The files of the user's are as they were."""
    places = [folder / _MINE, *([folder / "run" / _MINE] if WORKS[name].starts_from else [])]
    for path in places:
        if not path.is_file() or path.read_text() != "mine":
            tally.add("lost", f"{label}: {path.relative_to(folder)}")


def check_result(tally: Tally, name: str, folder: Path, label: str, wanted: str) -> None:
    """After the rerun: the same bits as undisturbed, and nothing temporary is left."""
    try:
        if WORKS[name].digest(folder) != wanted:
            tally.add("wrong", f"{label}: other bits than without the fault")
    except (OSError, UserError) as error:
        tally.add("wrong", f"{label}: {error}")
    left = [path.relative_to(folder) for path in folder.rglob("*") if path.name != _MINE]
    for path in [path for path in left if _is_temporary(path) and not _is_temporary(path.parent)]:
        tally.add("half_written", f"{label}: {path} is left after the rerun")
    check_mine(tally, name, folder, label)


def duration(name: str, folder: Path) -> float:
    """Seconds of an undisturbed command.

    Raises:
      UserError: it fails.
    """
    started = time.perf_counter()
    tally = Tally()
    finish(tally, name, folder, name, codes=(0,))
    if tally.slips:
        raise UserError(f"{name}: fails without any fault: {tally.examples[0]}")
    return time.perf_counter() - started


def _is_temporary(path: Path) -> bool:
    return any(part.startswith(".") or "-tmp-" in part for part in path.parts)
