"""Every kind of picture comes out as grey uint8, and whatever is not a scan says why."""

import io
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from oct_jax.data import readers
from oct_jax.data.readers import UnreadableScan, decode_scan, map_threads, read_scan
from oct_jax.types import UserError

GREY = np.random.default_rng(0).integers(0, 256, (7, 9), dtype=np.uint8)
ORIENTATION = 0x0112


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_orientation(image, kind, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return saved(image, kind, exif=exif)


def raw_png(levels, colour_type):
    """A 16-bit PNG of any colour type, which neither Pillow nor OpenCV writes."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_lossless_kinds(kind, mode):
    if kind == "BMP" and mode == "LA":
        pytest.skip("BMP has no grey with alpha")
    image = Image.fromarray(GREY).convert(mode)
    want = np.array(image.convert("L"))
    got = decode_scan(saved(image, kind), "scan")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shape", [(496, 512), (1, 1), (7, 9)])
def test_grey_jpeg_is_exactly_pillows(shape):
    smooth = cv2.GaussianBlur(
        np.random.default_rng(1).integers(0, 256, shape).astype("f4"), (5, 5), 2
    )
    data = saved(Image.fromarray(smooth.astype(np.uint8)), "JPEG", quality=90)
    np.testing.assert_array_equal(
        decode_scan(data, "scan"), np.asarray(Image.open(io.BytesIO(data)))
    )


@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}])
def test_kinds_of_jpeg(options):
    data = saved(Image.fromarray(GREY), "JPEG", **options)
    np.testing.assert_array_equal(
        decode_scan(data, "scan"), np.asarray(Image.open(io.BytesIO(data)))
    )


def test_colour_jpeg_is_luma():
    data = saved(Image.fromarray(GREY).convert("RGB"), "JPEG")
    want = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    np.testing.assert_array_equal(decode_scan(data, "scan"), want)


def test_luma_weights_are_bt601():
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    got = decode_scan(saved(Image.fromarray(primaries), "PNG"), "scan")
    np.testing.assert_array_equal(got, [[76, 150, 29]])


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_over_black(mode):
    image = Image.new("LA", (3, 1), (200, 0))
    image.putpixel((1, 0), (200, 255))
    image.putpixel((2, 0), (200, 51))
    got = decode_scan(saved(image.convert(mode), "PNG"), "scan")
    np.testing.assert_array_equal(got, [[0, 200, 40]])


def test_transparent_palette_entry_is_black():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([255, 255, 255, 100, 100, 100])
    data = saved(image, "PNG", transparency=0)
    np.testing.assert_array_equal(decode_scan(data, "scan"), [[0, 100]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("full", [255, 4095, 65535])
def test_16_bits_scale_by_the_depth_in_use(kind, full):
    levels = np.array([[0, full // 3, full]], np.uint16)
    got = decode_scan(saved(Image.fromarray(levels), kind), "scan")
    np.testing.assert_array_equal(got, [[0, 85, 255]])


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("full", [4095, 65535])
def test_16_bit_colour_keeps_its_depth(extension, full):
    blue, green, red = [full, 0, 0], [0, full, 0], [0, 0, full]
    data = cv2.imencode(extension, np.array([[red, green, blue]], np.uint16))[1].tobytes()
    np.testing.assert_array_equal(decode_scan(data, "scan"), [[76, 150, 29]])


def test_16_bit_alpha_does_not_set_the_depth():
    levels = np.array([[[4095, 65535], [4095, 0]]])
    np.testing.assert_array_equal(decode_scan(raw_png(levels, 4), "scan"), [[255, 0]])


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=50))
def test_16_bit_scaling_keeps_order_and_range(values):
    got = decode_scan(saved(Image.fromarray(np.array([values], np.uint16)), "PNG"), "scan")[0]
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(got[order].astype(int)) >= 0)
    full = next(full for full in (255, 4095, 65535) if max(values) <= full)
    np.testing.assert_allclose(got, np.array(values) * 255 / full, atol=0.5)


@pytest.mark.parametrize(
    ("levels", "want"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.4, 255.0], [0, 100, 255]), ([0.0], [0])],
)
def test_floats(levels, want):
    data = saved(Image.fromarray(np.array([levels], np.float32)), "TIFF")
    np.testing.assert_array_equal(decode_scan(data, "scan"), [want])


@pytest.mark.parametrize("levels", [[-0.1, 1], [0, 256], [0, np.nan], [0, np.inf]])
def test_other_floats_are_refused(levels):
    data = saved(Image.fromarray(np.array([levels], np.float32)), "TIFF")
    with pytest.raises(UnreadableScan, match=r"scale them to 0\.\.1 or 0\.\.255"):
        decode_scan(data, "scan")


def test_wide_integers_are_refused():
    data = saved(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF")
    with pytest.raises(UnreadableScan, match="0 to 70000"):
        decode_scan(data, "scan")


TURNED = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 6: lambda a: np.rot90(a, -1)}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("value", list(TURNED))
def test_orientation(kind, value):
    upright = decode_scan(saved(Image.fromarray(GREY), kind), "scan")
    got = decode_scan(with_orientation(Image.fromarray(GREY), kind, value), "scan")
    np.testing.assert_array_equal(got, TURNED[value](upright))


def test_content_not_extension(tmp_path):
    path = tmp_path / "scan.jpeg"
    path.write_bytes(saved(Image.fromarray(GREY), "PNG"))
    np.testing.assert_array_equal(read_scan(path), GREY)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm():
    data = saved(Image.fromarray(GREY), "JPEG")
    np.testing.assert_array_equal(decode_scan(data + b"\0\0", "scan"), decode_scan(data, "scan"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_no_truncated_file_passes(kind):
    data = saved(Image.fromarray(np.tile(GREY, (9, 9))), kind)
    for length in range(1, len(data) - 12, 97):  # 12: PNG's end chunk holds no pixels
        with pytest.raises(UnreadableScan) as raised:
            decode_scan(data[:length], "scan")
        assert "\n" not in str(raised.value)


@given(
    st.binary(max_size=64), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM"])
)
def test_rubbish_is_unreadable(rubbish, start):
    with pytest.raises(UnreadableScan):
        decode_scan(start + rubbish, "scan")


def test_the_reason_is_told(tmp_path):
    frames = [Image.fromarray(GREY)] * 3
    cases = {
        "the file is empty": b"",
        "not a JPEG, PNG, TIFF or BMP image": saved(Image.fromarray(GREY), "GIF"),
        "holds 3 frames": saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "colour mode CMYK": saved(Image.new("CMYK", (2, 2)), "JPEG"),
        "truncated": saved(Image.fromarray(np.tile(GREY, (9, 9))), "JPEG")[:-50],
    }
    for reason, data in cases.items():
        with pytest.raises(UnreadableScan, match=reason) as raised:
            decode_scan(data, "eye.png")
        assert str(raised.value).startswith("cannot read scan eye.png: ")
    with pytest.raises(UnreadableScan, match="No such file"):
        read_scan(tmp_path / "none.png")
    with pytest.raises(UnreadableScan, match="Is a directory"):
        read_scan(tmp_path)


@pytest.mark.parametrize("side", [8_001, 30_000])
def test_a_bomb_is_refused_before_it_is_decoded(side, monkeypatch):
    # A 1-bit picture of black: kilobytes in the file, megabytes decoded.
    data = saved(Image.new("1", (side, side)), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UnreadableScan, match="64 megapixels"):
        decode_scan(data, "scan")
    assert readers.MAX_PIXELS == 64_000_000


@pytest.mark.parametrize("shape", [(1, 1024), (20_000, 1), (40, 1281)])
def test_a_shape_that_no_scanner_makes_is_refused(shape):
    with pytest.raises(UnreadableScan, match="not a B-scan: one side is more than 32 times"):
        decode_scan(saved(Image.fromarray(np.zeros(shape, np.uint8)), "PNG"), "scan")
    assert decode_scan(saved(Image.fromarray(np.zeros((40, 1280), np.uint8)), "PNG"), "scan").size


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(UnreadableScan("eye.png", "the file is empty")))
    assert isinstance(error, UserError)
    assert (error.name, error.reason) == ("eye.png", "the file is empty")


def test_pillow_does_not_warn_in_a_command(tmp_path):
    # 100 megapixels: past Pillow's threshold for a warning, before that for an error.
    path = tmp_path / "large.png"
    path.write_bytes(saved(Image.new("1", (10_000, 10_000)), "PNG"))
    program = (
        "from oct_jax.commands.entry import run; from oct_jax.data.readers import read_scan;"
        f"run(lambda words: read_scan({str(path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "64 megapixels" in done.stderr
    assert "Warning" not in done.stderr


@given(st.lists(st.integers(), max_size=30))
def test_map_threads_keeps_order_and_tells_progress(items):
    told = []
    got = list(map_threads(lambda item: item + 1, items, lambda *step: told.append(step)))
    assert got == [item + 1 for item in items]
    assert told == [(done, len(items)) for done in range(1, len(items) + 1)]


def test_map_threads_goes_on_after_a_chunk(monkeypatch):
    monkeypatch.setattr(readers, "_CHUNK", 2)
    assert list(map_threads(abs, [-1, -2, -3, -4, -5])) == [1, 2, 3, 4, 5]


def test_real_scans_are_exactly_pillows(real_scans: Path):
    for path in sorted(real_scans.glob("*/*.jpeg"))[::40]:
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_scan(path), np.asarray(image))
