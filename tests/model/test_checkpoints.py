"""Weight files read without torch or TensorFlow, and pickles that must not run."""

import builtins
import functools
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from seeded_checkpoints import seeded_checkpoint

from oct_jax.model.checkpoints import read_checkpoint
from oct_jax.types import UserError

GOLDEN = Path(__file__).parent.parent / "golden"


class Global:
    """Pickles as a name alone: what a pickle of torch says where torch is not installed."""

    def __init__(self, module: str, name: str):
        self.names = module, name


class Call:
    """Pickles as a call of a global."""

    def __init__(self, function, *args):
        self.function = function
        self.args = args

    def __reduce__(self):
        return self.function, self.args


class TorchPickler(pickle._Pickler):
    """Writes what torch.save writes: tensors as calls, storages as persistent ids.

    The pure-Python pickler, since the C one checks that a global can be imported.
    """

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_named(self, thing):
        module, name = thing.names
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    dispatch[Global] = save_named

    def save_call(self, thing):
        self.save(thing.function)
        self.save(thing.args)
        self.write(pickle.REDUCE)

    dispatch[Call] = save_call

    def persistent_id(self, thing):
        return thing.id if isinstance(thing, Storage) else None


class Storage:
    def __init__(self, dtype: str, key: str, length: int):
        self.id = ("storage", Global("torch", dtype), key, "cpu", length)


def tensor(key, *, shape, strides, offset=0, length=12, dtype="FloatStorage"):
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, Storage(dtype, key, length), offset, shape, strides, False, OrderedDict())


