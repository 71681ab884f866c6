"""The commands that the campaign interrupts: how each is run, and what it must leave behind.

Commands are forked from a process that has imported everything and has no backend of JAX: they
begin with their work at once, which is where an interruption can do harm.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from fault_parts.tally import Tally
from oct_jax import UserError, load
from oct_jax.commands import cli, entry
from oct_jax.data.phantom import phantom_scans
from oct_jax.data.prepared import open_prepared
from oct_jax.export.verify import SUMS, check_files
from oct_jax.files import read_json
from oct_jax.model.protocol import fingerprint_of

# Imported inside the commands, by the parent of all of them instead.
import oct_jax.commands.data  # isort: skip
import oct_jax.commands.evaluate  # isort: skip
import oct_jax.commands.train  # isort: skip
import oct_jax.export.bundle  # isort: skip  # noqa: F401

Result = TypeVar("Result")

SIZE = 32
_FORK = multiprocessing.get_context("fork")
_TINY = [f"image_size={SIZE}", "resize=squash", "batch_size=8", "checkpoint_steps=1", "epochs=2"]
_MINE = "mine.txt"
_CLOCK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Work:
    """One command.

    Attributes:
      main: what `python -m` calls.
      words: of the command, for the folder that it works in and the one of the references.
      digest: of what it leaves there; equal for equal results.
      starts_from: the command whose run must be there first; "": none.
      killed: whether the campaign interrupts it; else it is what others start from.
    """

    main: Callable[[list[str]], None]
    words: Callable[[Path, Path], list[str]]
    digest: Callable[[Path], str]
    starts_from: str = ""
    killed: bool = True


@dataclass(frozen=True)
class Child:
    """A command in a process of its own, and the file of its standard error."""

    process: BaseProcess
    errors: Path


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
    scans = open_prepared(folder / "prepared")
    return _hash((scans.records, [scans.read(index).tobytes() for index in range(len(scans))]))


def _cached(folder: Path) -> str:
    return _hash(open_prepared(folder / "prepared").records)


def _evaluated(folder: Path) -> str:
    report = read_json(folder / "run" / "evaluation" / "report.json") | {"run": ""}
    return _hash((report, (folder / "run" / "evaluation" / "predictions.csv").read_bytes()))


def _exported(folder: Path) -> str:
    return _hash((folder / "run" / "export" / SUMS).read_bytes())


def _recalibrated(folder: Path) -> str:
    return _hash((folder / "run" / "frozen" / "decision" / "rule.json").read_bytes())


def _prepare(at: Path, _: Path) -> list[str]:
    return ["prepare", f"{at}/scans", f"out={at}/prepared"]


def _frozen(*words: str) -> Callable[[Path, Path], list[str]]:
    def of(at: Path, references: Path) -> list[str]:
        data = f"data={references}/cache/prepared"
        return ["stage=frozen", f"run={at}/run", data, "views=1", "weights=random", *_TINY, *words]

    return of


WORKS = {
    "cache": Work(
        cli.data,
        lambda at, refs: [*_prepare(at, refs), "cache=true", f"size={SIZE}", "resize=squash"],
        _cached,
        killed=False,
    ),
    "narrow": Work(
        cli.train,
        _frozen("width=0.25", "variant=large_minimalistic"),
        lambda at: _trained(at, "frozen"),
        killed=False,
    ),
    "frozen": Work(
        cli.train, _frozen("backbone=fault_parts.tiny:Tiny"), lambda at: _trained(at, "frozen")
    ),
    "finetune": Work(
        cli.train,
        lambda at, _: ["stage=finetune", f"run={at}/run", *_TINY[2:]],
        lambda at: _trained(at, "finetune"),
        "frozen",
    ),
    "prepare": Work(cli.data, _prepare, _prepared),
    "evaluate": Work(
        cli.evaluate, lambda at, _: [f"run={at}/run", "resamples=10"], _evaluated, "frozen"
    ),
    "recalibrate": Work(
        cli.evaluate, lambda at, _: ["recalibrate", f"run={at}/run"], _recalibrated, "frozen"
    ),
    "export": Work(
        cli.export, lambda at, _: [f"run={at}/run", "calibration_scans=8"], _exported, "narrow"
    ),
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
    elif name in ("prepare", "cache"):
        in_child(write_scans, folder / "scans")  # it starts threads of OpenCV


def write_scans(root: Path) -> None:
    """A folder of phantoms as PNG files, reduced to the model's size, named as Kermany's are."""
    scans = phantom_scans(patients=24, seed=0)
    for index, record in enumerate(scans.records):
        label = scans.task.classes[scans.labels[index]]
        path = root / label / f"{label}-{record.patient.rpartition('-')[2]}-{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scans.read(index)).resize((2 * SIZE, 2 * SIZE)).save(path)


def start(name: str, folder: Path, references: Path) -> Child:
    """Starts a command; what it prints on standard error is kept."""
    handle, errors = tempfile.mkstemp()
    os.close(handle)
    words = WORKS[name].words(folder, references)
    process = _FORK.Process(target=_run, args=(WORKS[name].main, words, errors))
    process.start()
    return Child(process, Path(errors))


def _run(main: Callable[[list[str]], None], words: list[str], errors: str) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_TRUNC), 2)
    sys.argv = ["command", *words]
    sys.exit(entry.run(main))


def kill_after(child: Child, seconds: float) -> None:
    """Kills a command with SIGKILL once it has used so many seconds of the processor."""
    process = child.process
    while process.is_alive() and processor_seconds(process.pid or 0) < seconds:
        process.join(0.003)
    process.kill()
    process.join()
    child.errors.unlink()


def processor_seconds(pid: int) -> float:
    """Of a process and its threads so far; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / _CLOCK


