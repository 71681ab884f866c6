"""Folders that the package makes: each holds a marker, and no other folder is written over."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from oct_jax.files import check_writable, write_atomic
from oct_jax.types import UserError

MARKER = ".oct_jax"
"""The file that marks a folder as made by this package."""

REPLACED = "replaced"
"""In a run folder: what a restart put aside, in a numbered folder each time."""


def is_marked(folder: Path) -> bool:
    """Whether the package made this folder."""
    return (folder / MARKER).is_file()


def mark(folder: Path) -> None:
    """Makes a folder where there is none, and marks it as made by the package."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_marked(folder):
        write_atomic(folder / MARKER, "This folder was made by oct_jax.\n")


def claim_folder(folder: Path) -> None:
    """Makes a marked folder, or checks that the one that is there is marked or empty.

    Raises:
      UserError: the folder holds files and is not marked, or cannot be made.
    """
    check_claimable(folder)
    try:
        mark(folder)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: cannot make this folder: {reason}") from error


def check_claimable(folder: Path) -> None:
    """Raises UserError where a folder holds files and is not marked, or cannot be written to."""
    check_writable(folder)
    if folder.is_dir() and not is_marked(folder) and any(folder.iterdir()):
        raise UserError(
            f"{folder}: holds files that oct_jax did not make; choose a new or an empty folder"
        )


def put_aside(folder: Path, names: Iterable[str]) -> Path | None:
    """Moves entries of a folder to `replaced/1` in it, or the next free number.

    Returns:
      Where they are now; None where the folder has none of them.
    """
    present = [name for name in names if os.path.lexists(folder / name)]
    if not present:
        return None
    earlier = [int(path.name) for path in (folder / REPLACED).glob("*") if path.name.isdecimal()]
    aside = folder / REPLACED / str(max(earlier, default=0) + 1)
    aside.mkdir(parents=True)
    for name in present:
        os.replace(folder / name, aside / name)
    return aside
