"""The commands, from the words of the command line to the work.

Each reads and checks its words before it imports what does the work: JAX takes a second to import,
and a mistake must not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from oct_jax.commands.entry import make_console
from oct_jax.commands.parsing import HelpRequested, parse, refuse_control_characters
from oct_jax.commands.scan_files import find_jobs
from oct_jax.commands.settings import (
    AdaptConfig,
    AuditConfig,
    BenchmarkConfig,
    CompareConfig,
    DemoConfig,
    EvaluateConfig,
    ExplainConfig,
    ExplainReportConfig,
    ExportConfig,
    MonitorConfig,
    PrepareConfig,
    RecalibrateConfig,
    ReportConfig,
    TrainConfig,
    ViewerConfig,
)
from oct_jax.paths import expand_home
from oct_jax.runs.hub import PREFIX
from oct_jax.runs.paths import find_run, latest_stage
from oct_jax.runs.source import SUFFIX, ModelSource, find_source
from oct_jax.starter import NAME
from oct_jax.types import UserError

Side: TypeAlias = ModelSource | Path
"""What is compared: a model, or a CSV file of predictions."""

_DATA_USAGE = """Usage: python -m oct_jax.data audit ROOT [key=value ...]
       python -m oct_jax.data prepare ROOT out=FOLDER [key=value ...]

audit    look for leaks, duplicates, damaged files and shortcuts; exit code 1 where
         splits leak or one file has two labels
prepare  build a data set's records, or its training cache, to be read fast ever after

`audit --help` and `prepare --help` list the settings."""


def train(words: list[str]) -> None:
    """Trains one stage: `stage=frozen`, then `stage=finetune`."""
    _check_places(parse(TrainConfig, words, {}))
    from oct_jax.commands.train import train_stage
    from oct_jax.commands.train_settings import read_settings
    from oct_jax.runs.processes import is_writer, join_processes

    settings = read_settings(words)
    join_processes(settings.distributed)
    train_stage(settings, make_console(quiet=not is_writer()))


def evaluate(words: list[str]) -> None:
    """Evaluates a run; `recalibrate`, `adapt`, `compare`, `monitor`, `report` have own settings.

    Raises:
      SystemExit: with code 1, where `monitor` raises an alarm.
    """
    if words[:1] == ["monitor"]:
        monitoring = parse(MonitorConfig, words[1:], {})
        jobs = find_jobs([monitoring.data], None)
        source = find_source(monitoring.run, monitoring.model)
        from oct_jax.commands.monitor import monitor_scans

        monitor_scans(monitoring, jobs, source, make_console())
    elif words[:1] == ["report"]:
        sheet = parse(ReportConfig, words[1:], {})
        find_run(sheet.run)
        from oct_jax.commands.report import write_report

        write_report(sheet, make_console())
    elif words[:1] == ["adapt"]:
        adaptation = parse(AdaptConfig, words[1:], {})
        jobs = find_jobs([adaptation.data], None)
        from oct_jax.commands.adapt import adapt

        adapt(adaptation, [job.scan for job in jobs.scans], make_console())
    elif words[:1] == ["compare"]:
        names = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        comparison = parse(CompareConfig, [word for word in words[1:] if word not in names], {})
        sides = _sides(names, comparison)
        from oct_jax.commands.compare import compare_sides

        compare_sides(comparison, sides, make_console())
    elif words[:1] == ["recalibrate"]:
        recalibration = parse(RecalibrateConfig, words[1:], {})
        source = find_source(recalibration.run, recalibration.model)
        if recalibration.eyes:
            from oct_jax.commands.recalibrate_eyes import recalibrate_eyes

            recalibrate_eyes(recalibration, source, make_console())
            return
        from oct_jax.commands.evaluate import recalibrate

        recalibrate(recalibration, source, make_console())
    else:
        config = parse(EvaluateConfig, words, {})
        source = find_source(config.run, config.model)
        from oct_jax.commands.evaluate import evaluate

        evaluate(config, source, make_console())


def explain(words: list[str]) -> None:
    """Explains scans, or with `report` tests a model's explanations."""
    if words[:1] == ["report"]:
        report_config = parse(ExplainReportConfig, words[1:], {})
        source = find_source(report_config.run, report_config.model)
        from oct_jax.commands.explain_report import report

        report(report_config, source, make_console())
        return
    scans = [word for word in words if "=" not in word and not word.startswith("-")]
    config = parse(ExplainConfig, [word for word in words if word not in scans], {})
    _check_scans(scans)
    jobs = find_jobs(scans, None if config.out is None else Path(config.out).expanduser())
    source = find_source(config.run, config.model)
    if config.target is not None and source.run is not None:
        _check_target(config.target, source.run)
    from oct_jax.commands.explain import explain

    explain(jobs, source, config, make_console())


