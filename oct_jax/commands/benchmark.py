"""`benchmark protocol=...`: both stages, calibration and test on every fold of a named protocol.

runs/benchmark-<protocol>/
  settings.json    what was asked for; another command is refused here
  fold0/...        checkpoints of the stages, manifest.csv, and the answers to the test scans
  predictions.csv  of all test scans; `compare` reads it
  benchmark.json   protocol, digest of its splits, versions, figures with intervals, published rows
  benchmark.md     the same as tables
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from oct_jax.commands.parsing import flatten, split_words
from oct_jax.commands.settings import BenchmarkConfig
from oct_jax.commands.stage_words import read_stage, stage_values
from oct_jax.data.manifest import write_manifest
from oct_jax.data.scans import Scans
from oct_jax.files import json_text, read_json, write_json, write_together
from oct_jax.metrics.folds import fold_accuracy, summarize_folds, to_markdown
from oct_jax.model.backbones import load_backbone
from oct_jax.runs.folder import exclusive
from oct_jax.runs.folds import Fold, train_fold
from oct_jax.runs.protocols import PROTOCOLS, Protocol, has_patients, splits_digest
from oct_jax.runs.provenance import provenance
from oct_jax.runs.published import published_beside
from oct_jax.task import Task
from oct_jax.train import Callback, EpochMetrics, StageSettings
from oct_jax.train.settings import STAGES
from oct_jax.types import UserError

_FREE_ON_RESUME = ("out", "resamples")


class Log(Callback):
    """Prints a row for each epoch, and every message."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name = console, name

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """One epoch, one line."""
        self._console.print(
            f"{self._name} epoch {metrics.epoch}: loss {metrics.loss:.4f},"
            f" validation accuracy {metrics.val_accuracy:.4f}"
        )

    def on_message(self, line: str) -> None:
        """What training has to say."""
        self._console.print(line)


def benchmark(
    config: BenchmarkConfig, stage_words: Sequence[str], console: Console
) -> dict[str, Any]:
    """Runs a protocol, or what is left of it, and writes its results.

    Raises:
      UserError: no such data, other settings than the folder was begun with, or a wrong setting.
    """
    protocol = PROTOCOLS[config.protocol]
    values = stage_values(split_words(stage_words))
    stages = [read_stage(stage, values[stage], seed=config.seed) for stage in STAGES]
    out = Path(config.out or f"runs/benchmark-{protocol.name}")
    with exclusive(out):
        asked = _settings(config, stages)
        _check_settings(out / "settings.json", asked)
        folds = protocol.open_folds(Path(config.data))
        digest = splits_digest(folds)
        for line in _describe(protocol, folds, digest):
            console.print(line)
        start = load_backbone(
            config.backbone,
            config.weights,
            num_classes=len(protocol.task.classes),
            seed=config.seed,
            variant=config.variant,
            width=config.width,
        )
        preprocess = start.preprocess(size=config.image_size, resize=config.resize)
        write_json(out / "settings.json", asked)
        rows = []
        for number, scans in enumerate(folds):
            folder = out / f"fold{number}"
            folder.mkdir(exist_ok=True)
            write_manifest(scans.records, folder / "manifest.csv")
            fold = Fold(scans, start, preprocess)
            answers = train_fold(fold, stages, folder, partial(_logs, console, folder.name))
            rows.append(answers | {"seed": config.seed, "fold": number})
            console.print(f"{folder.name}: accuracy {fold_accuracy(rows[-1]):.4f}")
        about = {
            "protocol": protocol.name,
            "splits": protocol.splits,
            "splits_sha256": digest,
            "task": protocol.task.name,
            "patients_are_known": has_patients(folds[0]),
            "models": [str(row["model"]) for row in rows],
            "settings": asked,
            "made_by": provenance({}, start.source, config.seed),
            "published": [asdict(row) for row in published_beside(protocol.name)],
        }
        result = about | {"results": summarize_folds(rows, protocol.task, config.resamples)}
        tables = to_tables(result, protocol.task)
        write_together(
            {
                out / "predictions.csv": predictions_csv(rows, protocol.task),
                out / "benchmark.json": json_text(result),
                out / "benchmark.md": "\n".join(tables) + "\n",
            }
        )
    for line in tables:
        console.print(line)
    console.print(f"results: {out / 'benchmark.json'}")
    return result


def to_tables(result: Mapping[str, Any], task: Task) -> list[str]:
    """A result as Markdown: the protocol, its figures, and the published ones beside them."""
    made = result["made_by"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines = [
        f"# Protocol {result['protocol']}",
        "",
        f"{result['splits']}. Splits: SHA-256 {result['splits_sha256']}.",
        f"Python {made['python']}, {versions}; {made['devices']}; {made['created']}.",
    ]
    if not result["patients_are_known"]:
        lines.append("The data tell no patients: intervals draw scans and are too narrow.")
    lines += ["", *to_markdown(result["results"], task), "", "## Published", ""]
    if not result["published"]:
        return [*lines, "No figure that was read at its source stands beside this protocol yet."]
    lines += [
        "Other people's figures, on their splits; none was measured here.",
        "",
        "| what | figure | split | patients in train and test | source |",
        "|---|---|---|---|---|",
    ]
    for row in result["published"]:
        cells = (row["what"], row["figure"], row["split"], row["leaks"], row["source"])
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def predictions_csv(rows: Sequence[Mapping[str, Any]], task: Task) -> bytes:
    """A line for each test scan, as `oct_jax.runs.prediction_file` reads it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    decided = ["referral"] if task.refers else []
    writer.writerow(["file", "patient", "label", "predicted", *task.classes, *decided, "fold"])
    for row in rows:
        columns = zip(
            row["paths"], row["patients"], row["truth"], row["probabilities"], strict=True
        )
        for index, (path, patient, label, odds) in enumerate(columns):
            cells = [path, patient, task.classes[label], task.classes[int(odds.argmax())]]
            cells += [f"{value:.6f}" for value in odds]
            cells += [row["referrals"][index]] if decided else []
            writer.writerow([*cells, row["fold"]])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _logs(console: Console, fold: str, stage: str) -> list[Log]:
    return [Log(console, f"{fold} {stage}")]


def _settings(config: BenchmarkConfig, stages: Sequence[StageSettings]) -> dict[str, Any]:
    """All that decides the figures, as JSON values."""
    own = {name: value for name, value in flatten(config).items() if name not in _FREE_ON_RESUME}
    own["data"] = str(Path(config.data).absolute())
    return own | {stage.stage: asdict(stage) for stage in stages}


def _check_settings(path: Path, asked: Mapping[str, Any]) -> None:
    """Refuses other settings than those that a folder was begun with."""
    if not path.exists():
        return
    stored = read_json(path, dict[str, Any], remedy="choose another out=")
    differing = [name for name in asked if stored.get(name) != asked[name]]
    if differing:
        raise UserError(
            f"{path.parent} was begun with other settings ({', '.join(differing)}): give the same"
            " to resume, or another out="
        )


def _describe(protocol: Protocol, folds: Sequence[Scans], digest: str) -> list[str]:
    scans = sum(len(fold.select("test")) for fold in folds)
    patients = len(set(np.concatenate([fold.patients for fold in folds])))
    return [
        f"protocol {protocol.name}: {protocol.splits}",
        f"{scans} test scans in {len(folds)} folds, {patients} patients; splits {digest}",
    ]
