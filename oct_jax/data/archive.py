"""Zips of scans from anywhere, unpacked without trusting what they say of themselves."""

from __future__ import annotations

import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from oct_jax.types import UserError

MAX_MEMBER_BYTES = 512 * 2**20
MAX_RATIO = 200
"""Larger members, and members that grow by more when unpacked, are refused: bombs, not scans."""

_SMALL = 2**20  # a blank picture may shrink a thousandfold, and does no harm
# What `zipfile` raises on damaged files: of names without a letter and of odd fields, too.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
_DRIVE = re.compile(r"[A-Za-z]:")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a zip into an existing folder; every member's checksum is checked.

    Raises:
      UserError: no readable zip, truncated, encrypted, a member outside the folder, a
        decompression bomb, or more than the disk holds.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            for member in members:
                _check_member(member, archive)
            _check_space(sum(member.file_size for member in members), archive, folder)
            for member in members:
                opened.extract(member, folder)
    except _ZIP_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{archive}: not a readable zip ({reason}); download it again, or unpack it yourself "
            "and name the folder"
        ) from error


def _check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or _DRIVE.match(name) or ".." in PurePosixPath(name).parts:
        raise UserError(
            f"{archive}: holds {member.filename!r}, a path outside the archive; refused"
        )
    grows = member.file_size > _SMALL and member.file_size > MAX_RATIO * member.compress_size
    if member.file_size > MAX_MEMBER_BYTES or grows:
        raise UserError(
            f"{archive}: {member.filename!r} would unpack from {member.compress_size:,} to "
            f"{member.file_size:,} bytes; refused as a decompression bomb"
        )


def _check_space(needed: int, archive: Path, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{archive}: unpacks to {needed:,} bytes, but {folder.parent} has {free:,} free"
        )
