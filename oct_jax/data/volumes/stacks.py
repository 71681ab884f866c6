"""Pictures without a device's header: TIFF files of several pages, folders of numbered pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from oct_jax.arrays import ScanArray
from oct_jax.data.readers import UnreadableScan, grey_picture
from oct_jax.data.volumes.heyex_xml import FileBScans
from oct_jax.data.volumes.volume import MAX_BSCANS, BScans, Volume
from oct_jax.paths import EXPLAINED

PAGES = "TIFF of several pages"
NUMBERED = "folder of numbered pictures"
PICTURES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp")
_FEWEST = 5
"""Fewer numbered pictures are taken as separate scans."""
_NUMBERED = re.compile(
    r"(?P<word>(?:b-?)?(?:scan|slice|image|img|frame|oct|page)?[-_ ]*)(?P<number>\d+)"
)


@dataclass(frozen=True)
class TiffBScans(BScans):
    """The pages of a TIFF file."""

    file: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> ScanArray:
        """See `BScans`."""
        try:
            with Image.open(self.file, formats=("TIFF",)) as picture:
                picture.seek(index)
                return grey_picture(picture)
        except UnreadableScan as error:
            reason = error.reason
        except Exception as error:  # on damaged files Pillow raises a dozen types
            reason = f"damaged or truncated ({' '.join(str(error).split())})"
        raise UnreadableScan(str(self.file), f"page {index + 1}: {reason}")


def has_pages(path: Path) -> bool:
    """Whether a file is a TIFF of two pages or more."""
    try:
        with Image.open(path, formats=("TIFF",)) as picture:
            picture.seek(1)
            return True
    except Exception:  # the end of the file, or a damaged one
        return False


def open_pages(path: Path) -> tuple[Volume, ...]:
    """The volume whose B-scans are the pages of a TIFF file.

    Raises:
      UnreadableScan: damaged, or more pages than a volume has B-scans.
    """
    count = _count_pages(path)
    return (Volume(name=path.stem, bscans=TiffBScans(path, count), format=PAGES),)


def numbered_pictures(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder in the order of their numbers; empty where it is no volume.

    A volume is five pictures or more, and no others beside them, whose names are one number each
    (`001.png`), after one word for a B-scan or none (`bscan_001.png`).
    """
    pictures = [path for path in sorted(folder.iterdir()) if _is_picture(path)]
    matches = [_NUMBERED.fullmatch(path.stem.casefold()) for path in pictures]
    if len(pictures) < _FEWEST or not all(matches):
        return ()
    words = {match["word"] for match in matches if match}
    numbers = [int(match["number"]) for match in matches if match]
    if len(words) != 1 or len(set(numbers)) != len(numbers):
        return ()
    return tuple(path for _, path in sorted(zip(numbers, pictures, strict=True)))


def open_numbered(folder: Path, files: Sequence[Path]) -> tuple[Volume, ...]:
    """The volume whose B-scans are picture files, in the order given.

    Raises:
      UnreadableScan: more files than a volume has B-scans.
    """
    if len(files) > MAX_BSCANS:
        raise UnreadableScan(str(folder), f"{len(files)} pictures; at most {MAX_BSCANS} are read")
    name = folder.resolve().name
    return (
        Volume(name=name, bscans=FileBScans(tuple(files)), format=NUMBERED, missing=_gaps(files)),
    )


def _gaps(files: Sequence[Path]) -> tuple[str, ...]:
    """The numbers that are missing between the first and the last, as a line."""
    ends = [re.search(r"(\d+)$", path.stem) for path in files]
    numbers = [int(end[1]) for end in ends if end]
    if len(numbers) != len(files) or numbers[-1] - numbers[0] > 2 * MAX_BSCANS:
        return ()
    gone = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
    if not gone:
        return ()
    listed = ", ".join(map(str, gone[:20])) + (" and more" if len(gone) > 20 else "")
    return (f"{len(gone)} of the numbered pictures are missing: {listed}",)


def _count_pages(path: Path) -> int:
    try:
        with Image.open(path, formats=("TIFF",)) as picture:
            count = 1
            while count <= MAX_BSCANS:
                try:
                    picture.seek(count)
                except EOFError:
                    return count
                count += 1
    except Exception as error:
        raise UnreadableScan(
            str(path), f"damaged or truncated ({' '.join(str(error).split())})"
        ) from error
    raise UnreadableScan(str(path), f"more than {MAX_BSCANS} pages")


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".") or path.stem.endswith(EXPLAINED)
    return path.suffix.casefold() in PICTURES and not hidden and path.is_file()
