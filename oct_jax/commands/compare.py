"""`evaluate compare A B`: two models, or somebody's predictions, on the same scans.

comparisons/<A>-<B>-<data>/
  comparison.json  every figure
  comparison.html  the same as a page, with the paragraph in words and the decision curves
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from rich.console import Console

from oct_jax.classifier import Classifier
from oct_jax.commands.compare_files import Compared, of_file, on_lines, without_rule
from oct_jax.commands.evaluate import outputs_of
from oct_jax.commands.settings import CompareConfig
from oct_jax.data.manifest import summarize
from oct_jax.data.scans import Scans
from oct_jax.decision.calibration import softmax
from oct_jax.decision.referral import urgency
from oct_jax.decision.rule import decide
from oct_jax.files import json_text, write_together
from oct_jax.metrics.comparison import Answers, compare
from oct_jax.provenance import Provenance
from oct_jax.reports.comparison_page import to_html
from oct_jax.reports.comparison_words import in_words, to_lines
from oct_jax.runs.ownership import check_claimable, claim_folder
from oct_jax.runs.prediction_file import PredictionFile, read_prediction_file
from oct_jax.runs.scans import (
    Selection,
    find_overlap,
    select_for_model,
    select_scans,
)
from oct_jax.runs.source import ModelSource
from oct_jax.runs.verified import fingerprint
from oct_jax.task import Task, named_task
from oct_jax.types import UserError

Side: TypeAlias = ModelSource | Path


def compare_sides(
    config: CompareConfig, sides: tuple[Side, Side], console: Console
) -> dict[str, Any]:
    """Compares two sides, writes figures and page, and prints the paragraph.

    Raises:
      UserError: classes that differ, no scans, scans that a model was trained on, or a file of
        predictions that is not of these scans.
    """
    classifiers = [side.load() if isinstance(side, ModelSource) else None for side in sides]
    task = _task_of(classifiers, sides, config)
    files = [read_prediction_file(s, task) if isinstance(s, Path) else None for s in sides]
    out = Path(config.out) if config.out else _folder_for(sides, config)
    check_claimable(out)
    if config.data is not None or any(classifiers):
        compared, answers = _on_scans(config, sides, classifiers, files, task)
    else:
        first, second = (file for file in files if file is not None)
        compared, answers = on_lines(config, first, second, task)
    for line in compared.lines:
        console.print(line)
    report = compare(
        *answers,
        compared.labels,
        compared.patients,
        task,
        groups=compared.groups,
        urgent_prevalence=config.prevalence,
        resamples=config.resamples,
        seed=config.seed,
    )
    report |= {"data": compared.data, "split": compared.split} | compared.about
    report["in_words"] = in_words(report)
    claim_folder(out)
    page = to_html(report)
    write_together({out / "comparison.json": json_text(report), out / "comparison.html": page})
    for line in to_lines(report):
        console.print(line)
    console.print(f"report: {out / 'comparison.html'}")
    return report


def _task_of(
    classifiers: Sequence[Classifier | None], sides: tuple[Side, Side], config: CompareConfig
) -> Task:
    tasks = [classifier.task for classifier in classifiers if classifier is not None]
    if not tasks:
        return named_task(config.task)
    if tasks[0].classes != tasks[-1].classes:
        raise UserError(
            f"{_name(sides[0])} is of {', '.join(tasks[0].classes)} and {_name(sides[1])} of"
            f" {', '.join(tasks[-1].classes)}: only models of the same classes can be compared"
        )
    return tasks[0]


def _on_scans(
    config: CompareConfig,
    sides: tuple[Side, Side],
    classifiers: Sequence[Classifier | None],
    files: Sequence[PredictionFile | None],
    task: Task,
) -> tuple[Compared, list[Answers]]:
    """Answers to scans in a folder, or to a run's own."""
    selection = _select(config, sides, task)
    scans, lines = selection.scans, list(selection.scans.lines)
    about: dict[str, Any] = {"contaminated": 0, "chose_epoch_or_thresholds": 0, "left_out": 0}
    known = [classifier.provenance for classifier in classifiers if classifier is not None]
    if config.overlap == "leave_out":
        kept = _unmet(scans, known)
        about["left_out"] = len(scans) - len(kept)
        if about["left_out"]:
            lines.append(f"{about['left_out']} scans left out, of patients that a model trained on")
        scans = kept
    for side, classifier in zip(sides, classifiers, strict=True):
        if classifier is None:
            continue
        overlap = find_overlap(classifier.provenance, scans.records)
        if overlap.trained and config.overlap == "refuse":
            raise UserError(
                f"{len(overlap.trained)} of {len(scans)} scans are of patients that {_name(side)}"
                f" was trained on ({summarize(overlap.trained)}): leave these scans out with"
                " overlap=leave_out, or mark every figure as contaminated with overlap=allow"
            )
        about["contaminated"] = max(about["contaminated"], len(overlap.trained))
        about["chose_epoch_or_thresholds"] += overlap.chosen
    about["models"] = [
        None if classifier is None else fingerprint(classifier) for classifier in classifiers
    ]
    about["synthetic"] = any(c.synthetic for c in classifiers if c is not None)
    answers = [
        of_file(file, file.rows_of(scans.records), task)
        if file is not None
        else _of_model(side, classifier, scans, config.threads)
        for side, classifier, file in zip(sides, classifiers, files, strict=True)
    ]
    compared = Compared(
        scans.labels,
        scans.patients,
        selection.groups,
        selection.name,
        selection.split,
        tuple(lines),
        about,
    )
    return compared, answers


