"""From the words of a command line to settings, and what `--help` prints of them.

chz turns `key=value` words into typed, immutable values; this module adds what a person at a
terminal needs of it: one line for each mistake, that names the key, the value and the choices.
"""

from __future__ import annotations

import difflib
import re
import typing
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import chz
from chz.blueprint import (
    ConstructionException,
    ExtraneousBlueprintArg,
    InvalidBlueprintArg,
    MissingBlueprintArg,
)
from chz.util import MISSING

from oct_jax.paths import expand_home
from oct_jax.types import UserError

Config = TypeVar("Config")
PATHS = frozenset(
    {
        "run",
        "model",
        "data",
        "manifest",
        "masks",
        "weights",
        "root",
        "out",
        "write_manifest",
        "task",
    }
)
"""Settings that may be paths: `parse` replaces a leading `~` in them, and nothing else does."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf|nan")
_CHZ_ERRORS = (
    ConstructionException,
    ExtraneousBlueprintArg,
    InvalidBlueprintArg,
    MissingBlueprintArg,
)


class HelpRequested(Exception):
    """`--help` was among the words; the message is the text to print."""


@dataclass(frozen=True)
class Key:
    """One line of `--help`: a key with its type, default and meaning."""

    name: str
    type: Any
    default: str
    doc: str

    @property
    def choices(self) -> str:
        """What the value may be, in words."""
        return _words_of(self.type)


def parse(config: type[Config], words: Sequence[str], defaults: Mapping[str, Any]) -> Config:
    """Reads `key=value` words into a frozen configuration.

    Args:
      config: a chz class.
      words: the command line after the program's name.
      defaults: values that stand in where a key is not among the words; they take precedence over
        the defaults of the class.

    Raises:
      UserError: for an unknown key, a key given twice, a wrong type, an impossible value or a
        missing key; one line that names the key, the value and the choices.
      HelpRequested: where `--help` or `-h` is among the words.
    """
    keys = {key.name: key for key in keys_of(config)}
    if {"--help", "-h"} & set(words):
        raise HelpRequested(help_text(config))
    given = split_words(words)
    for name, value in given.items():
        _refuse_unknown(name, value, keys)
        _refuse_odd_number(name, value, keys[name])
    given |= {name: _expand(name, value) for name, value in given.items() if name in PATHS}
    blueprint = chz.Blueprint(config).apply(dict(defaults))
    try:
        return blueprint.make_from_argv([f"{name}={value}" for name, value in given.items()])
    except _CHZ_ERRORS as error:
        raise UserError(_one_line(error, given, keys)) from error
    except UserError as error:
        raise UserError(_with_whole_key(str(error), given)) from error


def _expand(name: str, value: str) -> str:
    try:
        return expand_home(value)
    except UserError as error:
        raise UserError(f"{name}={error}") from error


def split_words(words: Sequence[str]) -> dict[str, str]:
    """`key=value` words as a dictionary; UserError for any other word or a repeated key."""
    given: dict[str, str] = {}
    for word in words:
        refuse_control_characters(word)
        name, equals, value = word.lstrip("-").partition("=")
        if not equals or not name:
            raise UserError(f"{word!r}: settings are written key=value; --help lists the keys")
        if name in given:
            raise UserError(f"{name}: given twice ({given[name]!r} and {value!r}); keep one")
        given[name] = value
    return given


def refuse_control_characters(word: str) -> None:
    """UserError for an argument with a line break, NUL or another control character.

    No setting needs one, and a file whose name has one would break the line that names it.
    """
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in word):
        raise UserError(
            f"{word!r}: holds a line break or another control character; write it without,"
            " and rename a file that is called so"
        )


def keys_of(config: type) -> list[Key]:
    """Every settable key, nested ones as `outer.inner`, in the order of declaration."""
    keys = []
    for name, field in chz.chz_fields(config).items():
        if chz.is_chz(field.final_type):
            keys += [
                Key(f"{name}.{inner.name}", inner.type, inner.default, inner.doc)
                for inner in keys_of(cast(type, field.final_type))
            ]
        else:
            keys.append(Key(name, field.final_type, _default_of(field), field._doc))
    return keys


def help_text(config: type) -> str:
    """The text of `--help`: every key with its default, its choices and its meaning."""
    keys = keys_of(config)
    width = max(len(key.name) for key in keys)
    lines = [(config.__doc__ or "").strip(), "", "Settings, each as key=value:"]
    for key in keys:
        lines.append(f"  {key.name:<{width}}  {key.doc}")
        lines.append(f"  {'':<{width}}    {key.choices}; default: {key.default}")
    return "\n".join(lines)


def flatten(config: Any) -> dict[str, Any]:
    """A configuration as a flat dictionary of JSON values, nested keys as `outer.inner`."""
    flat: dict[str, Any] = {}
    for name, value in chz.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": leaf for inner, leaf in value.items()}
        else:
            flat[name] = value
    return flat


def unflatten(config: type[Config], flat: Mapping[str, Any]) -> Config:
    """The inverse of `flatten`."""
    return chz.Blueprint(config).apply(dict(flat)).make()


def _default_of(field: Any) -> str:
    if field._default is MISSING:
        return "none, it must be given"
    return "none" if field._default is None else str(field._default)


def _refuse_unknown(name: str, value: str, keys: Mapping[str, Key]) -> None:
    if name in keys:
        return
    inner = [key for key in keys if key.startswith(f"{name}.")]
    near = inner or difflib.get_close_matches(name, keys, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"the keys are {', '.join(keys)}"
    raise UserError(f"{_short(name)}={_short(value)}: unknown key {_short(name)}; {hint}")


def _refuse_odd_number(name: str, value: str, key: Key) -> None:
    # Python would also read `1_000`, ` 7` and the digits of other scripts.
    kinds = {key.type, *typing.get_args(key.type)}
    pattern = _FLOAT if float in kinds else _INTEGER if int in kinds else None
    none = value == "None" and type(None) in kinds
    word = any(value in typing.get_args(kind) for kind in kinds)
    if pattern is not None and not (none or word) and not pattern.fullmatch(value):
        raise UserError(f"{name}={_short(value)}: must be {key.choices}, in plain digits")


def _one_line(error: Exception, given: Mapping[str, str], keys: Mapping[str, Key]) -> str:
    for name, value in given.items():
        if f"param '{name}'" in str(error):
            return f"{name}={_short(value)}: must be {keys[name].choices}"
    missing = [name for name in keys if name not in given and name in str(error).partition(":")[2]]
    if missing:
        return f"{missing[0]}: must be given, as {missing[0]}={keys[missing[0]].choices}"
    return " ".join(str(error).split())


def _short(text: str) -> str:
    """The text as an error quotes it: a line stays readable whatever was typed."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def _with_whole_key(line: str, given: Mapping[str, str]) -> str:
    # A validator knows the name of its field, not of the configuration that holds it.
    for name in given:
        outer, _, inner = name.rpartition(".")
        if outer and line.startswith(f"{inner}="):
            return f"{outer}.{line}"
    return line


def _words_of(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(typing.get_args(kind))
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    if members:
        return " or ".join(_words_of(member) for member in members)
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
