"""Kills, full disks, two processes in one folder: the same command again ends as without them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import numpy as np

from fault_parts import commands
from fault_parts.commands import begin, check_left, check_result
from fault_parts.tally import Tally


def killed(
    name: str,
    folder: Path,
    references: Path,
    wanted: str,
    seconds: float,
    count: int,
    seed: int,
) -> Tally:
    """Kills a command at a random moment of its usual `seconds`, then repeats it; so many times."""
    tally = Tally()
    rng = np.random.default_rng(seed)
    for moment in rng.uniform(0, seconds, count):
        begin(name, folder, references)
        label = f"{name} killed after {moment:.2f} of {seconds:.2f} s"
        commands.kill_after(commands.start(name, folder, references), moment)
        _repeat(tally, name, folder, references, label, wanted)
        shutil.rmtree(folder)
    return tally


def full_disk(
    name: str, folder: Path, references: Path, wanted: str, count: int, seed: int
) -> Tally:
    """Runs a command on a disk that fills at a random byte, then again once there is room."""
    tally = Tally()
    rng = np.random.default_rng(seed)
    for share in rng.uniform(0, 1, count):
        with small_disk(folder) as resize:
            work = folder / "work"
            begin(name, work, references)
            reference = size_of(references / name)
            used = size_of(folder)
            room = int(share * max(reference - used, 2**16))
            label = f"{name} with {room:,} bytes free"
            resize(used + room)
            commands.finish(tally, name, work, references, label, codes=(0, 2))
            check_left(tally, name, work, label)
            resize(2**30)
            _repeat(tally, name, work, references, f"{label}, again", wanted)
    return tally


def together(name: str, folder: Path, references: Path, wanted: str) -> Tally:
    """Runs a command twice at the same time in one folder, then once more.

    Of the two each may end well or be refused in one line; the last gives the usual result.
    """
    tally = Tally()
    begin(name, folder, references)
    label = f"{name} twice at once"
    both = [commands.start(name, folder, references) for _ in range(2)]
    codes = [commands.judge(tally, child, label, codes=(0, 2)) for child in both]
    if 0 not in codes:
        tally.add("wrong", f"{label}: neither came to an end, exit codes {codes}")
    _repeat(tally, name, folder, references, f"{label}, then again", wanted)
    shutil.rmtree(folder)
    return tally


def _repeat(
    tally: Tally, name: str, folder: Path, references: Path, label: str, wanted: str
) -> None:
    """The interrupted command again: nothing was half written, and it ends as undisturbed."""
    check_left(tally, name, folder, label)
    if name != "prepare" or not (folder / "prepared").exists():
        commands.finish(tally, name, folder, references, label, codes=(0,))
    check_result(tally, name, folder, references, label, wanted)


@contextlib.contextmanager
def small_disk(folder: Path) -> Generator:
    """An empty file system at `folder`, and a function that sets its size in bytes; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o"]
    subprocess.run([*mount, "size=1G", "tmpfs", str(folder)], check=True)

    def resize(size: int) -> None:
        option = f"remount,size={size}"
        subprocess.run(["mount", "-o", option, str(folder)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def size_of(folder: Path) -> int:
    """Bytes that the files of a folder take on a disk, in whole pages."""
    sizes = [os.lstat(path).st_size for path in folder.rglob("*")]
    return sum((size + 4095) // 4096 * 4096 for size in sizes)
