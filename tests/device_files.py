"""Writes volumes of further devices: Heidelberg .e2e, Topcon, Zeiss, DICOM; see `volume_files`."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from volume_files import PLANTED


def to_ufloat(image: np.ndarray) -> np.ndarray:
    """Heidelberg's 16-bit floats that are displayed as the image's grey levels."""
    values = np.maximum(np.exp(image.astype(np.float64) / 255 * 8.285 - 8.3) - 2.44e-4, 2.0**-60)
    exponent = np.floor(np.log2(values))
    mantissa = np.clip(np.rint((values / 2**exponent - 1) * 1024), 0, 1023)
    return ((exponent + 63).astype(np.int64) * 1024 + mantissa.astype(np.int64)).astype("<u2")


def write_e2e(path: Path, images, *, eye="L", announced=None, skip=0) -> Path:
    """A Heidelberg .e2e of one series, its directory split in two."""
    last, first, number, year = PLANTED
    chunks: list[tuple[int, int, int, bytes]] = [
        (9, -1, 0, struct.pack("<31s51s15sI1s25s", first.encode(), last.encode(), b"", int(year),
                               b"F", number.encode())),
        (11, -1, 0, b"\x00" * 14 + eye.encode() + b"\x00"),
        (0x40000000, -1, 0, struct.pack("<5I", 0, 0x02010201, 0, 60, 60) + bytes([55]) * 3600),
        (99999, 0, 0, b"something else"),
    ]  # fmt: skip
    for index, image in enumerate(images):
        height, width = image.shape
        y = 6.0 - 12.0 * index / max(len(images) - 1, 1)
        place = struct.pack("<3I4fIff", 0, height, width, -10, y, 10, y, 0, 0, 0.0039)
        place = place.ljust(64, b"\x00") + struct.pack("<I", announced or len(images))
        chunks.append((10004, 2 * index, 0, place.ljust(104, b"\x00")))
        data = struct.pack("<5I", 0, 0x02200201, 0, height, width) + to_ufloat(image).tobytes()
        chunks.append((0x40000000, 2 * index, 1, data))
    body, starts = bytearray(), []
    first_chunk = 36 + 52
    for kind, slice_id, ind, data in chunks:
        starts.append(first_chunk + len(body))
        size = len(data)
        body += struct.pack(
            "<12s8IiHHII", b"MDbData", 0, 0, starts[-1], size, 0, 5, 6, 7, slice_id, ind, 0, kind, 0
        )
        body += data
    half = len(chunks) // 2
    one = first_chunk + len(body)
    two = one + 52 + 44 * half
    directories = bytearray()
    for part, previous in ((range(half), 0), (range(half, len(chunks)), one)):
        directories += struct.pack("<12sI20s4I", b"MDbDir", 1, b"", len(part), 0, previous, 0)
        for index in part:
            kind, slice_id, _, data = chunks[index]
            directories += struct.pack(
                "<7IiHHII", 0, starts[index], len(data), 0, 5, 6, 7, slice_id, 0, 0, kind, 0
            )
    head = b"CMDb".ljust(12, b"\x00") + struct.pack("<I20s", 1, b"")
    main = struct.pack("<12sI20s4I", b"MDbMDir", 1, b"", 0, two, two, 0)
    start = b"E2EMultipleVolumeFile".ljust(64, b"\x00") if skip else b""
    path.write_bytes(start + head + main + bytes(body) + bytes(directories))
    return path


def write_topcon(path: Path, images, *, pictures=True, eye=0, fundus=True) -> Path:
    """A Topcon .fda (`pictures`, JPEG 2000) or .fds (16-bit intensities)."""
    last, first, number, year = PLANTED
    height, width = images[0].shape
    parts = [b"FOCT", b"FDA" if pictures else b"FDS", struct.pack("<2I", 8, 1)]

    def add(name: bytes, data: bytes) -> None:
        parts.append(bytes([len(name)]) + name + struct.pack("<I", len(data)) + data)

    person = struct.pack(
        "<32s32s32s8sB3H", number.encode(), first.encode(), last.encode(), b"", 2, int(year), 3, 4
    )
    add(b"@PATIENT_INFO_02", person.ljust(600, b"\x00"))
    capture = struct.pack("<BBI100s6H", eye, 2, 1, b"", 2001, 2, 3, 4, 5, 6)
    add(b"@CAPTURE_INFO_02", capture.ljust(200, b"\x00"))
    add(b"@HW_INFO_03", b"3DOCT-1".ljust(100, b"\x00"))
    add(b"@PARAM_SCAN_04", struct.pack("<3I5d2B", 0, 0, 0, 6.0, 6.0, 2.6, 0, 0, 0, 0))
    add(b"@REGIST_INFO", struct.pack("<B2I4I", 0, 0, 0, 10, 20, 50, 60).ljust(60, b"\x00"))
    if fundus:
        photo = jpeg2000(np.full((80, 80), 99, np.uint8))
        add(b"@IMG_FUNDUS", struct.pack("<4I4sI", 80, 80, 8, 1, b"", len(photo)) + photo)
    if pictures:
        frames = [jpeg2000(image) for image in images]
        head = struct.pack("<B6I", 2, 0, 0, width, height, len(images), 0)
        add(b"@IMG_JPEG", head + b"".join(struct.pack("<i", len(f)) + f for f in frames))
    else:
        raw = b"".join((image.astype("<u2") * 200).tobytes() for image in images)
        head = struct.pack("<B4IBI", 2, width, height, 16, len(images), 0, len(raw))
        add(b"@IMG_SCAN_03", head + raw)
    path.write_bytes(b"".join(parts) + b"\x00")
    return path


def jpeg2000(image: np.ndarray) -> bytes:
    """A lossless JPEG 2000 picture."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG2000", irreversible=False)
    return stream.getvalue()


def write_dicom(path: Path, images, *, syntax="explicit", eye="R", inverted=False) -> Path:
    """A DICOM Ophthalmic Tomography image; `syntax` is explicit, jpeg2000 or jpegls."""
    import pydicom
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, generate_uid

    kinds = {
        "explicit": ExplicitVRLittleEndian,
        "jpeg2000": JPEG2000Lossless,
        "jpegls": JPEGLSLossless,
    }
    last, first, number, year = PLANTED
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = kinds[syntax]
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\x00" * 128)
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = f"{last}^{first}", number
    data.PatientBirthDate = f"{year}0304"
    data.Manufacturer, data.ManufacturerModelName = "Maker", "Model"
    data.ImageLaterality = eye
    data.NumberOfFrames = len(images)
    data.Rows, data.Columns = images[0].shape
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 8, 8, 7
    data.PixelRepresentation = 0
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.0039, 0.0117], 0.25
    shared = Dataset()
    shared.PixelMeasuresSequence = pydicom.Sequence([measures])
    data.SharedFunctionalGroupsSequence = pydicom.Sequence([shared])
    if syntax == "explicit":
        data.PixelData = b"".join(image.tobytes() for image in images)
    elif syntax == "jpeg2000":
        data.PixelData = encapsulate([_codestream(image) for image in images])
    else:
        import jpeg_ls

        frames = [bytes(jpeg_ls.encode_array(np.ascontiguousarray(image))) for image in images]
        data.PixelData = encapsulate(frames)
    data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)
    return path


def _codestream(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    return stream.getvalue()
