"""DICOM Ophthalmic Tomography images, through pydicom (the extra `devices`).

Uncompressed, RLE, JPEG 2000 (Pillow) and JPEG-LS (pyjpegls) pixels; frames are decoded one at a
time. Written by tests; no file of a real device was at hand.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oct_jax.arrays import ScanArray
from oct_jax.data.readers import UnreadableScan, shape_problem
from oct_jax.data.volumes.volume import (
    MAX_BSCANS,
    BScans,
    Laterality,
    Volume,
    checked_spacing,
    eye_id,
    opaque_id,
    safe_name,
)

FORMAT = "DICOM Ophthalmic Tomography"
MAGIC = b"DICM"
MISSING = "reading DICOM needs the extra `devices`: pip install 'oct-jax[devices]'"
TRANSFORM = "DICOM grey scale, the stored bits to 0..255"
_OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"


@dataclass(frozen=True)
class DicomBScans(BScans):
    """The frames of a DICOM file."""

    file: Path
    count: int
    bits: int
    inverted: bool

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> ScanArray:
        """See `BScans`."""
        _pydicom(self.file)
        from pydicom.pixels import pixel_array

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                frame = np.asarray(pixel_array(self.file, index=index))
        except Exception as error:  # pydicom and its decoders raise a dozen types
            reason = " ".join(str(error).split())[:200]
            raise UnreadableScan(str(self.file), f"frame {index + 1}: {reason}") from error
        if frame.ndim != 2 or frame.dtype.kind not in "ui":
            reason = f"frame {index + 1}: pixels of shape {frame.shape}, {frame.dtype}; grey needed"
            raise UnreadableScan(str(self.file), reason)
        full = 2**self.bits - 1
        levels = np.clip(frame.astype(np.int64), 0, full)
        grey = ((levels * 255 + full // 2) // full).astype(np.uint8)
        return 255 - grey if self.inverted else grey


def open_dicom(path: Path) -> tuple[Volume, ...]:
    """The one volume of a DICOM file.

    Raises:
      UnreadableScan: the extra `devices` is not installed; damaged, another kind of image, or
        pixels that are not grey.
    """
    pydicom = _pydicom(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(path, stop_before_pixels=True, defer_size=1024)
            return (_volume(path, data),)
    except UnreadableScan:
        raise
    except Exception as error:  # pydicom raises a dozen types on damaged files
        reason = f"damaged DICOM ({type(error).__name__})"  # its message may quote a value
        raise UnreadableScan(str(path), reason) from error


def _volume(path: Path, data: Any) -> Volume:
    if str(data.get("SOPClassUID", "")) != _OPT:
        raise UnreadableScan(str(path), "DICOM, but not an Ophthalmic Tomography Image")
    count, bits = int(data.get("NumberOfFrames", 1)), int(data.BitsStored)
    problem = shape_problem(int(data.Rows), int(data.Columns))
    if problem or not 1 <= count <= MAX_BSCANS or not 1 <= bits <= 16:
        raise UnreadableScan(str(path), f"damaged header: {problem or f'{count} frames'}")
    if int(data.get("SamplesPerPixel", 1)) != 1:
        raise UnreadableScan(str(path), "colour; a B-scan is grey")
    person = tuple(
        str(data.get(name, "") or "").replace("^", " ").strip()
        for name in ("PatientID", "PatientName", "PatientBirthDate")
    )
    laterality = _laterality(data)
    patient = opaque_id(*person)
    eye = eye_id(patient, laterality)
    spacing, apart = _measures(data)
    middle = (count - 1) / 2
    return Volume(
        name=safe_name(path.stem, person, eye or "eye"),
        bscans=DicomBScans(
            path, count, bits, data.get("PhotometricInterpretation") == "MONOCHROME1"
        ),
        format=FORMAT,
        transform=TRANSFORM,
        spacing=checked_spacing(spacing),
        distances=tuple((index - middle) * apart for index in range(count)) if apart else (),
        pattern="raster" if apart and count > 1 else "unknown",
        laterality=laterality,
        device=" ".join(
            str(data.get(name, "") or "") for name in ("Manufacturer", "ManufacturerModelName")
        ).strip(),
        patient=patient,
        eye=eye,
    )


def _laterality(data: Any) -> Laterality | None:
    side = data.get("ImageLaterality") or data.get("Laterality")
    if not side:
        anatomy = _shared(data, "FrameAnatomySequence")
        side = anatomy.get("FrameLaterality") if anatomy is not None else None
    return "R" if side == "R" else "L" if side == "L" else None


def _measures(data: Any) -> tuple[tuple[float, float] | None, float]:
    """Micrometres a pixel (axial, lateral), and between B-scans; None and 0 where not given."""
    measures = _shared(data, "PixelMeasuresSequence")
    source = measures if measures is not None else data
    pixels = source.get("PixelSpacing")
    spacing = None if not pixels else (1000 * float(pixels[0]), 1000 * float(pixels[1]))
    apart = source.get("SpacingBetweenSlices") or source.get("SliceThickness") or 0
    micrometres = 1000 * float(apart)
    return spacing, micrometres if 1 <= micrometres <= 5000 else 0.0


def _shared(data: Any, name: str) -> Any:
    """The first item of a shared, or else of the first frame's, functional group."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        sequence = data.get(groups)
        if sequence and sequence[0].get(name):
            return sequence[0].get(name)[0]
    return None


def _pydicom(path: Path) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise UnreadableScan(str(path), MISSING) from error
    return pydicom
