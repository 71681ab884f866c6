"""Faults on purpose: bad files, full disks, kills, two processes; what goes wrong is counted.

    python experiments/faults.py out=runs/faults [seed=0] [pictures=1000000] [files=10000]
        [kills=100] [disks=10] [minutes=M] [parts=pictures,settings,weights,archives,...]

Every part that is finished is a line of `out/parts.jsonl`; run again with the same words, or with
larger numbers, only what is missing is done. After `minutes` no part is begun (0: no limit). Parts
run in a process of their own: one that takes the interpreter with it, or hangs for an hour, is
counted as a traceback. Full disks need root.
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from fault_parts import bundles, commands, files, interruptions, pictures, runs, settings
from fault_parts.tally import Tally
from rich.console import Console

from oct_jax import UserError
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.files import read_json_lines, write_atomic

DEFAULTS = {
    "seed": "0",
    "pictures": "1000000",
    "files": "10000",
    "kills": "100",
    "disks": "10",
    "minutes": "0",
}
OF_FILES = ("pictures", "settings", "weights", "archives")
OF_COMMANDS = ("runs", "bundles", "together", "disks", "kills")
PARTS = OF_FILES + OF_COMMANDS
_CHUNK, _PICTURES_CHUNK, _TRIALS = 10_000, 100_000, 10
_LONGEST = 3600

Part = tuple[str, Callable[[], Tally]]


def main(words: list[str]) -> None:
    """Runs the parts that are not done yet, then prints the table."""
    given = DEFAULTS | {"parts": ",".join(PARTS)} | split_words(words)
    unknown = given.keys() - DEFAULTS.keys() - {"parts", "out"}
    if unknown or "out" not in given or not set(given["parts"].split(",")) <= set(PARTS):
        raise UserError(f"out=FOLDER, and {', '.join(DEFAULTS)}; parts={','.join(PARTS)}")
    out = Path(given["out"]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    numbers = {name: _number(name, given[name]) for name in DEFAULTS}
    console = Console(soft_wrap=True, highlight=False, markup=False)
    chosen = given["parts"].split(",")
    done = read_parts(out)
    end = time.monotonic() + 60 * numbers["minutes"] if numbers["minutes"] else math.inf
    for name, part in list_parts(chosen, numbers, out):
        if time.monotonic() > end:
            break
        if name not in done:
            console.print(name, end=" ")
            done[name] = run_part(part)
            _store(out, done)
            console.print(*[f"{key}={value}" for key, value in done[name].items() if value])
    console.print(table(done))


def list_parts(chosen: list[str], numbers: dict[str, int], out: Path) -> Iterator[Part]:
    """The parts in order, each with a name that says its seed and size."""
    seed = numbers["seed"]
    if "pictures" in chosen:
        for kind in pictures.KINDS:
            yield from _chunks(
                f"pictures {kind}",
                numbers["pictures"],
                seed,
                partial(pictures.mutated_pictures, kind),
                _PICTURES_CHUNK,
            )
    if "settings" in chosen:
        yield "settings", settings.bad_settings
    if "weights" in chosen:
        for kind in ("safetensors", "pth", "h5"):
            mutated = partial(files.mutated_weights, kind)
            yield from _chunks(f"weights {kind}", numbers["files"], seed, mutated)
    if "archives" in chosen:
        yield from _chunks("archives zip", numbers["files"], seed, files.mutated_archives)
    if set(chosen) & set(OF_COMMANDS):
        yield from _parts_of_commands(chosen, numbers, out)


def _chunks(
    name: str, total: int, seed: int, mutated: Callable[..., Tally], size: int = _CHUNK
) -> Iterator[Part]:
    for start in range(0, total, size):
        count = min(size, total - start)
        chunk_seed = zlib.crc32(f"{name} {start} {seed}".encode())
        yield (
            f"{name}: seed {seed}, {start} to {start + count}",
            partial(mutated, count, chunk_seed),
        )


def _parts_of_commands(chosen: list[str], numbers: dict[str, int], out: Path) -> Iterator[Part]:
    seed, references = numbers["seed"], out / "references"
    known = {name: reference(name, references) for name in commands.WORKS}
    if "runs" in chosen:
        run = references / "narrow" / "run"
        for begins in runs.READ_BY:
            yield f"runs {begins}: seed {seed}", partial(runs.damaged_run, run, seed, begins)
    if "bundles" in chosen:
        bundle = references / "export" / "run" / "export"
        yield f"bundles: seed {seed}", partial(bundles.damaged_bundle, bundle, seed)
    for name in [name for name, work in commands.WORKS.items() if work.killed]:
        digest, seconds = known[name]
        place = (name, out / "work", references, digest)
        if "together" in chosen:
            yield f"together {name}: seed {seed}", partial(interruptions.together, *place)
        if "disks" in chosen:
            full = partial(interruptions.full_disk, *place)
            yield from _chunks(f"disks {name}", numbers["disks"], seed, full, _TRIALS)
        if "kills" in chosen:
            killed = partial(interruptions.killed, *place, seconds)
            yield from _chunks(f"kills {name}", numbers["kills"], seed, killed, _TRIALS)


def reference(name: str, references: Path) -> tuple[str, float]:
    """Runs a command without faults, once; its digest and the seconds of the processor it takes."""
    folder = references / name
    note = references / f"{name}.json"
    if not note.exists():
        commands.begin(name, folder, references)
        seconds = commands.duration(name, folder, references)
        digest = commands.in_child(commands.WORKS[name].digest, folder)
        write_atomic(note, json.dumps([digest, seconds]))
    digest, seconds = json.loads(note.read_text())
    return digest, seconds


def run_part(part: Callable[[], Tally]) -> dict[str, Any]:
    """A part in a process of its own; its counts and seconds."""
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_silence)
    try:
        tally = pool.submit(part).result(_LONGEST)
    except (BrokenProcessPool, TimeoutError) as error:
        tally = Tally(tried=1)
        tally.add(
            "tracebacks", f"the process {'hangs' if isinstance(error, TimeoutError) else 'died'}"
        )
        for process in list(pool._processes.values()):
            process.kill()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return dataclasses.asdict(tally) | {"seconds": round(time.perf_counter() - started, 1)}


def table(done: dict[str, Any]) -> str:
    """Sums over the parts of a kind, as Markdown, and the first slips."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for name, part in done.items():
        kinds.setdefault(name.partition(":")[0], []).append(part)
    columns = ("tried", "refused", "tracebacks", "half_written", "lost", "wrong", "seconds")
    lines = [f"| faults | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for kind, parts in kinds.items():
        sums = [round(sum(part[column] for part in parts)) for column in columns]
        lines.append(f"| {kind} | {' | '.join(map(str, sums))} |")
    slips = [f"{name}: {slip}" for name, part in done.items() for slip in part["examples"]]
    return "\n".join([*lines, "", *slips])


def read_parts(out: Path) -> dict[str, Any]:
    """The parts that are done, by name."""
    path = out / "parts.jsonl"
    rows: list[dict[str, Any]] = read_json_lines(path, dict[str, Any]) if path.exists() else []
    return {row.pop("part"): row for row in rows}


def _store(out: Path, done: dict[str, Any]) -> None:
    rows = [json.dumps({"part": name, **part}) for name, part in done.items()]
    write_atomic(out / "parts.jsonl", "\n".join(rows) + "\n")


def _silence() -> None:
    """Sends what C libraries print about damaged pictures nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) > 10**9:
        raise UserError(f"{name}={text}: must be a whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(command.run(main))
