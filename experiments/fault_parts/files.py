"""Bad weight files and archives: read whole, or one line; nothing outside the folder asked for."""

from __future__ import annotations

import io
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import safetensors.numpy

from fault_parts.tally import Tally, attempt, mutate
from oct_jax.data.archive import unpack
from oct_jax.model.checkpoints import read_checkpoint

_LARGEST = 2**20  # bytes; the originals unpack to less than a thousandth


def weight_files() -> dict[str, bytes]:
    """A small whole file of each container that weights come in, and pickles with a payload."""
    arrays = {
        "conv_stem.weight": np.arange(108, dtype=np.float32).reshape(4, 3, 3, 3),
        "bn1.running_var": np.ones(4, np.float32),
    }
    keras = io.BytesIO()
    with h5py.File(keras, "w") as file:
        file.attrs["layer_names"] = [b"Conv"]
        group = file.create_group("Conv")
        group.attrs["weight_names"] = [b"Conv/kernel:0"]
        group["Conv/kernel:0"] = arrays["conv_stem.weight"]
    return {
        "safetensors": safetensors.numpy.save(arrays, metadata={"mean": "0.5", "std": "0.5"}),
        "pth": _zip({"archive/data.pkl": _torch_pickle(), "archive/data/0": bytes(48)}),
        "h5": keras.getvalue(),
    }


def mutated_weights(container: str, count: int, seed: int) -> Tally:
    """Reads mutated weight files; what is read must be arrays no larger than such a file holds."""
    rng = np.random.default_rng(seed)
    whole = weight_files()[container]
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        path.write_bytes(whole)
        read_checkpoint(path)  # the original is whole
        for number in range(count):
            path.write_bytes(mutate(whole, rng))
            label = f"{container} {number} of seed {seed}"
            checkpoint = attempt(tally, label, lambda: read_checkpoint(path))
            arrays = checkpoint.arrays.values() if checkpoint else ()
            if sum(array.nbytes for array in arrays) > _LARGEST:
                tally.add("wrong", f"{label}: unpacks to more than it holds")
    return tally


def archives() -> dict[str, bytes]:
    """A whole zip of scans, and zips that name files where they must not be."""
    scan = np.random.default_rng(0).bytes(300)
    whole = {"scans/CNV/CNV-1-1.jpeg": scan, "scans/NORMAL/NORMAL-2-1.jpeg": scan}
    names = ["../x", "/tmp/x", "a/../../x", "C:\\x", "..\\x", "a\0b", "x" * 300, ".", "a//b"]
    names += ["CON", "a/" * 200 + "x", "\udcff".encode("utf-8", "surrogatepass").decode("latin1")]
    zips = {name: _zip(whole | {name: scan}) for name in names}
    zips["file and folder"] = _zip({"a": scan, "a/b": scan})
    zips["bomb"] = _zip({"a.jpeg": bytes(2**24)})
    zips["empty"] = b""
    return {"whole": _zip(whole), **zips}


def mutated_archives(count: int, seed: int) -> Tally:
    """Unpacks bad and mutated zips; nothing may appear beside the folder that was asked for."""
    rng = np.random.default_rng(seed)
    zips = archives()
    tally = Tally()
    cases = list(zips.items())
    cases += [
        (f"zip {number} of seed {seed}", mutate(zips["whole"], rng)) for number in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        archive, target = Path(folder) / "scans.zip", Path(folder) / "target"
        mine = Path(folder) / "mine.txt"
        mine.write_text("mine")
        for label, data in cases:
            archive.write_bytes(data)
            target.mkdir()
            attempt(tally, label, lambda: unpack(archive, target))
            beside = {path.name for path in Path(folder).iterdir()}
            if beside != {"scans.zip", "target", "mine.txt"} or mine.read_text() != "mine":
                tally.add("lost", f"{label}: wrote outside: {sorted(beside)}")
            shutil.rmtree(target)
    return tally


def _zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _torch_pickle() -> bytes:
    """What torch.save writes for {"w": a tensor of 12 floats}, by hand, for torch is not needed."""
    mark, call, name = pickle.MARK, pickle.REDUCE, pickle.GLOBAL

    def text(value: str) -> bytes:
        data = value.encode()
        return pickle.BINUNICODE + len(data).to_bytes(4, "little") + data

    def number(value: int) -> bytes:
        return pickle.BININT1 + bytes([value])

    storage = mark + text("storage") + name + b"torch\nFloatStorage\n" + text("0") + text("cpu")
    storage += number(12) + pickle.TUPLE + pickle.BINPERSID
    shape = number(3) + number(4) + pickle.TUPLE2 + number(4) + number(1) + pickle.TUPLE2
    hooks = name + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + call
    tensor = name + b"torch._utils\n_rebuild_tensor_v2\n" + mark + storage + number(0) + shape
    tensor += pickle.NEWFALSE + hooks + pickle.TUPLE + call
    body = pickle.EMPTY_DICT + text("w") + tensor + pickle.SETITEM
    return pickle.PROTO + b"\x02" + body + pickle.STOP
