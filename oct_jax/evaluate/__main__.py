"""`python -m oct_jax.evaluate run=...`, or `... recalibrate data=...`; `--help` lists settings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from oct_jax import command
from oct_jax.config import EvaluateConfig, RecalibrateConfig, parse

if TYPE_CHECKING:
    from rich.console import Console


def main(words: list[str]) -> None:
    """Evaluates a run, or fits its decision rule to other scans."""
    if words[:1] == ["recalibrate"]:
        config = parse(RecalibrateConfig, words[1:], {})
        from oct_jax.evaluate.run import recalibrate

        recalibrate(config, _console())
    else:
        settings = parse(EvaluateConfig, words, {})
        from oct_jax.evaluate.run import evaluate

        evaluate(settings, _console())


def _console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(command.run(main))