def _unmet(scans: Scans, known: Sequence[Provenance]) -> Scans:
    """The scans of patients that no model was trained on."""
    kept = [
        index
        for index, record in enumerate(scans.records)
        if not any(provenance.trained.holds(record) for provenance in known)
    ]
    if not kept:
        raise UserError("overlap=leave_out: a model was trained on the patients of all these scans")
    return scans.take(kept)


def _select(config: CompareConfig, sides: tuple[Side, Side], task: Task) -> Selection:
    runs = [side.run for side in sides if isinstance(side, ModelSource) and side.run is not None]
    if runs:
        return select_scans(
            runs[0],
            data=config.data,
            split=config.split,
            labels=config.labels,
            on_bad_scan=config.on_bad_scan,
        )
    return select_for_model(
        task,
        data=config.data,
        split=config.split,
        labels=config.labels,
        on_bad_scan=config.on_bad_scan,
    )


def _of_model(side: Side, classifier: Classifier | None, scans: Scans, threads: int) -> Answers:
    assert classifier is not None, "a model or a file"
    outputs, rule = outputs_of(classifier, scans, threads), classifier.rule
    if rule is None:
        return without_rule(_name(side), softmax(np.asarray(outputs.logits)), classifier.task)
    decisions = decide(rule, outputs)
    called = urgency(decisions.probabilities, rule.task) >= rule.urgent_threshold
    deferred = np.array([referral == "defer" for referral in decisions.referrals])
    return Answers(
        _name(side),
        decisions.probabilities,
        called,
        f"its probability of the urgent classes is {rule.urgent_threshold:.3f} or more",
        deferred if rule.task.refers else None,
    )


def _name(side: Side) -> str:
    return str(side) if isinstance(side, Path) else side.name


def _folder_for(sides: tuple[Side, Side], config: CompareConfig) -> Path:
    """`comparisons/A-B-DATA-xxxxxx`: other words, another folder."""
    names = [Path(_name(side).removeprefix("hf://").partition("@")[0]).stem for side in sides]
    names += [Path(config.data).name] if config.data else []
    words = [str(Path(_name(side)).absolute()) for side in sides]
    words += [str(config.data), str(config.labels), str(config.split), config.overlap]
    digest = hashlib.sha256(" ".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return Path("comparisons") / "-".join([*names, digest])
