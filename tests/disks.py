"""Small file systems of tests: their size, their filling, and whether they can be written to."""

import contextlib
import subprocess
from pathlib import Path

FILLER = "filler"


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def protect(disk: Path) -> None:
    """Makes it read-only; `resize` would not undo that, the test's end unmounts it."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def fill(disk: Path, free: int = 0) -> None:
    """Leaves `free` bytes; removing `FILLER` gives all of them back."""
    filler = disk / FILLER
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with filler.open("r+b") as file:
        file.truncate(max(0, filler.stat().st_size - free))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the markers of the package."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".oct_jax")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
