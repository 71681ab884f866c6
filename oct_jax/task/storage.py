"""Tasks as JSON values and as TOML files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oct_jax.paths import expand_home
from oct_jax.task.value import DEFAULT_PENALTIES, TIERS, ClassInfo, Penalties, Task, Tier
from oct_jax.types import UserError


def to_json(task: Task) -> dict[str, Any]:
    """A task as JSON values; `from_json` is the inverse."""
    return {
        "name": task.name,
        "source": task.source,
        "classes": [
            {
                "name": info.name,
                "tier": info.tier,
                "meaning": info.meaning,
                "colour": colour,
            }
            for info, colour in zip(task.infos, task.colours, strict=True)
        ],
        "penalties": {f"{first}>{second}": cost for first, second, cost in task.penalties},
    }


def from_json(value: Mapping[str, Any]) -> Task:
    """A task from the values of `to_json`, or from a file of `read_task`.

    Raises:
      UserError: unknown keys, missing ones, values of other types, or not a task; see `Task`.
    """
    _refuse_unknown(value, {"name", "source", "classes", "penalties"}, "task")
    rows = value.get("classes")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise UserError("task: `classes` must be a list of tables, each with a `name`")
    return Task(
        name=_text(value, "name", "task"),
        infos=tuple(_class_info(row) for row in rows),
        source=_text(value, "source", "task", ""),
        penalties=_penalties(value.get("penalties")),
    )


def stored_task(value: Mapping[str, Any], path: Path, remedy: str) -> Task:
    """`from_json` of a value that a file holds; the one-line error names file and remedy."""
    try:
        return from_json(value)
    except UserError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error


def read_task(path: str | Path) -> Task:
    """Reads a task from a TOML file.

        name = "macula"
        source = "our clinic"

        [[classes]]
        name = "ERM"
        tier = "routine"                # urgent, routine or observe; may be left out
        meaning = "epiretinal membrane"
        colour = "#0072b2"              # may be left out

        [penalties]                     # may be left out
        "urgent>observe" = 4

    Raises:
      UserError: the file cannot be read, or is not a task; one line.
    """
    path = Path(expand_home(path))
    try:
        return from_json(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise UserError(f"task={path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"task={path}: not a TOML file ({error})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _class_info(row: Mapping[str, Any]) -> ClassInfo:
    _refuse_unknown(row, {"name", "tier", "meaning", "colour"}, "class")
    tier = row.get("tier")
    if tier not in (None, *TIERS):
        raise UserError(f"class: tier {tier!r} must be one of {', '.join(TIERS)}, or left out")
    return ClassInfo(
        name=_text(row, "name", "class"),
        tier=tier,
        meaning=_text(row, "meaning", "class", ""),
        colour=_text(row, "colour", "class", ""),
    )


def _penalties(value: Any) -> Penalties:
    if value is None:
        return DEFAULT_PENALTIES
    try:
        return tuple((*_tiers(key), float(cost)) for key, cost in value.items())
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError('task: `penalties` are written as "urgent>observe" = 4') from error


def _tiers(key: str) -> tuple[Tier, Tier]:
    first, second = key.split(">")
    return TIERS[TIERS.index(first)], TIERS[TIERS.index(second)]  # ty cannot narrow text


def _text(value: Mapping[str, Any], key: str, what: str, default: str | None = None) -> str:
    text = value.get(key, default)
    if not isinstance(text, str):
        raise UserError(f"{what}: `{key}` must be given, as text")
    return text


def _refuse_unknown(value: Mapping[str, Any], known: set[str], what: str) -> None:
    unknown = sorted(set(value) - known)
    if unknown:
        raise UserError(
            f"{what}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(known))}"
        )
