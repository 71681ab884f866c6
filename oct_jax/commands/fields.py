"""What a setting may hold: validators for the fields of settings classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import chz

from oct_jax.types import UserError

MAX_SEED = 2**32 - 1


def at_least(low: float) -> Callable[[Any, str], None]:
    """A validator: the value, where there is one, is finite and not below `low`."""
    return _check(lambda value: low <= value, f"at least {low:g}")


def above(low: float) -> Callable[[Any, str], None]:
    """A validator: the value, where there is one, is finite and above `low`."""
    return _check(lambda value: low < value, f"above {low:g}")


def between(low: float, high: float) -> Callable[[Any, str], None]:
    """A validator: the value lies in the closed interval from `low` to `high`."""
    return _check(lambda value: low <= value <= high, f"from {low:.10g} to {high:.10g}")


def below(low: float, high: float) -> Callable[[Any, str], None]:
    """A validator: the value is at least `low` and below `high`."""
    return _check(lambda value: low <= value < high, f"at least {low:g} and below {high:g}")


def inside(low: float, high: float) -> Callable[[Any, str], None]:
    """A validator: the value is above `low` and below `high`."""
    return _check(lambda value: low < value < high, f"above {low:g} and below {high:g}")


def _check(holds: Callable[[float], bool], words: str) -> Callable[[Any, str], None]:
    def validate(config: Any, name: str) -> None:
        value = getattr(config, name)
        if value is None or isinstance(value, str):
            return  # a word such as auto, which the type allows
        if not (-math.inf < value < math.inf and holds(value)):
            raise UserError(f"{name.removeprefix('X_')}={value}: must be {words}")

    return validate


def not_empty(config: Any, name: str) -> None:
    """A validator: the text is not empty."""
    if getattr(config, name) == "":
        raise UserError(f"{name.removeprefix('X_')}=: must not be empty")


def settings_of(values: Any) -> Any:
    """A chz class with the fields of a plain dataclass, which also checks them when it is made."""
    fields = {
        field.name: chz.field(default=field.default, doc=field.metadata["doc"])
        for field in dataclasses.fields(values)
    }

    @chz.validate
    def check(self: Any) -> None:
        values(**chz.asdict(self))

    annotations = dict.fromkeys(fields, float)
    body = {"__annotations__": annotations, "__doc__": values.__doc__, "_check": check, **fields}
    return chz.chz(type(f"{values.__name__}Settings", (), {"__module__": __name__, **body}))


def run_field() -> Any:
    """The field `run` of a command that works on a trained model."""
    return chz.field(
        default=None,
        validator=not_empty,
        doc="the run folder; none: the newest trained run under runs/, else the starter model",
    )


def model_field() -> Any:
    """The field `model` of such a command."""
    return chz.field(
        default=None,
        validator=not_empty,
        doc="in place of run: a model file (.safetensors), starter, or hf://owner/name[@revision]",
    )
