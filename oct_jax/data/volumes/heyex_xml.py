"""HEYEX XML exports: an XML file and a TIFF for each B-scan and the localizer, in one folder.

The names of the TIFFs are in no order; that of the XML counts. Positions are millimetres over the
localizer, from its top left.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from oct_jax.arrays import ScanArray
from oct_jax.data.readers import UnreadableScan, read_scan
from oct_jax.data.volumes.volume import (
    MAX_BSCANS,
    BScans,
    Laterality,
    Localizer,
    Pattern,
    Volume,
    checked_spacing,
    eye_id,
    offsets,
    opaque_id,
    safe_name,
    straight,
)

FORMAT = "HEYEX XML export"
_MAX_BYTES = 64_000_000
_MARK = b"<HEDX"
_PATTERNS: dict[str, Pattern] = {"volume": "raster", "radial": "radial", "circle": "circle"}


@dataclass(frozen=True)
class FileBScans(BScans):
    """B-scans that are picture files."""

    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> ScanArray:
        """See `BScans`."""
        return read_scan(self.files[index])


@dataclass(frozen=True)
class _Image:
    """An image of the XML: where its file is, and its element."""

    element: ElementTree.Element
    file: Path | None
    number: int


class _Person(NamedTuple):
    """What the XML says of the patient; it goes no further than its hash."""

    patient_id: str
    number: str
    last_name: str
    first_names: str
    birth_date: str

    @classmethod
    def of(cls, patient: ElementTree.Element) -> _Person:
        names = ("PatientID", "ID", "LastName", "FirstNames")
        birth = [_text(patient, f"Birthdate/Date/{part}") for part in ("Year", "Month", "Day")]
        return cls(*(_text(patient, name) for name in names), "-".join(filter(None, birth)))

    @property
    def identifying(self) -> tuple[str, ...]:
        """What names this person alone; a first name does not."""
        return (self.patient_id, self.number, self.last_name, self.birth_date)


def is_heyex_xml(path: Path) -> bool:
    """Whether a file is the XML of such an export."""
    try:
        with path.open("rb") as file:
            return _MARK in file.read(1024).replace(b"\x00", b"")  # UTF-16 too
    except OSError:
        return False


def open_heyex_xml(path: Path) -> tuple[Volume, ...]:
    """The volumes that an export's XML lists; most list one.

    Raises:
      UnreadableScan: not XML, no B-scans in it, or none of their files is there.
    """
    root = _parse(path)
    volumes = [
        _volume(path, patient, series, number)
        for patient in root.iter("Patient")
        for number, series in enumerate(patient.iter("Series"))
        if series.find("Image/ImageType[Type='OCT']") is not None
    ]
    if not volumes:
        raise UnreadableScan(str(path), "lists no OCT B-scans; export the volume with its images")
    return tuple(volumes)


def _parse(path: Path) -> ElementTree.Element:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UnreadableScan(str(path), f"more than {_MAX_BYTES // 10**6} MB of XML")
        return ElementTree.parse(path).getroot()
    except OSError as error:
        raise UnreadableScan(str(path), error.strerror or str(error)) from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UnreadableScan(str(path), f"damaged or truncated XML ({error})") from error


def _volume(
    path: Path, patient: ElementTree.Element, series: ElementTree.Element, number: int
) -> Volume:
    images = [
        _Image(element, _file_of(element, path.parent), index)
        for index, element in enumerate(series.findall("Image"), 1)
    ]
    bscans = [image for image in images if _text(image.element, "ImageType/Type") == "OCT"]
    if len(bscans) > MAX_BSCANS:
        raise UnreadableScan(str(path), f"{len(bscans)} B-scans; at most {MAX_BSCANS} are read")
    present = [(n, image) for n, image in enumerate(bscans, 1) if image.file is not None]
    if not present:
        raise UnreadableScan(str(path), f"none of its {len(bscans)} B-scan files is in the folder")
    files = tuple(image.file for _, image in present if image.file is not None)
    localizer = _localizer(images)
    laterality = _laterality(present[0][1].element)
    person = _Person.of(patient)
    patient_name = opaque_id(*person)
    eye = eye_id(patient_name, laterality)
    contexts = [image.element.find("OphthalmicAcquisitionContext") for _, image in present]
    paths = _paths(contexts, localizer)
    folder = safe_name(path.parent.resolve().name, person.identifying, eye or "eye")
    series_type = _text(series, "Type").casefold()
    return Volume(
        name=folder if number == 0 else f"{folder}-{number + 1}",
        bscans=FileBScans(files),
        format=FORMAT,
        spacing=checked_spacing(_scales(contexts[0])),
        paths=paths,
        distances=offsets(paths, localizer.spacing if localizer else None),
        pattern=_PATTERNS.get(series_type, "line" if len(bscans) == 1 else "unknown"),
        laterality=laterality,
        device=_device(series),
        localizer=localizer,
        patient=patient_name,
        eye=eye,
        numbers=tuple(n for n, _ in present),
        missing=_missing(bscans, images, series),
    )


def _file_of(element: ElementTree.Element, folder: Path) -> Path | None:
    """The file beside the XML that an image's URL on another computer names; None if it is gone."""
    name = PureWindowsPath(_text(element, "ImageData/ExamURL").replace("/", "\\")).name
    if not name or "\x00" in name:
        return None
    file = folder / name
    try:
        return file if file.is_file() else None
    except OSError:
        return None


