"""Building a prepared folder: whole under its name, or not there.

All is written into a hidden folder beside (`oct_jax.work_folder`), and renamed at the end.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from oct_jax.data.archive import unpack
from oct_jax.data.datasets import PHANTOM, open_data
from oct_jax.data.manifest import write_manifest
from oct_jax.data.prepared import DESCRIPTION, FORMAT, MANIFEST, RECORDS, SCANS
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.readers import map_threads
from oct_jax.data.scans import FileReader, Scans
from oct_jax.files import write_json
from oct_jax.paths import expand_home
from oct_jax.task import KERMANY, Task
from oct_jax.types import UserError
from oct_jax.work_folder import work_folder

Progress = Callable[[str, int, int], None]


def prepare(
    root: str,
    out: str | os.PathLike[str],
    *,
    task: Task | None = KERMANY,
    manifest: str | None = None,
    on_bad_scan: Literal["refuse", "skip"] = "refuse",
    seed: int = 0,
    cache: Preprocess | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Builds a prepared folder.

    Args:
      root: a folder of scans, or a zip of one.
      out: the folder to make; must not exist.
      task: the classes; None makes one of the names of the class folders.
      manifest: a manifest.csv whose scans and splits to use.
      on_bad_scan: what to do with unreadable or wrongly filed scans.
      seed: of the splits, where the folder has none.
      cache: None builds records of whole scans; a preprocessing, a training cache of scans that
        are resized by it already.
      progress: called with (what is done, done, total).

    Returns:
      What a person should know, a line each.

    Raises:
      UserError: a mistake in settings or data, or the disk is full; nothing is left behind.
    """
    out = Path(expand_home(out))
    if out.exists():
        raise UserError(f"{out} exists; name another folder, or remove it to prepare it anew")
    if root == PHANTOM:
        raise UserError("phantom: its scans are made when they are read; nothing to prepare")
    with _whole_folder(out) as (work, result):
        scans = open_data(
            str(_root(Path(expand_home(root)), work)),
            task=task,
            manifest=Path(manifest) if manifest else None,
            on_bad_scan=on_bad_scan,
            seed=seed,
            phantom_patients=0,
            progress=partial(progress, "checking files") if progress else None,
        )
        if cache is not None:
            details = _write_cache(scans, result, root, cache, progress)
        else:
            details = _write_records(scans, result)
        write_manifest(scans.records, result / MANIFEST)
        report = dict(scans.report) | {"root": root}
        write_json(result / DESCRIPTION, {"format": FORMAT, **details, "report": report})
    return [*scans.lines, f"{out}: train on it with `just train stage=frozen data={out}`"]


@contextlib.contextmanager
def _whole_folder(out: Path) -> Generator[tuple[Path, Path]]:
    """A folder to work in, and one therein that becomes `out` where nothing fails."""
    try:
        with work_folder(out) as work:
            result = work / "result"
            result.mkdir()
            yield work, result
            os.rename(result, out)
    except (OSError, RuntimeError) as error:  # ArrayRecord's C++ raises RuntimeError
        raise UserError(_in_words(error, out)) from error


def _in_words(error: Exception, out: Path) -> str:
    reason = " ".join(str(error).split())
    # In the text, because TFDS wraps the error that has the number.
    if os.strerror(errno.ENOSPC) in reason:
        return f"{out}: the disk is full; nothing was kept: free space, then run the same command"
    return f"{out}: cannot be written ({reason})"


def _root(root: Path, work: Path) -> Path:
    if root.suffix.lower() != ".zip" or root.is_dir():
        return root
    if not root.is_file():
        raise UserError(f"no such file: {root}")
    unpacked = work / "unpacked"
    unpacked.mkdir()
    unpack(root, unpacked)
    return unpacked


def _write_records(scans: Scans, result: Path) -> dict[str, Any]:
    reader = scans.reader
    if not isinstance(reader, FileReader):
        raise UserError("root is prepared already; a training cache can be made of it: cache=true")
    _check_space(result, 2 * sum(record.bytes for record in scans.records))
    # TFDS takes a second to import, and only this needs it.
    import tensorflow_datasets as tfds

    from oct_jax.data.oct_kermany import OctKermany, OctKermanyConfig, download_config

    tfds.disable_progress_bar()
    given = OctKermanyConfig(
        name="prepared", root=reader.root, records=scans.records, classes=scans.task.classes
    )
    builder = OctKermany(data_dir=result / RECORDS, config=given, file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=download_config(reader.root))
    return {"kind": "records"}


def _write_cache(
    scans: Scans, result: Path, root: str, preprocess: Preprocess, progress: Progress | None
) -> dict[str, Any]:
    if not scans.reader.full_size:
        raise UserError(f"{root} is a training cache; name the folder it was made from")
    shape = (len(scans), preprocess.size, preprocess.size)
    _check_space(result, int(np.prod(shape, dtype=np.int64)))

    def resized(index: int) -> bytes:
        return scans.read_resized(index, preprocess).tobytes()

    report = partial(progress, "resizing scans") if progress else None
    # Written, not mapped: a full disk under a map kills the process instead of raising an error.
    with (result / SCANS).open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for scan in map_threads(resized, range(len(scans)), report):
            file.write(scan)
    return {"kind": "cache", "size": preprocess.size, "resize": preprocess.resize}


def _check_space(folder: Path, needed: int) -> None:
    if needed > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