def write_pth(path: Path, thing, storages: dict[str, bytes]) -> Path:
    file = io.BytesIO()
    TorchPickler(file, protocol=2, fix_imports=False).dump(thing)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        archive.writestr("archive/byteorder", b"little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


STORAGE = np.arange(12, dtype="<f4")


@given(data=st.data())
def test_any_strided_view_is_read(tmp_path_factory, data):
    view = STORAGE
    if data.draw(st.booleans()):
        view = view.reshape(data.draw(st.sampled_from([(3, 4), (2, 6), (2, 3, 2)])))
    axes = data.draw(st.permutations(range(view.ndim)))
    view = view.transpose(axes)[data.draw(st.integers(0, 1)) :: data.draw(st.integers(1, 2))]
    offset = (view.__array_interface__["data"][0] - STORAGE.ctypes.data) // 4
    strides = tuple(stride // 4 for stride in view.strides)
    thing = OrderedDict(w=tensor("0", shape=view.shape, strides=strides, offset=offset))
    path = write_pth(tmp_path_factory.mktemp("pth") / "w.pth", thing, {"0": STORAGE.tobytes()})
    assert np.array_equal(read_checkpoint(path).arrays["w"], view)


def test_what_torch_saved_is_read():
    arrays = read_checkpoint(GOLDEN / "tensors.pth").arrays
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "whole": base,
        "transposed": base.T,
        "part": base[1:3, 2:5],
        "parameter": np.float32([0.5, -0.5]),
        "half": np.float16([1.5]),
        "double": np.float64([2.5]),
        "count": np.int64(7),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert arrays.keys() == expected.keys()
    for key, value in expected.items():
        assert arrays[key].dtype == value.dtype
        assert np.array_equal(arrays[key], value)


@pytest.mark.parametrize(("offset", "shape", "strides"), [(1, (12,), (1,)), (0, (2,), (12,))])
def test_a_tensor_outside_its_storage_is_refused(tmp_path, offset, shape, strides):
    thing = OrderedDict(w=tensor("0", shape=shape, strides=strides, offset=offset))
    path = write_pth(tmp_path / "w.pth", thing, {"0": STORAGE.tobytes()})
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path)


def test_a_short_or_absent_storage_is_refused(tmp_path):
    thing = OrderedDict(w=tensor("0", shape=(12,), strides=(1,)))
    for storages in ({}, {"0": b"short"}):
        with pytest.raises(UserError, match="damaged"):
            read_checkpoint(write_pth(tmp_path / "w.pth", thing, storages))


MARK = "a malicious pickle ran"
MALICIOUS = {
    "posix.system": Call(os.system, "exit"),
    "builtins.eval": Call(builtins.eval, f"print({MARK!r})"),
    "builtins.getattr": Call(builtins.getattr, Global("torch", "FloatStorage"), "format"),
    "functools.partial": Call(functools.partial, Global("torch", "FloatStorage")),
    "torch.load": Global("torch", "load"),
    "torch._utils._rebuild_tensor_v2.__class__": Global(
        "torch._utils", "_rebuild_tensor_v2.__class__"
    ),
    "numpy.fromfile": Call(np.fromfile, "/etc/passwd"),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", MALICIOUS)
def test_every_other_global_is_refused_by_name(tmp_path, name, nested, capfd):
    thing = MALICIOUS[name]
    if nested:
        hooks = OrderedDict(w=tensor("0", shape=(12,), strides=(1,)), deep=[{"x": (thing,)}])
        thing = Call(Global("torch._utils", "_rebuild_parameter"), hooks, thing)
    path = write_pth(tmp_path / "w.pth", thing, {"0": STORAGE.tobytes()})
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert f"refused, its pickle asks for {name!r}" in str(error.value)
    assert MARK not in capfd.readouterr().out


def test_a_malicious_storage_type_is_refused(tmp_path):
    thing = OrderedDict(w=tensor("0", shape=(12,), strides=(1,), dtype="load"))
    with pytest.raises(UserError, match=r"refused.*'torch\.load'"):
        read_checkpoint(write_pth(tmp_path / "w.pth", thing, {"0": STORAGE.tobytes()}))


def test_a_pickle_cannot_alter_the_reader(tmp_path):
    """BUILD sets attributes of whatever it finds; there must be nothing to set."""
    attack = b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x01\x00\x00\x00aK\x01stb."
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", attack)
    with pytest.raises(UserError, match="AttributeError"):
        read_checkpoint(path)


@pytest.mark.parametrize("thing", [[1, 2], OrderedDict(epoch=3), OrderedDict(state=OrderedDict())])
def test_other_contents_than_tensors_are_refused(tmp_path, thing):
    with pytest.raises(UserError, match=r"state_dict\(\)"):
        read_checkpoint(write_pth(tmp_path / "w.pth", thing, {}))


def test_the_container_of_old_torch_is_refused_in_words():
    with pytest.raises(UserError, match="bare pickle"):
        read_checkpoint(GOLDEN / "legacy.pth")


def test_what_keras_saved_is_read():
    arrays = read_checkpoint(GOLDEN / "keras_layers.h5").arrays
    expected = seeded_checkpoint({key: value.shape for key, value in arrays.items()})
    assert set(arrays) == {
        "conv/kernel",
        "conv_bn/gamma",
        "conv_bn/beta",
        "conv_bn/moving_mean",
        "conv_bn/moving_variance",
        "expanded_conv_depthwise/kernel",
    }
    for key, value in expected.items():
        assert np.array_equal(arrays[key], value)


def test_two_spellings_of_one_keras_layer_are_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = ["Conv", "conv"]
        for layer in ("Conv", "conv"):
            file.create_group(layer).attrs["weight_names"] = [f"{layer}/kernel:0"]
            file[layer][f"{layer}/kernel:0"] = np.zeros(3)
    with pytest.raises(UserError, match="two arrays are called conv/kernel"):
        read_checkpoint(tmp_path / "w.h5")


def test_other_hdf5_is_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(UserError, match="not Keras weights"):
        read_checkpoint(tmp_path / "w.h5")


def write_keras(path, add_kernel):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["conv"]
        group = file.create_group("conv")
        group.attrs["weight_names"] = ["conv/kernel:0"]
        add_kernel(group)
    return path


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.h5", "/x"), h5py.SoftLink("/conv/out")])
def test_links_of_hdf5_are_not_followed(tmp_path, link):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.zeros(3, np.float32)

    def add_kernel(group):
        group["conv/kernel:0"] = link
        group["out"] = h5py.ExternalLink("other.h5", "/x")

    with pytest.raises(UserError, match="is a link"):
        read_checkpoint(write_keras(tmp_path / "links.h5", add_kernel))


def test_hdf5_that_is_kept_in_other_files_is_refused(tmp_path):
    (tmp_path / "raw").write_bytes(bytes(12))

    def add_kernel(group):
        external = [(str(tmp_path / "raw"), 0, 12)]
        group.create_dataset("conv/kernel:0", (3,), "f4", external=external)

    with pytest.raises(UserError, match="kept in another file"):
        read_checkpoint(write_keras(tmp_path / "external.h5", add_kernel))


def test_hdf5_that_unpacks_to_more_than_the_file_is_refused(tmp_path):
    def add_kernel(group):
        group.create_dataset("conv/kernel:0", (10**6,), "f4", compression="gzip")

    with pytest.raises(UserError, match="unpacks to 4,000,000 bytes"):
        read_checkpoint(write_keras(tmp_path / "bomb.h5", add_kernel))


def test_a_zip_that_unpacks_to_more_than_the_file_is_refused(tmp_path):
    thing = {"w": tensor("0", shape=(10**6,), strides=(1,), length=10**6)}
    whole = write_pth(tmp_path / "whole.pth", thing, {"0": bytes(4 * 10**6)})
    assert read_checkpoint(whole).arrays["w"].shape == (10**6,)
    with zipfile.ZipFile(whole) as stored, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="unpack to 4,000,"):
        read_checkpoint(tmp_path / "bomb.pth")


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    thing = {"w": tensor("0", shape=(10**9,), strides=(0,), length=1)}
    with pytest.raises(UserError, match="damaged weight file"):
        read_checkpoint(write_pth(tmp_path / "wide.pth", thing, {"0": bytes(4)}))


def test_safetensors_come_with_their_metadata(tmp_path):
    save_file({"w": STORAGE}, tmp_path / "w", {"padding": "same"})
    arrays, metadata = read_checkpoint(tmp_path / "w")
    assert np.array_equal(arrays["w"], STORAGE)
    assert metadata == {"padding": "same"}


def test_containers_are_known_by_content_not_by_name(tmp_path):
    save_file({"w": STORAGE}, tmp_path / "w.pth")
    assert set(read_checkpoint(tmp_path / "w.pth").arrays) == {"w"}


@given(data=st.data())
def test_a_damaged_file_is_one_line(tmp_path_factory, data):
    name = data.draw(st.sampled_from(["tensors.pth", "keras_layers.h5"]))
    whole = (GOLDEN / name).read_bytes()
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1024))])
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_unreadable_paths(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path / "absent")
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path)
