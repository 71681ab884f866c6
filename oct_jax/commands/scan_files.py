"""From words on the command line to scans, and to the names of what is written of them."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oct_jax.types import UserError

SUFFIX = ".explained"
"""Ends the stem of all that is written, so that a second run does not take it for a scan."""

_SCAN_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Task:
    """A scan to explain.

    Attributes:
      scan: the file.
      output: the path of its pages, without an ending.
    """

    scan: Path
    output: Path


def find_tasks(words: Sequence[str], out: Path | None) -> tuple[list[Task], list[Path]]:
    """The scans that the words name, each once, and the folders among the words.

    Args:
      words: files, folders (searched throughout) and glob patterns.
      out: where pages go, with the subfolders of a searched folder; None: beside their scans.

    Raises:
      UserError: a word names nothing, a folder holds no scans, or two scans would write one page.
    """
    tasks: dict[Path, Task] = {}
    folders = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            folders.append(path)
            found, root = _scans_in(path), path
        elif glob.has_magic(word) and not path.exists():
            found, root = [Path(match) for match in sorted(glob.glob(str(path)))], None
            found = [match for match in found if _is_scan(match)]
            if not found:
                raise UserError(f"{word}: matches no {_endings()} file")
        elif path.is_file():
            found, root = [path], None
        else:
            raise UserError(f"{word}: no such file or folder; give a scan, a folder or a pattern")
        for scan in found:
            where = scan.parent if out is None else out
            if out is not None and root is not None:
                where = out / scan.parent.relative_to(root)
            tasks.setdefault(scan.resolve(), Task(scan, where / scan.stem))
    return _told_apart(list(tasks.values())), folders


def _scans_in(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if _is_scan(path))
    if not found:
        raise UserError(f"{folder}: holds no scans ({_endings()})")
    return found


def _is_scan(path: Path) -> bool:
    ours = path.stem.endswith(SUFFIX) or path.name.startswith(".")
    return path.suffix.lower() in _SCAN_SUFFIXES and not ours and path.is_file()


def _endings() -> str:
    return ", ".join(_SCAN_SUFFIXES)


def _told_apart(tasks: list[Task]) -> list[Task]:
    """`a.png` and `a.tif` side by side keep their endings in the names of their pages."""
    taken = Counter(task.output for task in tasks)
    named = [
        task if taken[task.output] == 1 else Task(task.scan, task.output.parent / task.scan.name)
        for task in tasks
    ]
    seen: dict[Path, Path] = {}
    for task in named:
        other = seen.setdefault(task.output, task.scan)
        if other != task.scan:
            raise UserError(
                f"{task.scan} and {other} would write one page in {task.output.parent};"
                " explain them apart, or leave out= out"
            )
    return named
