"""What is read back is what it should be, or the error says in one line what is wrong."""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
import pytest
from disks import protect
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from safetensors.numpy import save

from oct_jax.files import (
    Positive,
    check_writable,
    convert,
    parse_json,
    read_json,
    read_json_lines,
    read_tensors,
    write_json,
)
from oct_jax.types import UserError


@dataclass(frozen=True)
class Settings:
    kind: Literal["a", "b"]
    scale: Positive
    names: Annotated[tuple[str, ...], Meta(max_length=2)] = ()

    def __post_init__(self):
        if self.scale == 7:
            raise UserError("scale=7: never")


class Row(msgspec.Struct, forbid_unknown_fields=True):
    step: int
    loss: float


GOOD = {"kind": "a", "scale": 2, "names": ["x"]}


def one_line(error) -> str:
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 500
    return text


def test_a_value_comes_back_as_its_type(tmp_path):
    write_json(tmp_path / "s.json", GOOD)
    assert read_json(tmp_path / "s.json", Settings) == Settings("a", 2.0, ("x",))
    assert read_json(tmp_path / "s.json") == GOOD


def test_names_that_are_not_utf8_come_back(tmp_path):
    name = b"scan\xff.png".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "s.json", GOOD | {"names": [name]})
    assert read_json(tmp_path / "s.json", Settings).names == (name,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "c"}, "$.kind"),
        ({"scale": 0}, "$.scale"),
        ({"scale": -1.5}, "$.scale"),
        ({"scale": True}, "$.scale"),
        ({"scale": "2"}, "$.scale"),
        ({"scale": None}, "$.scale"),
        ({"scale": 7}, "scale=7: never"),
        ({"names": ["x", "y", "z"]}, "$.names"),
        ({"names": "x"}, "$.names"),
        ({"other": 1}, "unknown 'other'"),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path, change, reason):
    write_json(tmp_path / "s.json", GOOD | change)
    with pytest.raises(UserError) as error:
        read_json(tmp_path / "s.json", Settings, remedy="make it anew")
    assert one_line(error).startswith(f"{tmp_path / 's.json'}: ")
    assert reason in str(error.value)
    assert str(error.value).endswith("; make it anew")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b'{"kind": "a"}',
        b'{"kind": "a", "scale": NaN}',
        b'{"kind": "a", "scale": Infinity}',
        b'{"kind": "a", "scale": 1e999}',
        b'{"kind": "a", "scale": 1' + b"0" * 5000 + b"}",
        b'{"kind": "\\ud800", "scale": 1}',
        b"[" * 100_000,
        b'{"kind": "a", "scale": 1, "names": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"a":' * 40 + b"1" + b"}" * 40,
    ],
)
@pytest.mark.parametrize("kind", [Settings, dict[str, Settings]])
def test_damaged_files_are_one_line(tmp_path, content, kind):
    (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(tmp_path / "s.json", kind)
    one_line(error)


def test_deep_values_of_any_kind_are_refused():
    with pytest.raises(UserError, match="nested too deeply"):
        parse_json("[" * 40 + "]" * 40, object, "x")
    assert parse_json("[" * 20 + "]" * 20, list, "x")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read") as error:
        read_json(tmp_path / "none.json", Settings)
    one_line(error)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path, Settings)


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "s.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UserError, match="more than"):
        read_json(tmp_path / "s.json")


def test_a_line_that_is_damaged_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 1.5}\n')
    assert read_json_lines(path, Row) == [Row(1, 2.0), Row(2, 1.5)]
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo')
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2: "):
        read_json_lines(path, Row)


def parse_or_refuse(data: bytes) -> None:
    try:
        value = parse_json(data, Settings, "x")
    except UserError as error:
        lines = str(error).splitlines()
    else:
        lines = [value.kind]
    assert len(lines) == 1


@given(st.binary(max_size=60))
def test_no_bytes_end_in_another_error(data):
    parse_or_refuse(data)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_never_ends_in_another_error(place, value):
    data = bytearray(json.dumps(GOOD).encode())
    data[place % len(data)] = value
    parse_or_refuse(bytes(data))


def test_convert_names_its_place():
    with pytest.raises(UserError, match=r"config\.json: .*\$\.scale"):
        convert({"kind": "a", "scale": -1}, Settings, "config.json")


SHAPES = {"mean": ("channels",), "directions": ("channels", "kept"), "precisions": ("kept",)}


def tensors(channels=5, kept=2):
    return {
        "mean": np.ones(channels, np.float32),
        "directions": np.ones((channels, kept), np.float32),
        "precisions": np.ones(kept, np.float32),
    }


def stored(path, arrays):
    data = save(arrays)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def test_tensors_come_back(tmp_path):
    digest = stored(tmp_path / "t.safetensors", tensors())
    for known in (digest, digest[:12]):
        again = read_tensors(tmp_path / "t.safetensors", SHAPES, sha256=known)
        np.testing.assert_array_equal(again["directions"], np.ones((5, 2)))


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.ones(4, np.float32)},
        {"mean": np.ones((5, 1), np.float32)},
        {"mean": np.ones(5, np.float64)},
        {"precisions": np.array([1, np.nan], np.float32)},
        {"precisions": np.ones(3, np.float32)},
        {"other": np.ones(3, np.float32)},
    ],
)
def test_other_tensors_are_refused(tmp_path, change):
    digest = stored(tmp_path / "t.safetensors", tensors() | change)
    with pytest.raises(UserError) as error:
        read_tensors(tmp_path / "t.safetensors", SHAPES, sha256=digest)
    one_line(error)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_every_changed_byte_is_noticed(tmp_path_factory, place, change):
    path = tmp_path_factory.mktemp("t") / "t.safetensors"
    digest = stored(path, tensors())
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= change
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="SHA-256 differs"):
        read_tensors(path, SHAPES, sha256=digest[:12])


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x10" + bytes(7) + b"[" * 16])
def test_bytes_that_are_no_tensors_are_refused(tmp_path, content):
    (tmp_path / "t.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError) as error:
        read_tensors(tmp_path / "t.safetensors", SHAPES, sha256=digest)
    one_line(error)


def test_a_place_that_cannot_be_written_to_is_named_before_the_work(tmp_path, small_disk):
    check_writable(tmp_path / "new" / "folder")
    check_writable(tmp_path)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "new"):
        with pytest.raises(UserError, match=r"cannot make this folder: .*file is not a folder"):
            check_writable(folder)
    protect(small_disk)
    with pytest.raises(UserError, match="cannot be written to: Read-only file system"):
        check_writable(small_disk / "new")
