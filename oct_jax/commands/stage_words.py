"""Settings of both stages among the words of one command: `frozen.epochs=5 finetune.epochs=8`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields

import jax
import msgspec

from oct_jax.data.strengths import Augment
from oct_jax.train.precision import resolve_precision
from oct_jax.train.settings import STAGES, StageName, StageSettings, finetune, frozen
from oct_jax.types import UserError

THREADS = 2


def stage_values(given: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The settings `frozen.x=y` and `finetune.x=y` as values x: y of each stage."""
    return {
        stage: {
            name.removeprefix(f"{stage}."): value
            for name, value in given.items()
            if name.startswith(f"{stage}.")
        }
        for stage in STAGES
    }


def read_stage(stage: StageName, values: Mapping[str, str], *, seed: int) -> StageSettings:
    """Settings of a stage from text: fields of `StageSettings`, and `augment.x` of `Augment`.

    Raises:
      UserError: no such setting, or a value that is not of its kind.
    """
    plain = {name: value for name, value in values.items() if "." not in name}
    strengths = {n.removeprefix("augment."): v for n, v in values.items() if "." in n}
    for names, kind in ((plain, StageSettings), (strengths, Augment)):
        known = {field.name for field in fields(kind)}
        if unknown := sorted(set(names) - known):
            raise UserError(f"{stage}: {unknown[0]}: not a setting of {kind.__name__}")
    precision = resolve_precision("auto", jax.default_backend())
    make = frozen if stage == "frozen" else finetune
    defaults = asdict(make(precision=precision, threads=THREADS, seed=seed))
    changed = defaults | plain | {"augment": defaults["augment"] | strengths}
    try:
        return msgspec.convert(changed, StageSettings, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{stage}: {error}") from error
