"""Bad settings: every key of every command with bad values is read as it should be, or one line."""

from __future__ import annotations

import math
import os
from typing import Any

from fault_parts.tally import Tally, attempt
from oct_jax.commands.parsing import Key, flatten, keys_of, parse, split_words, unflatten
from oct_jax.commands.settings import (
    AdaptConfig,
    AuditConfig,
    EvaluateConfig,
    ExplainConfig,
    ExplainReportConfig,
    ExportConfig,
    PrepareConfig,
    RecalibrateConfig,
    TrainConfig,
)

COMMANDS: dict[type, list[str]] = {
    TrainConfig: ["stage=frozen"],
    EvaluateConfig: [],
    RecalibrateConfig: [],
    AdaptConfig: ["data=scans", "out=adapted.safetensors"],
    ExplainConfig: [],
    ExplainReportConfig: [],
    ExportConfig: [],
    AuditConfig: ["root=scans"],
    PrepareConfig: ["root=scans", "out=prepared"],
}
"""Every settings class with the words that it cannot do without."""

_NUMBERS = ["0", "1", "-1", "-0", "0.5", "1e-400", "1e400", "1e19", "9223372036854775808"]
_NUMBERS += ["nan", "inf", "-inf", "NaN", "Infinity"]
_SPELLINGS = ["1_000", "0x10", "007", " 7", "7 ", "+7", "1e", "1.", ".5", "٣", "½", "1,5", "--1"]
_WORDS = ["", " ", "None", "none", "null", "true", "True", "yes", "[]", "[1]", "{}", "()", "a,b"]
_TEXTS = ["\0", "a\nb", "a\rb", "\x1b[31m", "\u2028", "\u202e", "\udcff", "é", "x" * 300]
_TEXTS += ["=", "a=b", "%s", "{x}", "[red]x[/red]", "~nobody/x", "../..", "/dev/null", "'", '"']
VALUES = (*_NUMBERS, *_SPELLINGS, *_WORDS, *_TEXTS, "9" * 5000, "(" * 2000)
WORDS = ("", "=", "=x", "seed", "--", "-", "seed=1=2", "nosuch=1", "SEED=1", "seed.x=1", "\0=1")


def bad_settings() -> Tally:
    """Parses every key of every command with every bad value, and every bad word.

    What is accepted must be text, finite, and the same after it was stored and read back.
    """
    tally = Tally()
    for config, required in COMMANDS.items():
        for key in keys_of(config):
            words = [word for word in required if not word.startswith(f"{key.name}=")]
            for value in VALUES:
                _try(tally, config, [*words, f"{key.name}={value}"], key)
        for word in WORDS:
            _try(tally, config, [*required, word], None)
        _try(tally, config, [*required, *["seed=1"] * 2], None)
    return tally


def _try(tally: Tally, config: type, words: list[str], key: Key | None) -> None:
    label = f"{config.__name__} {words[-1][:60]!r}"
    read = attempt(tally, label, lambda: parse(config, words, {}))
    if read is None:
        return
    flat = flatten(read)
    broken = [name for name, value in flat.items() if not _is_sound(value)]
    if broken:
        tally.add("wrong", f"{label}: accepted as {broken[0]}={flat[broken[0]]!r}")
    again = attempt(Tally(), label, lambda: unflatten(config, flat))
    if again != read:
        tally.add("wrong", f"{label}: reads back as another value")
    # Text is taken as it was typed; `None` means none where a key may have no value.
    if key is not None and key.type is str:
        typed = split_words(words)[key.name]
        if flat[key.name] not in (typed, os.path.expanduser(typed)):
            tally.add("wrong", f"{label}: accepted as {flat[key.name]!r}")


def _is_sound(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return not (isinstance(value, str) and (not value or "\n" in value or "\0" in value))
