"""Files: written whole or not at all, read back only as what they should be.

Everything that the package reads back, JSON and tensors, comes through `read_json`,
`read_json_lines` or `read_tensors`: they compare the content with a type or with shapes, and
describe damage in one line.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from oct_jax.types import UserError

T = TypeVar("T")

LARGEST_JSON = 2**26
"""Bytes; the largest JSON file that the package itself writes is a hundred times smaller."""
DEEPEST_JSON = 32
"""Levels of nesting; the package itself writes at most 8."""

# For the types that `read_json` checks against. Numbers are always finite.
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Rate = Annotated[float, Meta(ge=0, lt=1)]
Count = Annotated[int, Meta(ge=0)]
PositiveInt = Annotated[int, Meta(ge=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


def check_writable(folder: Path) -> None:
    """Checks before long work that a folder can be written to, or made where it is not there.

    Raises:
      UserError: it cannot.
    """
    places = (folder.absolute(), *folder.absolute().parents)
    nearest = next(path for path in places if os.path.exists(path))
    if not nearest.is_dir():
        raise UserError(f"{folder}: cannot make this folder: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK):
        code = errno.EROFS if os.statvfs(nearest).f_flag & os.ST_RDONLY else errno.EACCES
        raise UserError(f"{folder}: cannot be written to: {os.strerror(code)}")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes beside `path` and renames: a reader sees the old file or the new one, never half.

    Raises:
      OSError: it cannot be written; names `path`.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """`write_atomic` of several files: where one cannot be written, none is replaced.

    Raises:
      OSError: one cannot be written; names it.
    """
    written: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            with _errors_of(path):
                if path.exists() and not path.is_file():
                    raise OSError(errno.EEXIST, "exists and is not a regular file")
                handle, written[path] = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
                _fill(handle, content.encode() if isinstance(content, str) else content)
                os.chmod(written[path], 0o644)
        for path, beside in written.items():
            with _errors_of(path):
                os.replace(beside, path)
    finally:
        for beside in written.values():
            with contextlib.suppress(FileNotFoundError):  # it has its place
                os.unlink(beside)


@contextlib.contextmanager
def _errors_of(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _fill(handle: int, data: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def json_text(value: Any) -> str:
    """A JSON value as `write_json` writes it: indented for people."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON value atomically, indented for people."""
    write_atomic(path, json_text(value))


def read_json(path: Path, kind: type[T] | Any = Any, *, remedy: str = "restore it") -> T:
    """Reads a JSON file as a value of a type.

    Args:
      path: the file.
      kind: what the file must hold: a dataclass, a `msgspec.Struct`, or any type that msgspec
        converts to, with `Annotated[..., msgspec.Meta(...)]` for ranges and lengths; `Any` for
        JSON values of any kind. Keys that a dataclass does not have are refused; a `Struct` decides
        that itself.
      remedy: what the user should do about a damaged file; ends the error's line.

    Raises:
      UserError: the file cannot be read, is not JSON, is nested too deeply, holds a number that is
        not finite, or is not a value of `kind`.
    """
    return parse_json(_read(path, remedy), kind, str(path), remedy=remedy)


def read_json_lines(path: Path, kind: type[T] | Any, *, remedy: str = "restore it") -> list[T]:
    """Reads a file with a JSON value on every line; arguments and errors as of `read_json`."""
    return [
        parse_json(line, kind, f"{path} line {number}", remedy=remedy)
        for number, line in enumerate(_read(path, remedy).splitlines(), 1)
    ]


def parse_json(
    data: bytes | str, kind: type[T] | Any, name: str, *, remedy: str = "restore it"
) -> T:
    """JSON text as a value of a type; `name` is the file's, for errors. See `read_json`."""
    try:
        value = json.loads(data, parse_constant=_refuse_number, parse_float=_finite)
        _check_depth(value)
    except RecursionError:
        raise _damaged(name, "nested too deeply", remedy) from None
    except ValueError as error:
        raise _damaged(name, error, remedy) from error
    return convert(value, kind, name, remedy=remedy)


def convert(value: Any, kind: type[T] | Any, name: str, *, remedy: str = "restore it") -> T:
    """A JSON value, as `json.loads` returns it, as a value of a type; see `read_json`."""
    try:
        fields = getattr(kind, "__dataclass_fields__", None)
        if fields is not None and isinstance(value, dict):
            _refuse_unknown(value, fields)
        return msgspec.convert(value, kind)
    except (UserError, ValueError, TypeError, msgspec.MsgspecError) as error:
        raise _damaged(name, error, remedy) from error


def read_tensors(
    path: Path,
    shapes: Mapping[str, Sequence[str | int]],
    *,
    sha256: str,
    remedy: str = "restore it",
) -> dict[str, np.ndarray]:
    """Reads float32 tensors from a safetensors file.

    Args:
      path: the file.
      shapes: of every tensor by its name, for example `{"mean": ("channels",)}`; a size is a
        number, or a name that stands for the same number everywhere.
      sha256: of the file's bytes, hexadecimal; or its first digits.
      remedy: as for `read_json`.

    Raises:
      UserError: the file cannot be read, its bytes have another checksum, or it holds other
        tensors, other shapes, another dtype, or values that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = _read(path, remedy)
    if not sha256 or not hashlib.sha256(data).hexdigest().startswith(sha256):
        raise _damaged(str(path), "its bytes have changed: SHA-256 differs", remedy)
    try:
        tensors = load(data)
        check_tensors(tensors, shapes)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(str(path), error, remedy) from error
    return tensors


def _read(path: Path, remedy: str) -> bytes:
    try:
        if path.suffix.startswith(".json") and path.stat().st_size > LARGEST_JSON:
            raise _damaged(str(path), f"more than {LARGEST_JSON} bytes", remedy)
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from error


def _damaged(name: str, reason: object, remedy: str) -> UserError:
    words = " ".join(str(reason).split()) or type(reason).__name__
    shown = words if len(words) <= 200 else words[:199] + "…"
    return UserError(f"{name}: damaged or not written by oct_jax ({shown}); {remedy}")


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the range of numbers")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST_JSON):
        level = [child for item in level for child in _children(item)]
    if level:
        raise ValueError("nested too deeply")


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _refuse_unknown(value: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    unknown = sorted(value.keys() - fields.keys())
    if unknown:
        raise ValueError(f"unknown {unknown[0]!r}")


def check_tensors(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[str | int]]
) -> None:
    """Raises ValueError unless these are finite float32 tensors of these names and shapes.

    Args:
      tensors: by name.
      shapes: as for `read_tensors`.
    """
    if tensors.keys() != shapes.keys():
        raise ValueError(f"holds {sorted(tensors)} where {sorted(shapes)} should be")
    sizes: dict[str | int, int] = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        wanted = [size if isinstance(size, int) else sizes.get(size, -1) for size in shape]
        agrees = len(wanted) == tensor.ndim and all(
            size in (-1, actual) for size, actual in zip(wanted, tensor.shape, strict=True)
        )
        if not agrees or tensor.dtype != np.float32:
            raise ValueError(f"{name} is {tensor.dtype} of shape {tensor.shape}")
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name} holds values that are not finite")
        sizes |= dict(zip(shape, tensor.shape, strict=True))
