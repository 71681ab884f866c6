"""Checksums inside every checkpoint, and what they and Orbax find wrong with one.

Orbax does not notice every changed byte of a checkpoint, so each carries the SHA-256 of its files.
They are written before Orbax's rename: a checkpoint that has its final name has its checksums.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import Generator
from pathlib import Path

from orbax.checkpoint._src.path.atomicity import AtomicRenameTemporaryPath

from oct_jax.files import read_json, write_json
from oct_jax.types import UserError

CHECKSUMS = "sha256.json"
"""In a checkpoint's folder: the SHA-256 of every other file, by its path in the folder."""

# How TensorStore, which writes Orbax's arrays, spells an error of the operating system.
_OS_ERROR = re.compile(r"\[os_error_code='(\d+)'\]")


class ChecksummedPath(AtomicRenameTemporaryPath):
    """The temporary folder of a checkpoint; gets its checksums before it gets its final name."""

    async def finalize(self) -> None:
        """Writes the checksums, then renames."""
        if self.get_final().name.isdigit():  # the checkpoint itself, not one of its parts
            await asyncio.to_thread(_write_checksums, Path(self.get()))
        await super().finalize()


def damage_of(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None where all are as they were written.

    A checkpoint without checksums, of an earlier version, is not judged.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return None
    try:
        expected = read_json(path, dict[str, str])
    except UserError:
        return f"{CHECKSUMS} is damaged"
    for name, checksum in expected.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _checksum(folder / name) != checksum:
            return f"{name} has changed"
    return None


@contextlib.contextmanager
def system_errors(folder: Path) -> Generator[None]:
    """Raises errors of the operating system that name no file as `OSError`s of `folder`.

    Those of TensorStore are of other types, those of a file object that is flushed have no name.
    """
    try:
        yield
    except Exception as error:
        code = _os_error_code(error)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(folder)) from error


def _os_error_code(error: Exception) -> int | None:
    if isinstance(error, OSError):
        nameless = error.filename is None and not isinstance(error, BrokenPipeError)
        return error.errno if nameless else None
    match = _OS_ERROR.search(str(error))
    return None if match is None else int(match[1])


def _write_checksums(folder: Path) -> None:
    # Orbax's own record, beside the parts, is left out: it still gets the time of the commit.
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): _checksum(path) for path in files}
    write_json(folder / CHECKSUMS, names)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
