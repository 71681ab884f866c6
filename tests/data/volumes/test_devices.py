"""Formats of further devices, from files that are written by their descriptions."""

import builtins
import os
import struct

import device_files as devices
import numpy as np
import pytest
import volume_files as files

from oct_jax.data.readers import UnreadableScan
from oct_jax.data.volumes import open_volume
from oct_jax.data.volumes.volume import AS_STORED

IMAGES = files.bscans()


def pixels_of(volume) -> np.ndarray:
    return np.array([volume.read(index) for index in range(len(volume))], int)


@pytest.mark.parametrize("skip", [0, 64])
def test_an_e2e_opens_to_its_pixels(tmp_path, skip):
    # With 64 bytes before it, every position in the file is counted from behind them.
    volume = open_volume(devices.write_e2e(tmp_path / "eye.e2e", IMAGES, skip=skip))
    dark = 6  # the curve is below 0 there
    assert (
        np.abs(np.maximum(IMAGES, dark).astype(int) - np.maximum(pixels_of(volume), dark)).max()
        <= 1
    )
    assert (volume.laterality, volume.pattern) == ("L", "raster")
    np.testing.assert_allclose(volume.spacing, (3.9, 20 * 288 / 64), rtol=1e-5)
    np.testing.assert_allclose(volume.paths[0], [[10, 42], [50, 42]])
    np.testing.assert_allclose(volume.distances[0], 6 * 288, rtol=1e-5)
    assert volume.localizer.read().shape == (60, 60)
    assert volume.missing == ()


def test_missing_bscans_of_an_e2e_are_named(tmp_path):
    volume = open_volume(devices.write_e2e(tmp_path / "eye.e2e", IMAGES, announced=7))
    assert volume.missing == ("2 of 7 B-scans are missing: 6, 7",)


def test_what_lies_outside_of_an_e2e_is_white(tmp_path):
    path = devices.write_e2e(tmp_path / "eye.e2e", IMAGES)
    data = path.read_bytes()
    place = data.index(devices.to_ufloat(IMAGES[0]).tobytes())
    path.write_bytes(data[:place] + b"\xff\xff" + data[place + 2 :])
    assert open_volume(path).read(0)[0, 0] == 255


@pytest.mark.parametrize("pictures", [True, False])
def test_topcon_opens_to_its_pixels(tmp_path, pictures):
    volume = open_volume(devices.write_topcon(tmp_path / "eye", IMAGES, pictures=pictures, eye=1))
    if pictures:
        np.testing.assert_array_equal(pixels_of(volume), IMAGES)
    else:
        grey = pixels_of(volume)
        assert (np.diff(grey[0].ravel()[np.argsort(IMAGES[0].ravel())]) >= 0).all()
        assert (grey.min(), grey.max()) == (0, 255)
    assert (volume.transform == AS_STORED) is pictures
    assert (volume.laterality, volume.pattern, volume.device) == ("L", "raster", "Topcon 3DOCT-1")
    np.testing.assert_allclose(volume.spacing, (2.6, 6000 / 64))
    np.testing.assert_allclose(volume.distances, [-3000, -1500, 0, 1500, 3000])
    np.testing.assert_allclose(volume.paths[-1], [[10, 60], [50, 60]])
    assert (volume.localizer.read() == 99).all()


def test_a_truncated_topcon_names_what_is_missing(tmp_path):
    path = devices.write_topcon(tmp_path / "eye.fds", IMAGES, pictures=False)
    os.truncate(path, path.stat().st_size - 1 - 3 * 48 * 64)
    volume = open_volume(path)
    assert len(volume) == 3
    assert volume.missing == ("the file is truncated: B-scans 4 to 5 of 5 are missing",)


def test_a_cube_opens_with_depth_downwards(tmp_path):
    path = tmp_path / "P123_Macular Cube 512x128_1-1-2001_9-9-9_OS_sn77_cube_z.img"
    with path.open("wb") as file:
        file.truncate(1024 * 512 * 128)
        file.seek(1024 * 512 * 2 + 1024 * 3)  # the third B-scan's fourth column
        file.write(bytes(range(256)))
    volume = open_volume(path)
    assert len(volume) == 128
    scan = volume.read(2)
    assert scan.shape == (1024, 512)
    assert scan[:256, 3].tolist() == list(range(256))
    assert volume.laterality == "L"
    assert "P123" not in repr(volume)
    np.testing.assert_allclose(volume.spacing, (2000 / 1024, 6000 / 512), rtol=1e-4)


@pytest.mark.parametrize("syntax", ["explicit", "jpeg2000", "jpegls"])
def test_dicom_opens_to_its_pixels(tmp_path, syntax):
    volume = open_volume(devices.write_dicom(tmp_path / "eye", IMAGES, syntax=syntax))
    np.testing.assert_array_equal(pixels_of(volume), IMAGES)
    assert volume.spacing == (3.9, 11.7)
    assert (volume.laterality, volume.device) == ("R", "Maker Model")
    np.testing.assert_allclose(volume.distances, [-500, -250, 0, 250, 500])


def test_inverted_dicom_is_turned_back(tmp_path):
    volume = open_volume(devices.write_dicom(tmp_path / "eye.dcm", IMAGES, inverted=True))
    np.testing.assert_array_equal(pixels_of(volume), 255 - np.array(IMAGES))


def test_a_dicom_of_another_kind_is_refused(tmp_path):
    path = devices.write_dicom(tmp_path / "eye.dcm", IMAGES)
    path.write_bytes(path.read_bytes().replace(b"77.1.5.4", b"77.1.5.1"))
    with pytest.raises(UnreadableScan, match="not an Ophthalmic Tomography"):
        open_volume(path)


def test_without_the_extra_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    path = devices.write_dicom(tmp_path / "eye.dcm", IMAGES)
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.split(".")[0] == "pydicom":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnreadableScan, match=r"pip install 'oct-jax\[devices\]'"):
        open_volume(path)


WRITERS = {
    "e2e": devices.write_e2e,
    "fda": devices.write_topcon,
    "dcm": devices.write_dicom,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_nothing_in_a_volume_names_the_patient(tmp_path, kind):
    last, _, number, _ = files.PLANTED
    volume = open_volume(WRITERS[kind](tmp_path / f"{last} {number}.{kind}", IMAGES))
    assert volume.name == volume.eye
    assert len(volume.patient) == 10
    shown = repr(volume)
    assert not any(word.casefold() in shown.casefold() for word in files.PLANTED)


@pytest.mark.parametrize("kind", WRITERS)
def test_damage_is_one_line_that_quotes_nothing_of_the_patient(tmp_path, kind):
    path = WRITERS[kind](tmp_path / f"eye.{kind}", IMAGES)
    whole = path.read_bytes()
    rng, told = np.random.default_rng(0), []
    for _ in range(40):
        data = bytearray(whole[: rng.integers(140, len(whole))])
        for place in rng.integers(0, min(len(data), 2000), 6):
            data[place] = rng.integers(256)
        path.write_bytes(bytes(data))
        try:
            volume = open_volume(path)
            volume.read(len(volume) - 1)
        except UnreadableScan as error:
            told.append(str(error))
    assert told
    assert not any(word in line for line in told for word in ("\n", *files.PLANTED))


def test_a_loop_of_directories_ends(tmp_path):
    path = devices.write_e2e(tmp_path / "eye.e2e", IMAGES)
    data = bytearray(path.read_bytes())
    last = struct.unpack_from("<I", data, 36 + 40)[0]
    struct.pack_into("<I", data, last + 44, last)
    path.write_bytes(bytes(data))
    assert len(open_volume(path)) > 0
