"""`python -m oct_jax.evaluate run=...`, or `... recalibrate data=...`; `--help` lists settings."""

from __future__ import annotations

import sys

from oct_jax.commands import entry as command
from oct_jax.commands.settings import EvaluateConfig, RecalibrateConfig, parse


def main(words: list[str]) -> None:
    """Evaluates a run, or fits its decision rule to other scans."""
    if words[:1] == ["recalibrate"]:
        config = parse(RecalibrateConfig, words[1:], {})
        from oct_jax.commands.evaluate import recalibrate

        recalibrate(config, command.make_console())
    else:
        settings = parse(EvaluateConfig, words, {})
        from oct_jax.commands.evaluate import evaluate

        evaluate(settings, command.make_console())


if __name__ == "__main__":
    sys.exit(command.run(main))
