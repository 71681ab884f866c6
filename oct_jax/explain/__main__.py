"""`python -m oct_jax.explain scan.png`, or `... report`; `--help` lists the settings."""

import sys

from oct_jax.commands import entry as command
from oct_jax.commands.settings import (
    ExplainConfig,
    ExplainReportConfig,
    parse,
    refuse_control_characters,
)
from oct_jax.types import UserError


def main(words: list[str]) -> None:
    """Explains scans, or tests a run's explanations."""
    if words[:1] == ["report"]:
        _report(words[1:])
    else:
        _explain(words)


def _explain(words: list[str]) -> None:
    scans = [word for word in words if "=" not in word and not word.startswith("-")]
    config = parse(ExplainConfig, [word for word in words if word not in scans], {})
    for scan in scans:
        refuse_control_characters(scan)
    if "" in scans:
        raise UserError("'': an empty argument names no scan; leave it out")
    if not scans:
        raise UserError("no scan given: `just explain SCAN.png`, or a folder or a pattern")
    from oct_jax.commands.explain import explain

    explain(scans, config, command.make_console())


def _report(words: list[str]) -> None:
    config = parse(ExplainReportConfig, words, {})
    from oct_jax.commands.explain_report import report

    report(config, command.make_console())


if __name__ == "__main__":
    sys.exit(command.run(main))
