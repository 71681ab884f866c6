"""Each format opens to the pixels that were written, with what its header says."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import volume_files as files

from oct_jax.data.readers import UnreadableScan
from oct_jax.data.volumes import (
    Volume,
    holds_volumes,
    is_volume,
    open_volume,
    open_volumes,
    volume_from_arrays,
)
from oct_jax.types import UserError

IMAGES = files.bscans()


def pixels_of(volume: Volume) -> list[np.ndarray]:
    return [volume.read(index) for index in range(len(volume))]


def test_a_heyex_export_opens_in_the_order_of_its_xml(tmp_path):
    folder = files.write_heyex(tmp_path / "eye", IMAGES, order=[3, 0, 4, 2, 1])
    volume = open_volume(folder)
    np.testing.assert_array_equal(pixels_of(volume), IMAGES)
    assert volume.spacing == (3.9, 11.7)
    assert (volume.laterality, volume.pattern) == ("R", "raster")
    assert volume.device == "Heidelberg Engineering Spectralis"
    np.testing.assert_allclose(volume.distances, [2000, 1000, 0, -1000, -2000])
    np.testing.assert_allclose(volume.paths[0], [[16.667, 83.333], [83.333, 83.333]], atol=1e-3)
    assert volume.localizer.read().shape == (96, 96)
    assert open_volume(folder / "EXPORT.xml").eye == volume.eye


def test_an_export_without_localizer_has_no_positions(tmp_path):
    volume = open_volume(files.write_heyex(tmp_path / "eye", IMAGES, localizer=False))
    assert volume.localizer is None
    assert volume.paths == volume.distances == ()


def test_missing_bscans_of_an_export_are_named(tmp_path):
    folder = files.write_heyex(tmp_path / "eye", IMAGES)
    (folder / "F00001.tif").unlink()
    (folder / "F00003.tif").unlink()
    volume = open_volume(folder)
    assert volume.missing == ("2 of 5 B-scans are missing from the export: 2, 4",)
    assert volume.numbers == (1, 3, 5)
    np.testing.assert_array_equal(pixels_of(volume), IMAGES[::2])


def test_a_damaged_bscan_is_refused_when_it_is_read(tmp_path):
    folder = files.write_heyex(tmp_path / "eye", IMAGES)
    (folder / "F00001.tif").write_bytes(b"II*\x00damaged")
    volume = open_volume(folder)
    with pytest.raises(UnreadableScan, match=r"F00001\.tif"):
        volume.read(1)


def test_a_vol_opens_to_its_pixels(tmp_path):
    volume = open_volume(files.write_vol(tmp_path / "any.name", IMAGES))
    read = np.array(pixels_of(volume), int)
    # The curve is below 0 under level 5: darker pixels cannot be stored.
    assert np.abs(np.maximum(IMAGES, 5).astype(int) - np.maximum(read, 5)).max() <= 1
    assert volume.spacing == (3.9, 11.7)
    assert (volume.laterality, volume.pattern) == ("L", "raster")
    assert volume.transform.startswith("HEYEX log")
    np.testing.assert_allclose(volume.distances, [1500, 750, 0, -750, -1500])
    assert (volume.localizer.read() == 77).all()


def test_what_lies_outside_of_a_vol_is_white(tmp_path):
    path = files.write_vol(tmp_path / "eye.vol", IMAGES)
    data = bytearray(path.read_bytes())
    start = 2048 + 32 * 24 + 300
    data[start : start + 4] = np.float32(np.finfo(np.float32).max).tobytes()
    data[start + 4 : start + 8] = np.float32(np.nan).tobytes()
    path.write_bytes(bytes(data))
    assert open_volume(path).read(0)[0, :2].tolist() == [255, 255]


def test_a_truncated_vol_names_what_is_missing(tmp_path):
    path = files.write_vol(tmp_path / "eye.vol", IMAGES)
    os.truncate(path, path.stat().st_size - 2 * 4 * 48 * 64)
    volume = open_volume(path)
    assert len(volume) == 3
    assert volume.missing == ("the file is truncated: B-scans 4 to 5 of 5 are missing",)


def test_a_circular_vol_has_a_circle_for_its_path(tmp_path):
    volume = open_volume(files.write_vol(tmp_path / "disc.vol", IMAGES[:1], pattern=2))
    assert volume.pattern == "circle"
    radii = np.linalg.norm(volume.paths[0] - [25, 20], axis=1)
    np.testing.assert_allclose(radii, 20)
    assert volume.distances == ()


def test_pages_of_a_tiff_are_bscans(tmp_path):
    volume = open_volume(files.write_pages(tmp_path / "stack.tif", IMAGES))
    np.testing.assert_array_equal(pixels_of(volume), IMAGES)
    assert (volume.spacing, volume.laterality, volume.patient) == (None, None, "")


@pytest.mark.parametrize("name", ["{:03}.png", "{}.tif", "bscan_{}.png", "B-Scan {:02}.bmp"])
def test_numbered_pictures_open_in_the_order_of_their_numbers(tmp_path, name):
    images = files.bscans(12)
    volume = open_volume(files.write_numbered(tmp_path / "eye", images, name))
    np.testing.assert_array_equal(pixels_of(volume), images)
    assert volume.missing == ()


def test_gaps_between_numbered_pictures_are_named(tmp_path):
    folder = files.write_numbered(tmp_path / "eye", files.bscans(12))
    (folder / "004.png").unlink()
    assert open_volume(folder).missing == ("1 of the numbered pictures are missing: 4",)


@pytest.mark.parametrize("name", ["CNV-123-{}.png", "patient{}.png", "scan{}a.png"])
def test_pictures_of_other_names_are_separate_scans(tmp_path, name):
    assert not is_volume(files.write_numbered(tmp_path / "scans", IMAGES, name))


def test_volumes_are_found_below_a_folder(tmp_path):
    files.write_heyex(tmp_path / "a" / "one", IMAGES)
    files.write_numbered(tmp_path / "a" / "two", IMAGES)
    files.write_vol(tmp_path / "b.vol", IMAGES)
    files.write_pages(tmp_path / "c.tif", IMAGES)
    files.write_pages(tmp_path / "single.tif", IMAGES[:1])
    (tmp_path / "notes.txt").write_text("nothing")
    names = [path.name for path in holds_volumes(tmp_path)]
    assert names == ["one", "two", "b.vol", "c.tif"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a volume"),
        (b"HSF-OCT-103", "truncated"),
        (b"HSF-OCT-103".ljust(4096, b"\xff"), "damaged header"),
        (b"<HEDX><BODY>", "damaged or truncated XML"),
        (b"<HEDX></HEDX>", "lists no OCT B-scans"),
    ],
)
def test_what_is_no_volume_is_refused_in_one_line(tmp_path, content, reason):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UnreadableScan, match=reason) as caught:
        open_volume(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnreadableScan, match="no such file"):
        open_volume(tmp_path / "gone.vol")


def test_entities_of_an_xml_are_not_followed(tmp_path):
    bomb = "<!DOCTYPE b [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
        f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 10}'>" for n in range(9)
    )
    (tmp_path / "EXPORT.xml").write_text(f"{bomb}]><HEDX>&j;</HEDX>")
    with pytest.raises(UnreadableScan):
        open_volumes(tmp_path)


def test_volumes_pickle(tmp_path):
    for path in (
        files.write_heyex(tmp_path / "x", IMAGES),
        files.write_vol(tmp_path / "v.vol", IMAGES),
        files.write_pages(tmp_path / "p.tif", IMAGES),
    ):
        volume = open_volume(path)
        again = pickle.loads(pickle.dumps(volume))
        np.testing.assert_array_equal(again.read(1), volume.read(1))


def test_arrays_are_a_volume():
    volume = volume_from_arrays(IMAGES, spacing=(3.9, 11.7), laterality="R")
    np.testing.assert_array_equal(pixels_of(volume), IMAGES)
    with pytest.raises(UserError, match="no B-scans"):
        volume_from_arrays([])
    with pytest.raises(UserError, match="B-scan 1 is not uint8 grey"):
        volume_from_arrays([np.zeros((4, 4))])


@pytest.mark.parametrize("kind", ["heyex", "vol"])
def test_nothing_in_a_volume_names_the_patient(tmp_path, kind):
    last, _, number, _ = files.PLANTED
    place = tmp_path / f"{last}_{number}"
    if kind == "heyex":
        volume = open_volume(files.write_heyex(place, IMAGES))
    else:
        volume = open_volume(files.write_vol(place.with_suffix(".vol"), IMAGES))
    assert volume.name == volume.eye
    assert volume.patient in volume.eye
    shown = repr(volume)
    assert not any(word.casefold() in shown.casefold() for word in files.PLANTED)


def test_a_patient_has_one_id_in_both_eyes(tmp_path):
    right = open_volume(files.write_heyex(tmp_path / "a", IMAGES))
    left = open_volume(files.write_heyex(tmp_path / "b", IMAGES, laterality="L"))
    assert right.patient == left.patient
    assert right.eye != left.eye


@pytest.mark.parametrize("eye", ["AMD_1", "AMD_2", "NORMAL_1", "NORMAL_2"])
def test_real_exports(eye):
    folder = Path(_real("eyes_dev")) / eye
    volume = open_volume(folder)
    assert (len(volume), volume.name, volume.pattern) == (49, eye, "raster")
    assert volume.laterality == ("L" if eye == "AMD_1" else "R")
    assert volume.spacing[0] == 3.9
    assert 11 < volume.spacing[1] < 12.5
    assert volume.read(48).shape == (496, 512)
    steps = np.diff(volume.distances)
    assert (steps < 0).all()
    np.testing.assert_allclose(steps, steps.mean(), atol=1)


def test_the_real_vol():
    volume = open_volume(Path(_real("volumes")) / "spectralis.vol")
    assert (len(volume), volume.laterality, volume.pattern) == (1, "R", "circle")
    np.testing.assert_allclose(volume.spacing, (3.8717, 17.891), atol=1e-3)
    assert volume.read(0).shape == (496, 768)
    assert volume.localizer.read().shape == (768, 768)


def _real(name: str) -> str:
    root = os.environ.get("OCT_DATA")
    place = Path(root).parent / name if root else None
    if place is None or not place.is_dir():
        pytest.skip(f"no {name} beside OCT_DATA: volumes of real devices")
    return str(place)
