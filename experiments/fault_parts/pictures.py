"""Bad pictures: mutated files of each kind are a grey scan or one line."""

from __future__ import annotations

import io
import zlib

import cv2
import numpy as np
from PIL import Image

from fault_parts.tally import Tally, attempt, mutate
from oct_jax.data.readers import decode_scan, shape_problem

KINDS = ("JPEG", "PNG", "TIFF", "BMP", "16-bit")

_PNG = b"\x89PNG\r\n\x1a\n"


def originals(kind: str) -> list[bytes]:
    """Small whole pictures of a kind: grey, colour, palette, compressed, with transparency."""
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (24, 32)).astype(np.float32), (5, 5), 1)
    grey = Image.fromarray(noise.astype(np.uint8))
    if kind == "16-bit":
        deep = (noise * 16).astype(np.uint16)
        colour = np.dstack([deep, deep, deep])
        coded = [
            cv2.imencode(suffix, levels)[1].tobytes()
            for suffix in (".png", ".tiff")
            for levels in (deep, colour)
        ]
        return [*coded, _saved(Image.fromarray(noise), "TIFF")]  # the last holds floats
    modes = {"JPEG": ("L", "RGB", "CMYK"), "BMP": ("L", "RGB", "P", "1")}
    pictures = [
        _saved(grey.convert(mode), kind) for mode in modes.get(kind, ("L", "RGB", "RGBA", "P", "1"))
    ]
    if kind == "JPEG":
        exif = Image.Exif()
        exif[0x0112] = 6
        pictures += [_saved(grey, kind, exif=exif), _saved(grey, kind, progressive=True)]
    if kind == "TIFF":
        ways = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        pictures += [_saved(grey, kind, compression=way) for way in ways]
        pictures.append(_saved(grey, kind, save_all=True, append_images=[grey]))
    return pictures


def mutated_pictures(kind: str, count: int, seed: int) -> Tally:
    """Decodes mutated pictures; whatever is decoded must be a grey scan of a possible shape."""
    rng = np.random.default_rng(seed)
    whole = originals(kind)
    tally = Tally()
    for number in range(count):
        data = mutate(whole[number % len(whole)], rng)
        if rng.random() < 0.5:
            data = with_right_checksums(data)
        label = f"{kind} {number} of seed {seed}"
        scan = attempt(tally, label, lambda data=data: decode_scan(data, "scan"))
        if scan is not None and (
            scan.dtype != np.uint8 or scan.ndim != 2 or shape_problem(*scan.shape)
        ):
            tally.add("wrong", f"{label}: {scan.dtype} of shape {scan.shape}")
    return tally


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks' checksums are computed anew, for else none but they would be tested."""
    if not data.startswith(_PNG):
        return data
    mended, position = bytearray(data), len(_PNG)
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            break
        mended[end : end + 4] = zlib.crc32(data[position + 4 : end]).to_bytes(4, "big")
        position = end + 4
    return bytes(mended)


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
