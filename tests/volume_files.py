"""Writes small volumes in the formats of devices, each with a patient's details planted in it."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

PLANTED = ("Quellwasser", "Ottoline", "ID-774411", "1931")
"""Last name, first name, patient number and year of birth that no output may hold."""


def bscans(count=5, height=48, width=64, seed=0) -> list[np.ndarray]:
    """B-scans that differ: a bright band on noise, lower in each."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 40, (count, height, width), dtype=np.uint8)
    for index, image in enumerate(images):
        image[height // 3 + index % 8 : height // 2 + index % 8] += 120
    return list(images)


def write_heyex(
    folder: Path, images, *, laterality="R", order=None, scale_z=0.0039, localizer=True
) -> Path:
    """A HEYEX XML export; `order` shuffles the names of the TIFFs, not the XML."""
    folder.mkdir(parents=True, exist_ok=True)
    count, (height, width) = len(images), images[0].shape
    names = [f"{0xF00000 + number:X}.tif" for number in (order or range(count))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).convert("RGB").save(folder / name, compression="tiff_lzw")
    elements = []
    if localizer:
        Image.fromarray(np.full((96, 96), 90, np.uint8)).save(folder / "LOC.tif")
        elements.append(
            f"<Image><Laterality>{laterality}</Laterality><ImageType><Type>LOCALIZER</Type>"
            "</ImageType><OphthalmicAcquisitionContext><ScaleX>0.06</ScaleX><ScaleY>0.06</ScaleY>"
            "</OphthalmicAcquisitionContext><ImageData><ExamURL>file:///C:\\x\\LOC.tif</ExamURL>"
            "</ImageData></Image>"
        )
    for index, name in enumerate(names):
        y = 5.0 - 4.0 * index / max(count - 1, 1)
        elements.append(
            f"<Image><Laterality>{laterality}</Laterality><ImageType><Type>OCT</Type></ImageType>"
            f"<OphthalmicAcquisitionContext><Width>{width}</Width><Height>{height}</Height>"
            f"<ScaleX>0.0117</ScaleX><ScaleY>{scale_z}</ScaleY>"
            f"<Start><Coord><X>1.0</X><Y>{y:.3f}</Y></Coord></Start>"
            f"<End><Coord><X>5.0</X><Y>{y:.3f}</Y></Coord></End></OphthalmicAcquisitionContext>"
            f"<ImageData><ExamURL>file:///C:\\x\\{name}</ExamURL></ImageData></Image>"
        )
    last, first, number, year = PLANTED
    text = (
        f"<HEDX><BODY><Patient><ID>7</ID><PatientID>{number}</PatientID><LastName>{last}</LastName>"
        f"<FirstNames>{first}</FirstNames><Birthdate><Date><Year>{year}</Year><Month>3</Month>"
        "<Day>4</Day></Date></Birthdate><Study><Series><Type>Volume</Type><GeneralEquipment>"
        "<Manufacturer>Heidelberg Engineering</Manufacturer><ManufacturerModelName>Spectralis"
        f"</ManufacturerModelName></GeneralEquipment><NumImages>{len(elements)}</NumImages>"
        f"{''.join(elements)}</Series></Study></Patient></BODY></HEDX>"
    )
    (folder / "EXPORT.xml").write_text(text)
    return folder


def write_vol(path: Path, images, *, eye=b"OS", pattern=3) -> Path:
    """A Heidelberg .vol whose display gives back the images, within a grey level."""
    height, width = images[0].shape
    header = struct.pack(
        "<12s3I3d2I2dId4sQiI16s16sI24sd", b"HSF-OCT-103", width, len(images), height,
        0.0117, 1.0, 0.0039, 32, 24, 0.2, 0.2, 30, 0.0, eye, 0, pattern, 300, b"1", b"", 9,
        PLANTED[2].encode(), 11386.0,
    )  # fmt: skip
    parts = [header.ljust(2048, b"\x00"), bytes([77]) * 32 * 24]
    for index, image in enumerate(images):
        y = 4.0 - 3.0 * index / max(len(images) - 1, 1)
        parts.append(struct.pack("<12sI4d", b"HSF-BS-103", 300, 1.0, y, 5.0, y).ljust(300, b"\x00"))
        values = np.exp(image.astype(np.float64) / 255 * 8.285 - 8.3) - 2.44e-4
        parts.append(np.maximum(values, 0).astype("<f4").tobytes())
    path.write_bytes(b"".join(parts))
    return path


def write_pages(path: Path, images) -> Path:
    """A TIFF of several pages."""
    pages = [Image.fromarray(image) for image in images]
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])
    return path


def write_numbered(folder: Path, images, name="{:03}.png", first=1) -> Path:
    """A folder of numbered pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(index + first))
    return folder