def _missing(
    bscans: list[_Image], images: list[_Image], series: ElementTree.Element
) -> tuple[str, ...]:
    gone = [str(n) for n, image in enumerate(bscans, 1) if image.file is None]
    lines = []
    if gone:
        lines.append(
            f"{len(gone)} of {len(bscans)} B-scans are missing from the export: {', '.join(gone)}"
        )
    announced = _number(series, "NumImages")
    if announced is not None and announced > len(images):
        lines.append(f"the export lists {len(images)} of {announced:.0f} images: it was cut short")
    return tuple(lines)


def _localizer(images: list[_Image]) -> Localizer | None:
    for image in images:
        if _text(image.element, "ImageType/Type") == "LOCALIZER" and image.file is not None:
            scales = _scales(image.element.find("OphthalmicAcquisitionContext"))
            return Localizer(partial(read_scan, image.file), scales)
    return None


def _scales(context: ElementTree.Element | None) -> tuple[float, float] | None:
    """Micrometres a pixel, (down, across); None where one is missing or no size."""
    across, down = _number(context, "ScaleX"), _number(context, "ScaleY")
    if across is None or down is None or across <= 0 or down <= 0:
        return None
    return round(1000 * down, 6), round(1000 * across, 6)


def _paths(contexts: list[ElementTree.Element | None], localizer: Localizer | None):
    if localizer is None or localizer.spacing is None:
        return ()
    down, across = localizer.spacing
    paths = []
    for context in contexts:
        places = [
            _number(context, f"{end}/Coord/{axis}") for end in ("Start", "End") for axis in "XY"
        ]
        x0, y0, x1, y1 = (math.nan if place is None else place for place in places)
        start, end = (1000 * x0 / across, 1000 * y0 / down), (1000 * x1 / across, 1000 * y1 / down)
        paths.append(straight(start, end))
    return () if any(path is None for path in paths) else tuple(paths)


def _laterality(element: ElementTree.Element) -> Laterality | None:
    side = _text(element, "Laterality").upper()
    return "R" if side in ("R", "OD") else "L" if side in ("L", "OS") else None


def _device(series: ElementTree.Element) -> str:
    names = ("Manufacturer", "ManufacturerModelName")
    return " ".join(filter(None, (_text(series, f"GeneralEquipment/{name}") for name in names)))


def _text(element: ElementTree.Element | None, path: str) -> str:
    return "" if element is None else (element.findtext(path) or "").strip()


def _number(element: ElementTree.Element | None, path: str) -> float | None:
    try:
        value = float(_text(element, path))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
