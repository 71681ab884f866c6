"""From words on the command line to scans, and to the names of what is written of them."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oct_jax.paths import EXPLAINED, expand_home
from oct_jax.types import UserError

SUFFIX = EXPLAINED

_ONE_PICTURE = (".jpeg", ".jpg", ".png", ".bmp")
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


@dataclass(frozen=True)
class EyeTask:
    """A volume to explain.

    Attributes:
      path: its file or folder.
      folder: where its page goes.
    """

    path: Path
    folder: Path


@dataclass(frozen=True)
class Tasks:
    """What the words on the command line name.

    Attributes:
      tasks: the scans, each once.
      eyes: the volumes, each once.
      folders: those among the words.
      skipped: files in the folders that are left out, because their ending is not a scan's.
    """

    tasks: tuple[Task, ...]
    folders: tuple[Path, ...]
    skipped: tuple[Path, ...]
    eyes: tuple[EyeTask, ...] = ()

    def lines(self) -> list[str]:
        """What a person should know, a line each."""
        if not self.skipped:
            return []
        from oct_jax.data.manifest import summarize  # reads pictures, which nothing else here does

        named = summarize([str(path) for path in self.skipped])
        return [f"{len(self.skipped)} files skipped, whose endings are not {_endings()}: {named}"]


def find_tasks(words: Sequence[str], out: Path | None) -> Tasks:
    """Finds the scans and the volumes that the words name.

    Args:
      words: files, folders (searched throughout) and glob patterns.
      out: where pages go, with the subfolders of a searched folder; None: beside their scans.

    Raises:
      UserError: a word names nothing, a folder holds no scans, or two scans would write one page.
    """
    tasks: dict[Path, Task] = {}
    eyes: dict[Path, EyeTask] = {}
    folders, skipped = [], []
    for word in words:
        if not word:
            raise UserError("an empty argument names no scan; give a scan, a folder or a pattern")
        path = Path(expand_home(word))
        if path.is_dir():
            folders.append(path)
            volumes = _volumes_in(path)
            found, root = _scans_in(path, volumes), path
            skipped += _skipped_in(path, volumes)
            for volume in volumes:
                where = _home_of(volume, path, out)
                eyes.setdefault(volume.resolve(), EyeTask(volume, where))
        elif glob.has_magic(word) and not path.exists():
            found, root = [Path(match) for match in sorted(glob.glob(str(path)))], None
            for match in [match for match in found if not _is_ours(match) and _is_volume(match)]:
                eyes.setdefault(match.resolve(), EyeTask(match, _home_of(match, match, out)))
            found = [m for m in found if _is_scan(m) and m.resolve() not in eyes]
            if not found and not eyes:
                raise UserError(f"{word}: matches no {_endings()} file")
        elif path.is_file() and _is_volume(path):
            eyes.setdefault(path.resolve(), EyeTask(path, _home_of(path, path, out)))
            found, root = [], None
        elif path.is_file():
            found, root = [path], None
        else:
            raise UserError(f"{word}: no such file or folder; give a scan, a folder or a pattern")
        for scan in found:
            where = scan.parent if out is None else out
            if out is not None and root is not None:
                where = out / scan.parent.relative_to(root)
            tasks.setdefault(scan.resolve(), Task(scan, where / scan.stem))
    named = tuple(_told_apart(list(tasks.values())))
    return Tasks(named, tuple(folders), tuple(skipped), tuple(eyes.values()))


def _volumes_in(folder: Path) -> list[Path]:
    from oct_jax.data.volumes import holds_volumes  # reads pictures, which takes time to import

    return holds_volumes(folder)


def _is_volume(path: Path) -> bool:
    if path.suffix.lower() in _ONE_PICTURE:
        return False
    from oct_jax.data.volumes import is_volume  # as above

    return is_volume(path)


def _home_of(volume: Path, root: Path, out: Path | None) -> Path:
    """Where a volume's page goes: inside of its folder, beside its file, or below `out`."""
    own = volume if volume.is_dir() else volume.parent
    if out is None:
        return own
    return out if volume == root else out / volume.parent.relative_to(root)


def _scans_in(folder: Path, volumes: Sequence[Path]) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if _is_scan(path))
    found = [path for path in found if not _is_part(path, volumes)]
    if not found and not volumes:
        raise UserError(f"{folder}: holds no scans ({_endings()}) and no volumes")
    return found


def _skipped_in(folder: Path, volumes: Sequence[Path]) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() not in _SCAN_SUFFIXES
        and not _is_ours(path)
        and path.is_file()
        and not _is_part(path, volumes)
    )


def _is_part(path: Path, volumes: Sequence[Path]) -> bool:
    """Whether a file is a volume or belongs to one."""
    return any(path.is_relative_to(volume) for volume in volumes)


def _is_scan(path: Path) -> bool:
    return path.suffix.lower() in _SCAN_SUFFIXES and not _is_ours(path) and path.is_file()


def _is_ours(path: Path) -> bool:
    """Whether `explain` wrote a file, or it is hidden."""
    return path.stem.endswith(SUFFIX) or path.name.startswith(".")


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
