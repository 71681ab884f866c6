"""`python -m oct_jax.data audit ROOT` and `... prepare ROOT out=FOLDER`; `--help` tells more."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from oct_jax.commands import entry as command
from oct_jax.commands.settings import AuditConfig, HelpRequested, PrepareConfig, parse
from oct_jax.types import UserError

_USAGE = """Usage: python -m oct_jax.data audit ROOT [key=value ...]
       python -m oct_jax.data prepare ROOT out=FOLDER [key=value ...]

audit    look for leaks, duplicates, damaged files and shortcuts; exit code 1 where
         splits leak or one file has two labels
prepare  build a data set's records, or its training cache, to be read fast ever after

`audit --help` and `prepare --help` list the settings."""


def main(words: list[str]) -> None:
    """Runs `audit` or `prepare`.

    Raises:
      SystemExit: with code 1, where an audit finds a leak or one file under two labels.
    """
    name, *settings = words or ["--help"]
    if name in ("--help", "-h"):
        raise HelpRequested(_USAGE)
    if name == "audit":
        run_audit(parse(AuditConfig, as_settings(settings), {}))
    elif name == "prepare":
        run_prepare(parse(PrepareConfig, as_settings(settings), {}))
    else:
        raise UserError(f"{name!r}: no such command; use audit or prepare")


def as_settings(words: Sequence[str]) -> list[str]:
    """Words as key=value: the first may be the root alone, `--write-manifest` needs no value."""
    settings = list(words)
    if settings and "=" not in settings[0] and not settings[0].startswith("-"):
        settings[0] = f"root={settings[0]}"
    if "--write-manifest" in settings:
        settings[settings.index("--write-manifest")] = "write_manifest=manifest.csv"
    return [word.replace("--write-manifest=", "write_manifest=", 1) for word in settings]


def run_audit(config: AuditConfig) -> None:
    """Audits, tells, writes the report, and exits with 1 where splits or labels are unsound."""
    from oct_jax.data.audit import audit, clean_records
    from oct_jax.data.manifest import write_manifest
    from oct_jax.reports.audit_page import fix, summary_lines, write_report

    found = _with_progress(lambda progress: audit(config.root, progress))
    write_report(found, Path(config.out))
    for line in summary_lines(found):
        print(line)
    print(f"report: {Path(config.out) / 'audit.html'}")
    if config.write_manifest:
        records = clean_records(found, seed=config.seed)
        write_manifest(records, config.write_manifest)
        print(
            f"clean splits of {len(records)} scans: {config.write_manifest}; use them with "
            f"just train stage=frozen data={config.root} manifest={config.write_manifest}"
        )
    elif found.leaks:
        print(f"fix: {fix(found)}")
    if found.leaks or found.contradictions:
        sys.exit(1)


def run_prepare(config: PrepareConfig) -> None:
    """Builds records or a training cache."""
    from oct_jax.data.prepare import prepare
    from oct_jax.data.preprocess import Preprocess

    cache = None
    if config.cache:  # scans are stored before normalisation, so its numbers do not matter
        cache = Preprocess(size=config.size, resize=config.resize, mean=(0.0,), std=(1.0,))

    def build(progress: Callable[[str, int, int], None]) -> list[str]:
        return prepare(
            config.root,
            config.out,
            manifest=config.manifest,
            on_bad_scan=config.on_bad_scan,
            seed=config.seed,
            cache=cache,
            progress=progress,
        )

    for line in _with_progress(build):
        print(line)


def _with_progress(work: Callable[[Callable[[str, int, int], None]], object]):
    """Runs `work` with a function that shows (what is done, done, total) in a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done)

        return work(show)


if __name__ == "__main__":
    sys.exit(command.run(main))
