"""Reads arrays out of weight files without the library that wrote them.

A file is known by its first bytes: safetensors, PyTorch's zip (`.pth`) or HDF5 (Keras).
"""

import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import h5py
import numpy as np
import safetensors

from oct_jax.types import UserError

Arrays: TypeAlias = dict[str, np.ndarray]


class Checkpoint(NamedTuple):
    """What a weight file holds.

    Attributes:
      arrays: by the file's own key; Keras keys are spelt as Keras 3 does, `layer/variable`.
      metadata: text that a safetensors file carries beside its arrays.
    """

    arrays: Arrays
    metadata: dict[str, str]


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a weight file of any known container.

    Raises:
      UserError: the file cannot be read, is of no known container, is damaged, or is a pickle
        that asks for anything but tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    read = _reader(path, head)
    try:
        return read(path)
    except UserError:
        raise
    except Exception as error:
        # Readers of damaged files raise anything at all; to the user it is one mistake.
        raise UserError(
            f"{path}: damaged weight file ({_one_line(error)}); fetch it again"
        ) from error


def _reader(path: Path, head: bytes) -> Callable[[Path], Checkpoint]:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_keras
    if head.startswith(b"PK\x03\x04"):
        return _read_torch
    if head[8:] == b"{":
        return _read_safetensors
    if head.startswith(b"\x80"):
        raise UserError(
            f"{path}: a bare pickle (PyTorch before 1.6), which is not opened;"
            " save it again as .safetensors"
        )
    raise UserError(f"{path}: not a weight file; give a .safetensors, .pth or Keras .h5 file")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _read_safetensors(path: Path) -> Checkpoint:
    with safetensors.safe_open(path, "np") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        return Checkpoint(arrays, file.metadata() or {})


def _read_keras(path: Path) -> Checkpoint:
    arrays: Arrays = {}
    with h5py.File(path) as file:
        if "layer_names" not in file.attrs:
            raise UserError(
                f"{path}: HDF5, but not Keras weights by layer name; save them with save_weights"
                " in the .h5 (not .weights.h5) format"
            )
        for layer in map(_text, file.attrs["layer_names"]):
            group = _member(file, layer, path)
            for name in map(_text, group.attrs["weight_names"]):
                key = _keras_key(layer, name)
                if key in arrays:
                    raise UserError(f"{path}: two arrays are called {key}; the file is ambiguous")
                arrays[key] = _read_dataset(_member(group, name, path), path)
    return Checkpoint(arrays, {})


def _member(group: Any, name: str, path: Path) -> Any:
    """A group or data set inside this very file: links, which may lead out, are not followed."""
    for part in filter(None, name.split("/")):
        if isinstance(group.get(part, getlink=True), h5py.ExternalLink | h5py.SoftLink):
            raise UserError(f"{path}: refused, {name!r} is a link; Keras stores weights in place")
        group = group[part]
    return group


def _read_dataset(dataset: Any, path: Path) -> np.ndarray:
    if dataset.external or dataset.is_virtual:
        raise UserError(f"{path}: refused, {dataset.name!r} is kept in another file")
    if dataset.nbytes > path.stat().st_size:
        raise UserError(
            f"{path}: refused, {dataset.name!r} unpacks to {dataset.nbytes:,} bytes, more than the"
            " file has; Keras stores weights uncompressed"
        )
    return dataset[()]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _keras_key(layer: str, name: str) -> str:
    """Keras 2's `expanded_conv/depthwise/BatchNorm` is Keras 3's `expanded_conv_depthwise_bn`."""
    layer = layer.replace("/BatchNorm", "_bn").replace("/", "_").lower()
    variable = name.split("/")[-1].removesuffix(":0").replace("depthwise_kernel", "kernel")
    return f"{layer}/{variable}"


def _read_torch(path: Path) -> Checkpoint:
    with zipfile.ZipFile(path) as archive:
        _refuse_compression(archive, path)
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("data.pkl") and name.count("/") <= 1]
        if len(pickles) != 1:
            raise UserError(f"{path}: a zip, but not one that PyTorch saved tensors in")
        root = pickles[0].removesuffix("data.pkl")
        byteorder = f"{root}byteorder"
        if byteorder in names and archive.read(byteorder) != b"little":
            raise UserError(f"{path}: big-endian tensors; save it again as .safetensors")
        file = io.BytesIO(archive.read(pickles[0]))
        loaded = _TensorUnpickler(
            file, path=path, storage=lambda key: archive.read(f"{root}data/{key}")
        ).load()
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(value, np.ndarray) for key, value in loaded.items()
    ):
        raise UserError(f"{path}: not a plain dictionary of tensors; save model.state_dict()")
    return Checkpoint(dict(loaded), {})


def _refuse_compression(archive: zipfile.ZipFile, path: Path) -> None:
    """PyTorch stores tensors as they are; what would unpack to more than the file is a bomb."""
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise UserError(
            f"{path}: refused, its {path.stat().st_size:,} bytes unpack to {unpacked:,}; PyTorch"
            " stores tensors uncompressed, so save them again with torch.save or as .safetensors"
        )


class _RebuildTensor:
    """Stands for torch._utils._rebuild_tensor_v2; slots, so that no pickle can alter it."""

    __slots__ = ()

    def __call__(self, storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any):
        # ndarray checks that every element lies inside the storage, as_strided would not.
        # Strides of 0 would make a huge tensor of a small storage.
        if math.prod(shape) > storage.size:
            raise pickle.UnpicklingError(f"a tensor of shape {shape} in {storage.size} elements")
        itemsize = storage.itemsize
        return np.ndarray(
            shape,
            storage.dtype,
            buffer=storage,
            offset=offset * itemsize,
            strides=[stride * itemsize for stride in strides],
        )


class _RebuildParameter:
    """Stands for torch._utils._rebuild_parameter: a parameter is its tensor."""

    __slots__ = ()

    def __call__(self, tensor: np.ndarray, *_: Any):
        return tensor


# All that a pickle may name. The values have no state that a pickle's BUILD could reach.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch", "FloatStorage"): "<f4",
    ("torch", "DoubleStorage"): "<f8",
    ("torch", "HalfStorage"): "<f2",
    ("torch", "LongStorage"): "<i8",
    ("torch", "IntStorage"): "<i4",
}
_STORAGE_TYPES = frozenset(value for value in _ALLOWED.values() if isinstance(value, str))


class _TensorUnpickler(pickle.Unpickler):
    """Builds arrays and dictionaries, and refuses every other global by its name."""

    def __init__(self, file: io.BytesIO, *, path: Path, storage: Callable[[str], bytes]):
        super().__init__(file)
        self._path = path
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UserError(
                f"{self._path}: refused, its pickle asks for {f'{module}.{name}'[:100]!r}, which"
                " tensors do not need; use a .safetensors file"
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, length = pid
        if kind != "storage" or dtype not in _STORAGE_TYPES or not re.fullmatch(r"\d+", key):
            raise pickle.UnpicklingError(f"unknown storage {pid!r}")
        return np.frombuffer(self._storage(key), dtype, count=length)