def export(words: list[str]) -> None:
    """Writes a model as a bundle of ONNX files, or with `viewer` as a page."""
    if words[:1] == ["viewer"]:
        viewer_config = parse(ViewerConfig, words[1:], {})
        source = find_source(viewer_config.run, viewer_config.model)
        from oct_jax.commands.viewer import write_viewer

        write_viewer(viewer_config, source, make_console())
        return
    config = parse(ExportConfig, words, {})
    source = find_source(config.run, config.model)
    from oct_jax.commands.export import export_bundle

    export_bundle(config, source, make_console())


def data(words: list[str]) -> None:
    """Runs `audit` or `prepare`.

    Raises:
      SystemExit: with code 1, where an audit finds a leak or one file under two labels.
    """
    name, *settings = words or ["--help"]
    if name in ("--help", "-h"):
        raise HelpRequested(_DATA_USAGE)
    if name == "audit":
        audit = parse(AuditConfig, as_settings(settings), {})
        from oct_jax.commands.data import run_audit

        run_audit(audit)
    elif name == "prepare":
        preparation = parse(PrepareConfig, as_settings(settings), {})
        from oct_jax.commands.data import run_prepare

        run_prepare(preparation)
    else:
        raise UserError(f"{name!r}: no such command; use audit or prepare")


def benchmark(words: list[str]) -> None:
    """Trains and tests by a named protocol."""
    of_stages = [word for word in words if word.startswith(("frozen.", "finetune."))]
    config = parse(BenchmarkConfig, [word for word in words if word not in of_stages], {})
    if not os.path.lexists(config.data):
        raise UserError(f"data={config.data}: no such file or folder")
    from oct_jax.commands.benchmark import benchmark

    benchmark(config, of_stages, make_console())


def demo(words: list[str]) -> None:
    """Trains, evaluates, explains and exports on phantoms."""
    config = parse(DemoConfig, words, {})
    from oct_jax.commands.demo import demo

    demo(Path(config.run), make_console())


def as_settings(words: Sequence[str]) -> list[str]:
    """Words as key=value: the first may be the root alone, `--write-manifest` needs no value."""
    settings = list(words)
    if settings and "=" not in settings[0] and not settings[0].startswith("-"):
        settings[0] = f"root={settings[0]}"
    if "--write-manifest" in settings:
        settings[settings.index("--write-manifest")] = "write_manifest=manifest.csv"
    return [word.replace("--write-manifest=", "write_manifest=", 1) for word in settings]


def _sides(names: Sequence[str], config: CompareConfig) -> tuple[Side, Side]:
    """The two models or files of predictions to compare, and that there is something to ask them.

    Raises:
      UserError: not two, no such model or file, or no scans to compare models on.
    """
    if len(names) != 2:
        raise UserError(
            f"compare: {len(names)} names given; `just compare A B`, each a run folder, a model"
            " file, starter, or a CSV of predictions"
        )
    sides = _side(names[0]), _side(names[1])
    has_run = any(isinstance(side, ModelSource) and side.run is not None for side in sides)
    if config.data is None and not has_run and not all(isinstance(s, Path) for s in sides):
        raise UserError("data=: must be given: neither of the two is a run with scans of its own")
    return sides


def _side(name: str) -> Side:
    path = Path(expand_home(name))
    if path.suffix.lower() == ".csv":
        if not path.is_file():
            raise UserError(f"{name}: no such file")
        return path
    if name == NAME or name.startswith(PREFIX) or path.suffix == SUFFIX:
        return find_source(None, name)
    return find_source(name, None)


def _check_places(config: TrainConfig) -> None:
    """Names what is not there before JAX is imported; what is there is checked later."""
    if config.stage == "finetune":
        latest_stage(Path(config.run))
        return
    places = {"data": None if config.data == "phantom" else config.data}
    places["manifest"] = config.manifest
    for name, place in places.items():
        if place is not None and not os.path.lexists(place):
            raise UserError(f"{name}={place}: no such file or folder")


def _check_target(target: str, run: Path) -> None:
    from oct_jax.runs.task import read_run_task  # imports NumPy

    classes = read_run_task(run).classes
    if target not in classes:
        raise UserError(f"target={target}: must be one of {', '.join(classes)}")


def _check_scans(words: Sequence[str]) -> None:
    if not words:
        raise UserError("no scan given: `just explain SCAN.png`, or a folder or a pattern")
    for word in words:
        refuse_control_characters(word)