def finish(
    tally: Tally, name: str, folder: Path, references: Path, label: str, *, codes: tuple[int, ...]
) -> int:
    """Runs a command to its end; another exit code than these, or a traceback, is a slip."""
    return judge(tally, start(name, folder, references), label, codes=codes)


def judge(tally: Tally, child: Child, label: str, *, codes: tuple[int, ...]) -> int:
    """Waits for a command; another exit code, or an error of several lines, is a slip."""
    tally.tried += 1
    child.process.join()
    errors, code = child.errors.read_text(), child.process.exitcode
    child.errors.unlink()
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    if code == 2:
        tally.refused += 1
    if code not in codes or "Traceback" in errors or (code == 2 and len(lines) != 1):
        tally.add("tracebacks", f"{label}: exit code {code}: {errors[-250:]}")
    return -1 if code is None else code


def in_child(function: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a function that may start threads, from a process of its own.

    Raises:
      UserError: the function does, or the operating system refuses something.
    """
    receiver, sender = _FORK.Pipe(duplex=False)

    def answer() -> None:
        try:
            sender.send((function(*arguments), None))
        except (UserError, OSError) as error:
            sender.send((None, str(error)))

    process = _FORK.Process(target=answer)
    process.start()
    sender.close()
    try:
        result, problem = receiver.recv()
    except EOFError:
        raise UserError(f"{function.__name__}: its process ended without an answer") from None
    finally:
        process.join()
    if problem is not None:
        raise UserError(problem)
    return result


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
            in_child(WORKS["prepare"].digest, folder)
    except (OSError, UserError) as error:
        tally.add("half_written", f"{label}: {error}")
    check_mine(tally, name, folder, label)


def check_mine(tally: Tally, name: str, folder: Path, label: str) -> None:
    """The files of the user's are as they were."""
    places = [folder / _MINE, *([folder / "run" / _MINE] if WORKS[name].starts_from else [])]
    for path in places:
        if not path.is_file() or path.read_text() != "mine":
            tally.add("lost", f"{label}: {path.relative_to(folder)}")


def check_result(
    tally: Tally, name: str, folder: Path, references: Path, label: str, wanted: str
) -> None:
    """After the rerun: the same bits as undisturbed, and nothing temporary is left."""
    try:
        if in_child(WORKS[name].digest, folder) != wanted:
            tally.add("wrong", f"{label}: other bits than without the fault")
    except (OSError, UserError) as error:
        tally.add("wrong", f"{label}: {error}")
    left = {path.relative_to(folder) for path in folder.rglob("*") if path.name != _MINE}
    left -= {path.relative_to(references / name) for path in (references / name).rglob("*")}
    for path in [path for path in left if _is_temporary(path) and not _is_temporary(path.parent)]:
        tally.add("half_written", f"{label}: {path} is left after the rerun")
    check_mine(tally, name, folder, label)


def duration(name: str, folder: Path, references: Path) -> float:
    """Seconds of the processor that an undisturbed command uses.

    Raises:
      UserError: it fails.
    """
    used = _used_by_children()
    tally = Tally()
    finish(tally, name, folder, references, name, codes=(0,))
    if tally.slips:
        raise UserError(f"{name}: fails without any fault: {tally.examples[0]}")
    return _used_by_children() - used


def _used_by_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _is_temporary(path: Path) -> bool:
    return any(
        (part.startswith(".") and part != ".oct_jax") or "-tmp-" in part for part in path.parts
    )
