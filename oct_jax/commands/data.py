"""`audit` and `prepare`: a folder of scans in; a report, a manifest or records out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from oct_jax.commands.settings import AuditConfig, PrepareConfig
from oct_jax.data.audit import audit, clean_records
from oct_jax.data.manifest import write_manifest
from oct_jax.data.prepare import prepare
from oct_jax.data.preprocess import Preprocess
from oct_jax.files import check_writable
from oct_jax.reports.audit_page import fix, summary_lines, write_report
from oct_jax.task import task_or_folders

Result = TypeVar("Result")


def run_audit(config: AuditConfig) -> None:
    """Audits, tells, writes the report, and exits with 1 where splits or labels are unsound."""
    task = task_or_folders(config.task)
    check_writable(Path(config.out))
    if config.write_manifest:
        check_writable(Path(config.write_manifest).parent)
    findings = _with_progress(lambda progress: audit(config.root, progress, task=task))
    write_report(findings, Path(config.out))
    for line in summary_lines(findings):
        print(line)
    print(f"report: {Path(config.out) / 'audit.html'}")
    if config.write_manifest:
        records = clean_records(findings, seed=config.seed)
        write_manifest(records, config.write_manifest)
        print(
            f"clean splits of {len(records)} scans: {config.write_manifest}; use them with "
            f"just train stage=frozen data={config.root} manifest={config.write_manifest}"
        )
    elif findings.leaks:
        print(f"fix: {fix(findings)}")
    if findings.leaks or findings.contradictions:
        sys.exit(1)


def run_prepare(config: PrepareConfig) -> None:
    """Builds records or a training cache."""
    task = task_or_folders(config.task)
    cache = None
    if config.cache:  # scans are stored before normalisation, so its numbers do not matter
        cache = Preprocess(size=config.size, resize=config.resize, mean=(0.0,), std=(1.0,))

    def build(progress: Callable[[str, int, int], None]) -> list[str]:
        return prepare(
            config.root,
            config.out,
            task=task,
            manifest=config.manifest,
            on_bad_scan=config.on_bad_scan,
            seed=config.seed,
            cache=cache,
            progress=progress,
        )

    for line in _with_progress(build):
        print(line)


def _with_progress(work: Callable[[Callable[[str, int, int], None]], Result]) -> Result:
    """Runs `work` with a function that shows (what is done, done, total) in a terminal."""

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done)

        return work(show)
