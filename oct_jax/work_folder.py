"""A hidden folder in which a result is made before it gets its place.

It lies beside the place, as `.NAME.XXXXXXXX`, and holds a file that is locked while its process
runs: a folder whose file nobody locks was left by a process that was killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO

LOCK = "oct_jax.lock"
FORMER = "former"
"""In a work folder: what was in the place before, while it is exchanged."""


@contextlib.contextmanager
def work_folder(place: Path) -> Generator[Path]:
    """A new hidden folder beside a place; it is removed on leaving.

    What killed processes left beside the same place is removed first.

    Raises:
      OSError: it cannot be made.
    """
    remove_stale(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    try:
        with (work / LOCK).open("w") as file:
            lock(file)
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def remove_stale(place: Path) -> None:
    """Removes work folders of killed processes; puts back what such a one had moved away."""
    pattern = f".{_escaped(place.name)}.????????"
    for path in place.parent.glob(f"{pattern}/{LOCK}"):
        with path.open("r+") as file:
            if not lock(file):
                continue  # of a process that runs, or perhaps runs
            former = path.parent / FORMER
            if former.is_dir() and not os.path.lexists(place):
                os.replace(former, place)
            shutil.rmtree(path.parent, ignore_errors=True)


def lock(file: IO[str]) -> bool | None:
    """Locks a file as long as it is open; the end of the process frees it, however it comes.

    Returns:
      True; False where another process has locked it; None where the system has no such locks.
    """
    try:
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
