"""B-scans of volumes as scans of a data set: `CLASS/eye.vol#12` is the twelfth of its file.

A file of several volumes counts them first: `eyes.e2e#2.12`. What stands for the bytes of such a
scan, in hashes and prepared records, is its grey levels as an uncompressed BMP.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from oct_jax.arrays import ScanArray
from oct_jax.data.readers import UnreadableScan
from oct_jax.data.volumes.opening import open_volumes
from oct_jax.data.volumes.volume import Volume

_MEMBER = re.compile(r"(?P<file>.+)#(?:(?P<volume>[1-9]\d*)\.)?(?P<bscan>[1-9]\d*)")


def member_of(root: Path, path: str) -> tuple[Volume, int] | None:
    """The volume and the index of the B-scan that a path names; None for the path of a file.

    Raises:
      UnreadableScan: the volume cannot be opened, or has no such B-scan.
    """
    match = _MEMBER.fullmatch(path)
    if match is None or (root / path).exists():
        return None
    volumes = _opened(str(root / match["file"]))
    number, index = int(match["volume"] or 1) - 1, int(match["bscan"]) - 1
    if number >= len(volumes) or index >= len(volumes[number]):
        raise UnreadableScan(str(root / path), "the volume has no such B-scan")
    return volumes[number], index


def members(place: Path, relative: str) -> Iterator[tuple[str, Volume, int]]:
    """Path, volume and index of every B-scan in a file or folder.

    Args:
      place: the volume.
      relative: its path in the data set, with forward slashes.

    Raises:
      UnreadableScan: it cannot be opened.
    """
    volumes = _opened(str(place))
    for number, volume in enumerate(volumes, 1):
        prefix = f"{number}." if len(volumes) > 1 else ""
        for index in range(len(volume)):
            yield f"{relative}#{prefix}{index + 1}", volume, index


def volume_path(path: str) -> str:
    """The path of a B-scan without its number, which all B-scans of its volume share."""
    match = _MEMBER.fullmatch(path)
    if match is None:
        return path
    return f"{match['file']}#{match['volume']}" if match["volume"] else match["file"]


def as_bmp(scan: ScanArray) -> bytes:
    """Grey levels as an uncompressed BMP, the same bytes everywhere."""
    stream = io.BytesIO()
    Image.fromarray(scan).save(stream, "BMP")
    return stream.getvalue()


@functools.lru_cache(maxsize=256)
def _opened(place: str) -> tuple[Volume, ...]:
    return open_volumes(place)
