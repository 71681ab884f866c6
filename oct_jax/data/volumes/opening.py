"""One function for every format: which one a file or a folder is, its content tells."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from oct_jax.data.readers import UnreadableScan
from oct_jax.data.volumes.dicom import MAGIC as DICOM
from oct_jax.data.volumes.dicom import open_dicom
from oct_jax.data.volumes.heidelberg_e2e import MAGICS as E2E
from oct_jax.data.volumes.heidelberg_e2e import open_e2e
from oct_jax.data.volumes.heidelberg_vol import MAGIC as VOL
from oct_jax.data.volumes.heidelberg_vol import open_vol
from oct_jax.data.volumes.heyex_xml import is_heyex_xml, open_heyex_xml
from oct_jax.data.volumes.stacks import has_pages, numbered_pictures, open_numbered, open_pages
from oct_jax.data.volumes.topcon import MAGIC as TOPCON
from oct_jax.data.volumes.topcon import open_topcon
from oct_jax.data.volumes.volume import Volume
from oct_jax.data.volumes.zeiss import is_cube, open_cube
from oct_jax.paths import expand_home
from oct_jax.types import UserError

_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
ONE_PICTURE = (".jpeg", ".jpg", ".png", ".bmp")
"""Endings that are not looked into where a folder is searched: there may be 100,000 of them."""
_EXPECTED = (
    "not a volume: a HEYEX XML export, a Heidelberg .vol or .e2e, Topcon .fda or .fds, Zeiss .img"
    " or DICOM file, a TIFF of several pages, or a folder of numbered pictures"
)
Opener = Callable[[Path], tuple[Volume, ...]]


def open_volume(path: str | os.PathLike[str]) -> Volume:
    """Opens the one volume in a file or folder; see `open_volumes`.

    Raises:
      UserError: see `open_volumes`; or there are several.
    """
    volumes = open_volumes(path)
    if len(volumes) > 1:
        raise UserError(f"{path}: holds {len(volumes)} volumes; open them with open_volumes")
    return volumes[0]


def open_volumes(path: str | os.PathLike[str]) -> tuple[Volume, ...]:
    """Opens every volume in a file or a folder; no B-scan is read yet.

    Args:
      path: a file of a known format, or the folder of one export or of numbered pictures. The
        format is detected from content, whatever the file is called.

    Raises:
      UnreadableScan: no such file, not a volume, or a damaged one.
    """
    place = Path(expand_home(path))
    opener = _folder_opener(place) if place.is_dir() else _file_opener(place)
    if opener is None:
        reason = _EXPECTED if place.exists() else "no such file or folder"
        raise UnreadableScan(str(path), reason)
    return opener(place)


def is_volume(path: Path) -> bool:
    """Whether a file or folder is a volume itself; one that is damaged inside counts."""
    if path.is_dir():
        return _folder_opener(path) is not None
    return _file_opener(path) is not None


def holds_volumes(folder: Path) -> list[Path]:
    """The volumes in a folder and its subfolders, sorted; a folder that is one is not entered."""
    if is_volume(folder):
        return [folder]
    volumes = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            volumes += holds_volumes(path)
        elif path.suffix.casefold() not in ONE_PICTURE and _file_opener(path) is not None:
            volumes.append(path)
    return volumes


def _folder_opener(folder: Path) -> Opener | None:
    exports = [path for path in sorted(folder.glob("*.[xX][mM][lL]")) if is_heyex_xml(path)]
    if exports:
        return lambda _: tuple(volume for path in exports for volume in open_heyex_xml(path))
    files = numbered_pictures(folder)
    return (lambda place: open_numbered(place, files)) if files else None


def _file_opener(path: Path) -> Opener | None:
    start = _first_bytes(path)
    if start.startswith(VOL):
        return open_vol
    if start.startswith(E2E):
        return open_e2e
    if start.startswith(TOPCON):
        return open_topcon
    if start[128:] == DICOM:
        return open_dicom
    if is_cube(path):
        return open_cube
    if start.startswith(_TIFF):
        return open_pages if has_pages(path) else None
    return open_heyex_xml if is_heyex_xml(path) else None


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError:
        return b""
