"""Published weight files, fetched once into the user's cache."""

from dataclasses import dataclass
from pathlib import Path

import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from oct_jax.cache import CACHE_VARIABLE, cache_folder
from oct_jax.types import UserError


class DownloadFailed(UserError):
    """A published file could not be fetched: there is no network, or no such file any more."""


@dataclass(frozen=True)
class WeightFile:
    """A published file.

    Attributes:
      url: where the publisher keeps it.
      file_name: in the cache.
      checksum: `sha256:...` or `md5:...` as published; None where none is known.
    """

    url: str
    file_name: str
    checksum: str | None


def fetch(file: WeightFile) -> Path:
    """The file in the cache, downloaded when it is not there; its checksum is verified.

    Raises:
      DownloadFailed: there is no network.
      UserError: the cached or downloaded file is not the published one.
    """
    path = cache_folder() / file.file_name
    if not path.exists():
        _download(file, path)
    elif file.checksum and not pooch.hashes.hash_matches(path, file.checksum):
        raise UserError(
            f"{path}: is not the published file (wrong checksum, expected {file.checksum});"
            f" delete it, or put {file.url} there"
        )
    return path


def _download(file: WeightFile, path: Path) -> None:
    pooch.get_logger().setLevel("WARNING")
    progress = _Progress(file.file_name) if Console(stderr=True).is_terminal else False
    try:
        # Written beside and renamed once the checksum is right.
        pooch.retrieve(
            file.url,
            known_hash=file.checksum,
            fname=path.name,
            path=path.parent,
            # pooch's own class does not satisfy its protocol to the letter.
            downloader=pooch.HTTPDownloader(progressbar=progress),  # ty: ignore[invalid-argument-type]
        )
    except ValueError as error:
        raise UserError(
            f"{file.url}: what came is not the published file (wrong checksum, expected"
            f" {file.checksum}); fetch it by hand into {path}"
        ) from error
    except OSError as error:
        raise DownloadFailed(
            f"{file.url}: download failed ({type(error).__name__}); fetch it by hand and put it"
            f" at {path}, or choose another folder by {CACHE_VARIABLE}"
        ) from error


class _Progress:
    """A rich progress bar behind the four names that pooch expects of one."""

    def __init__(self, what: str):
        self.total = 0
        self._progress = Progress(
            "{task.description}",
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(what, total=None)

    def update(self, size: int) -> None:
        self._progress.start()
        self._progress.update(self._task, total=self.total or None, advance=size)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()
