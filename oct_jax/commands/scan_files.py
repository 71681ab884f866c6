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
class ScanJob:
    """A scan to explain.

    Attributes:
      scan: the file.
      output: the path of its pages, without an ending.
    """

    scan: Path
    output: Path


@dataclass(frozen=True)
class VolumeJob:
    """A volume to explain.

    Attributes:
      path: its file or folder.
      folder: where its page goes.
    """

    path: Path
    folder: Path


@dataclass(frozen=True)
class Jobs:
    """What the words on the command line name.

    Attributes:
      scans: each once.
      folders: those among the words.
      skipped: files in the folders that are left out, because their ending is not a scan's.
      volumes: each once.
    """

    scans: tuple[ScanJob, ...]
    folders: tuple[Path, ...]
    skipped: tuple[Path, ...]
    volumes: tuple[VolumeJob, ...] = ()

    def lines(self) -> list[str]:
        """What a person should know, a line each."""
        if not self.skipped:
            return []
        from oct_jax.data.manifest import summarize  # reads pictures, which nothing else here does

        named = summarize([str(path) for path in self.skipped])
        return [f"{len(self.skipped)} files skipped, whose endings are not {_endings()}: {named}"]


def find_jobs(words: Sequence[str], out: Path | None) -> Jobs:
    """Finds the scans and the volumes that the words name.

    Args:
      words: files, folders (searched throughout) and glob patterns.
      out: where pages go, with the subfolders of a searched folder; None: beside their scans.

    Raises:
      UserError: a word names nothing, a folder holds no scans, or two scans would write the
        same page.
    """
    scans: dict[Path, ScanJob] = {}
    volumes: dict[Path, VolumeJob] = {}
    folders, skipped = [], []
    for word in words:
        if not word:
            raise UserError("an empty argument names no scan; give a scan, a folder or a pattern")
        path = Path(expand_home(word))
        if path.is_dir():
            folders.append(path)
            volumes_here = _volumes_in(path)
            files, root = _scans_in(path, volumes_here), path
            skipped += _skipped_in(path, volumes_here)
            for volume in volumes_here:
                where = _page_folder(volume, path, out)
                volumes.setdefault(volume.resolve(), VolumeJob(volume, where))
        elif glob.has_magic(word) and not path.exists():
            matches, root = [Path(match) for match in sorted(glob.glob(str(path)))], None
            for match in matches:
                if not _is_ours(match) and _is_volume(match):
                    job = VolumeJob(match, _page_folder(match, match, out))
                    volumes.setdefault(match.resolve(), job)
            files = [m for m in matches if _is_scan(m) and m.resolve() not in volumes]
            if not files and not volumes:
                raise UserError(f"{word}: matches no {_endings()} file")
        elif path.is_file() and _is_volume(path):
            volumes.setdefault(path.resolve(), VolumeJob(path, _page_folder(path, path, out)))
            files, root = [], None
        elif path.is_file():
            files, root = [path], None
        else:
            raise UserError(f"{word}: no such file or folder; give a scan, a folder or a pattern")
        for scan in files:
            where = scan.parent if out is None else out
            if out is not None and root is not None:
                where = out / scan.parent.relative_to(root)
            scans.setdefault(scan.resolve(), ScanJob(scan, where / scan.stem))
    named = tuple(_with_unique_pages(list(scans.values())))
    return Jobs(named, tuple(folders), tuple(skipped), tuple(volumes.values()))


def _volumes_in(folder: Path) -> list[Path]:
    from oct_jax.data.volumes import holds_volumes  # reads pictures, which takes time to import

    return holds_volumes(folder)


def _is_volume(path: Path) -> bool:
    if path.suffix.lower() in _ONE_PICTURE:
        return False
    from oct_jax.data.volumes import is_volume  # as above

    return is_volume(path)


def _page_folder(volume: Path, root: Path, out: Path | None) -> Path:
    """Where a volume's page goes: inside of its folder, beside its file, or below `out`."""
    own = volume if volume.is_dir() else volume.parent
    if out is None:
        return own
    return out if volume == root else out / volume.parent.relative_to(root)


def _scans_in(folder: Path, volumes: Sequence[Path]) -> list[Path]:
    scans = sorted(path for path in folder.rglob("*") if _is_scan(path))
    scans = [path for path in scans if not _is_part(path, volumes)]
    if not scans and not volumes:
        raise UserError(f"{folder}: holds no scans ({_endings()}) and no volumes")
    return scans


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


def _with_unique_pages(jobs: list[ScanJob]) -> list[ScanJob]:
    """`a.png` and `a.tif` side by side keep their endings in the names of their pages."""
    count = Counter(job.output for job in jobs)
    named = [
        job if count[job.output] == 1 else ScanJob(job.scan, job.output.parent / job.scan.name)
        for job in jobs
    ]
    scan_of: dict[Path, Path] = {}
    for job in named:
        first = scan_of.setdefault(job.output, job.scan)
        if first != job.scan:
            raise UserError(
                f"{job.scan} and {first} would write the same page in {job.output.parent};"
                " explain them separately, or without out="
            )
    return named
