"""Files of every kind that the viewer reads, and of kinds that it must refuse."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

_WIDTH, _HEIGHT = 37, 29
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def readable() -> dict[str, bytes]:
    """By name, files that Python and the page must read to the same grey levels."""
    return dict([*_jpegs(), *_pngs(), *_tiffs(), *_bmps()])


def refused() -> dict[str, tuple[bytes, str]]:
    """By name, a file and the code that the page must refuse it with."""
    grey, colour = _grey(), _colour()
    jpeg, png = _saved(grey, "JPEG"), _saved(grey, "PNG")
    tiff, bmp = _saved(grey, "TIFF"), _saved(grey, "BMP")
    animated = _saved(grey, "PNG", save_all=True, append_images=[grey.rotate(180)])
    return {
        "empty.png": (b"", "empty"),
        "text.jpg": (b"no picture at all", "unknownFormat"),
        "gif.png": (_saved(grey, "GIF"), "unknownFormat"),
        "cmyk.jpg": (_saved(colour.convert("CMYK"), "JPEG"), "cmyk"),
        "truncated.jpg": (jpeg[: len(jpeg) * 2 // 3], "truncated"),
        "truncated.png": (png[: len(png) * 2 // 3], "truncated"),
        "truncated.tif": (tiff[: len(tiff) - 200], "truncated"),
        "truncated.bmp": (bmp[: len(bmp) - 200], "truncated"),
        "changed.png": (_flipped(png), "damaged"),
        "animated.png": (animated, "frames"),
        "jpeg-in.tif": (_saved(grey, "TIFF", compression="jpeg"), "tiffCompression"),
        "fax.tif": (_saved(grey.convert("1"), "TIFF", compression="group4"), "tiffCompression"),
        "cmyk.tif": (_saved(colour.convert("CMYK"), "TIFF"), "tiffKind"),
        "negative.tif": (_saved(_float(-1.0), "TIFF"), "floatRange"),
        "line.png": (_saved(Image.new("L", (400, 3)), "PNG"), "notABscan"),
    }


def dicom(
    frames: np.ndarray,
    *,
    bits: int,
    syntax: str = "1.2.840.10008.1.2.1",
    colour: str = "MONOCHROME2",
    kind: str = "1.2.840.10008.5.1.4.1.1.77.1.5.4",
) -> bytes:
    """A DICOM file, explicit little endian.

    Args:
      frames: uint8 or uint16 (frames, height, width).
      bits: stored.
      syntax: that the file announces.
      colour: photometric interpretation.
      kind: SOP class.
    """
    allocated = frames.dtype.itemsize * 8
    values = [
        (0x0008, 0x0016, "UI", kind),
        (0x0028, 0x0002, "US", 1),
        (0x0028, 0x0004, "CS", colour),
        (0x0028, 0x0008, "IS", str(len(frames))),
        (0x0028, 0x0010, "US", frames.shape[1]),
        (0x0028, 0x0011, "US", frames.shape[2]),
        (0x0028, 0x0100, "US", allocated),
        (0x0028, 0x0101, "US", bits),
        (0x0028, 0x0102, "US", bits - 1),
        (0x0028, 0x0103, "US", 0),
    ]
    meta = _element(0x0002, 0x0010, "UI", syntax)
    meta = _element(0x0002, 0x0000, "UL", len(meta)) + meta
    body = b"".join(_element(*value) for value in values)
    pixels = frames.astype(frames.dtype.newbyteorder("<")).tobytes()
    name = "OW" if allocated == 16 else "OB"
    return b"\0" * 128 + b"DICM" + meta + body + _element(0x7FE0, 0x0010, name, pixels)


def _element(group: int, element: int, kind: str, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        data = struct.pack("<I" if kind == "UL" else "<H", value)
    else:
        data = value.encode() if isinstance(value, str) else value
        data += (b"\0" if kind in ("UI", "OB", "OW") else b" ") * (len(data) % 2)
    head = struct.pack("<HH2s", group, element, kind.encode())
    if kind in ("OB", "OW"):
        return head + struct.pack("<HI", 0, len(data)) + data
    return head + struct.pack("<H", len(data)) + data


def _jpegs() -> Iterator[tuple[str, bytes]]:
    grey, colour = _grey(), _colour()
    for quality in (50, 90, 100):
        yield f"grey-{quality}.jpg", _saved(grey, "JPEG", quality=quality)
    yield "grey-progressive.jpg", _saved(grey, "JPEG", progressive=True)
    yield "grey-optimised.jpg", _saved(grey, "JPEG", optimize=True)
    yield "grey-restarts.jpg", _saved(grey, "JPEG", restart_marker_blocks=2)
    yield "grey-profile.jpg", _saved(grey, "JPEG", icc_profile=_profile())
    yield "grey-comment.jpg", _saved(grey, "JPEG", comment=b"a comment")
    for sampling in (0, 1, 2):
        yield f"colour-{sampling}.jpg", _saved(colour, "JPEG", quality=88, subsampling=sampling)
    yield "colour-progressive.jpg", _saved(colour, "JPEG", progressive=True)
    yield "colour-profile.jpg", _saved(colour, "JPEG", icc_profile=_profile())
    yield "colour-rgb.jpg", _saved(colour, "JPEG", keep_rgb=True)
    for orientation in range(1, 9):
        yield f"turned-{orientation}.jpg", _saved(grey, "JPEG", exif=_exif(orientation))


def _pngs() -> Iterator[tuple[str, bytes]]:
    random = np.random.default_rng(3)
    for colour, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (4, (8, 16)), (6, (8, 16))):
        for depth in depths:
            shape = (_HEIGHT, _WIDTH, _CHANNELS[colour])
            samples = random.integers(0, 2**depth, shape)
            yield f"colour-{colour}-depth-{depth}.png", _png(samples, colour, depth)
            if depth in (1, 8, 16):
                name = f"interlaced-{colour}-depth-{depth}.png"
                yield name, _png(samples, colour, depth, interlaced=True)
    twelve = random.integers(0, 4096, (_HEIGHT, _WIDTH, 1))
    yield "twelve-bits.png", _png(twelve, 0, 16)
    yield "twelve-bits-colour.png", _png(random.integers(0, 4096, (_HEIGHT, _WIDTH, 3)), 2, 16)
    yield "eight-bits-in-16.png", _png(twelve // 16, 0, 16)
    palette = random.integers(0, 256, (16, 3), np.uint8).tobytes()
    indices = random.integers(0, 16, (_HEIGHT, _WIDTH, 1))
    for depth in (4, 8):
        yield f"palette-{depth}.png", _png(indices, 3, depth, PLTE=palette)
    half = random.integers(0, 256, 12, np.uint8).tobytes()
    yield "palette-alpha.png", _png(indices, 3, 8, PLTE=palette, tRNS=half)
    levels = random.integers(0, 4, (_HEIGHT, _WIDTH, 1))
    yield "transparent-grey.png", _png(levels * 60, 0, 8, tRNS=struct.pack(">H", 60))
    yield "gamma.png", _png(levels * 60, 0, 8, gAMA=struct.pack(">I", 100000))
    yield "turned-6.png", _saved(_grey(), "PNG", exif=_exif(6))
    for level in (0, 9):
        yield f"filtered-{level}.png", _saved(_grey(), "PNG", compress_level=level)


def _tiffs() -> Iterator[tuple[str, bytes]]:
    grey, colour = _grey(), _colour()
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 200 + 11)
    pictures = {
        "grey": grey,
        "colour": colour,
        "deep": deep,
        "bilevel": grey.convert("1"),
        "palette": colour.quantize(50),
    }
    for name, picture in pictures.items():
        for compression in (None, "packbits", "tiff_lzw", "tiff_adobe_deflate"):
            yield (
                f"{name}-{compression or 'plain'}.tif",
                _saved(picture, "TIFF", compression=compression),
            )
    for name in ("grey", "colour", "deep"):
        options = {"compression": "tiff_lzw", "tiffinfo": {317: 2}}
        yield f"{name}-predictor.tif", _saved(pictures[name], "TIFF", **options)
    yield "float.tif", _saved(_float(0.0), "TIFF")
    yield "alpha.tif", _saved(_with_alpha(), "TIFF")
    for orientation in (3, 6):
        yield f"turned-{orientation}.tif", _saved(grey, "TIFF", tiffinfo={274: orientation})
    yield "big-endian.tif", _big_endian(np.asarray(deep))


def _bmps() -> Iterator[tuple[str, bytes]]:
    yield "grey.bmp", _saved(_grey(), "BMP")
    yield "colour.bmp", _saved(_colour(), "BMP")
    yield "bilevel.bmp", _saved(_grey().convert("1"), "BMP")
    yield "palette.bmp", _saved(_colour().quantize(40), "BMP")
    yield "alpha.bmp", _saved(_with_alpha(), "BMP")


def _grey() -> Image.Image:
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    noise = np.random.default_rng(1).integers(0, 40, (_HEIGHT, _WIDTH))
    return Image.fromarray((rows * 4 + columns * 2 + noise).astype(np.uint8))


def _colour() -> Image.Image:
    return Image.merge("RGB", [_grey(), _grey().rotate(180), _grey().point(lambda x: 255 - x)])


def _with_alpha() -> Image.Image:
    picture = _colour()
    picture.putalpha(_grey())
    return picture


def _float(lowest: float) -> Image.Image:
    return Image.fromarray(
        np.linspace(lowest, 1, _WIDTH * _HEIGHT, dtype=np.float32).reshape(_HEIGHT, -1)
    )


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(
        file, kind, **{name: value for name, value in options.items() if value is not None}
    )
    return file.getvalue()


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[data.index(b"IDAT") + 20] ^= 64
    return bytes(changed)


def _png(
    samples: np.ndarray, colour: int, depth: int, *, interlaced: bool = False, **chunks: bytes
) -> bytes:
    """A PNG of any colour type and depth; every filter is used in turn."""
    height, width, _ = samples.shape
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    data = b"".join(
        _rows(samples[top::down, left::across], depth)
        for left, top, across, down in passes
        if samples[top::down, left::across].size
    )
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = [("IHDR", header), *chunks.items(), ("IDAT", zlib.compress(data)), ("IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name.encode(), part) for name, part in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _rows(samples: np.ndarray, depth: int) -> bytes:
    flat = samples.reshape(len(samples), -1)
    if depth == 16:
        packed = flat.astype(">u2").view(np.uint8)
    else:
        bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(len(flat), -1).astype(np.uint8), axis=1)
    step = max(1, samples.shape[2] * depth // 8)
    above = np.zeros_like(packed[0])
    rows = []
    for number, row in enumerate(packed):
        kind = number % 5
        rows.append(bytes([kind]) + _filtered(row, above, step, kind).tobytes())
        above = row
    return b"".join(rows)


def _filtered(row: np.ndarray, above: np.ndarray, step: int, kind: int) -> np.ndarray:
    line, up = row.astype(int), above.astype(int)
    left = np.concatenate([np.zeros(step, int), line[:-step]])[: len(line)]
    corner = np.concatenate([np.zeros(step, int), up[:-step]])[: len(line)]
    guess = left + up - corner
    distances = np.abs(guess - np.stack([left, up, corner]))
    paeth = np.choose(distances.argmin(0), [left, up, corner])
    predicted = [np.zeros_like(line), left, up, (left + up) // 2, paeth][kind]
    return (line - predicted).astype(np.uint8)


def _big_endian(levels: np.ndarray) -> bytes:
    """A 16-bit grey TIFF in the other byte order."""
    height, width = levels.shape
    pixels = levels.astype(">u2").tobytes()
    tags = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(pixels)),
    ]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack(">H", len(tags)) + entries + struct.pack(">I", 0)
    return b"MM\0*" + struct.pack(">I", 8 + len(pixels)) + pixels + directory
