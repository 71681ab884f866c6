"""Where a bundle is built, and how it comes to its place: whole, or not at all.

A bundle is built in a hidden folder beside its place (`oct_jax.work_folder`), and then takes the
place of an earlier one in one step. Only a folder that the package has marked as its own is ever
replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Generator
from pathlib import Path

from oct_jax.export.verify import MARKER, SUMS, BundleError, files_in, read_sums
from oct_jax.runs.ownership import is_marked, mark
from oct_jax.types import UserError
from oct_jax.work_folder import FORMER, remove_stale, work_folder

# Of <fcntl.h> and <linux/fs.h>.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def check_place(out: Path) -> None:
    """Refuses a place that a bundle cannot take without harm.

    Raises:
      UserError: a part of the path is not a folder, or there is something else than a bundle.
    """
    parent = next(parent for parent in out.absolute().parents if os.path.lexists(parent))
    if not parent.is_dir():
        raise UserError(f"out={out}: {parent} is not a folder; give another out=")
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not (out / SUMS).is_file() or not (out / "bundle.json").is_file():
        raise UserError(f"{out}: exists and is not a bundle; give another out=")
    if not is_marked(out):
        raise UserError(
            f"{out}: looks like a bundle, but has no marker {MARKER}: this version of oct_jax did"
            " not make it; move it, or give another out="
        )
    try:
        foreign = sorted(files_in(out) - read_sums(out).keys() - {MARKER})
    except BundleError as error:
        raise UserError(
            f"{out}: exists and is not a whole bundle ({error}); give another out="
        ) from error
    if foreign:
        raise UserError(
            f"{out}: holds {foreign[0]}, which is not part of its bundle; move it, or give another"
            " out="
        )


@contextlib.contextmanager
def staging(out: Path) -> Generator[Path]:
    """A folder for a bundle, marked and else empty; becomes `out` on leaving without an error.

    What killed exports to the same place left behind is removed first.

    Raises:
      UserError: see `check_place`.
      OSError: a folder cannot be made.
    """
    remove_stale(out)  # which may put back an earlier bundle
    check_place(out)
    with work_folder(out) as work:
        folder = work / "bundle"
        mark(folder)
        yield folder
        os.chmod(folder, 0o755)
        check_place(out)
        _take_place(folder, out)


def _take_place(folder: Path, out: Path) -> None:
    """Puts a whole folder in place of an earlier one."""
    if not out.exists():
        os.replace(folder, out)
    elif not _exchange(folder, out):
        # Between the two steps there is no bundle; after a kill `remove_stale` restores the former.
        os.replace(out, folder.with_name(FORMER))
        os.replace(folder, out)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two folders in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = os.fsencode(first), os.fsencode(second)
    return renameat2 is not None and not renameat2(
        _AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE
    )
