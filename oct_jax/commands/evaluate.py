"""`evaluate` and `recalibrate`: a run and scans in; files with the run, and lines, out.

runs/<name>/evaluation/
  predictions.csv  a line for each scan
  report.json      every figure
  report.html      the same as a page, with curves and the worst mistakes
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from oct_jax.classifier import Classifier
from oct_jax.commands.settings import EvaluateConfig, RecalibrateConfig
from oct_jax.data.scans import Scans
from oct_jax.decision.calibration import calibration_figures
from oct_jax.decision.fit import describe
from oct_jax.decision.rule import DecisionRule, fit_rule
from oct_jax.decision.storage import write_rule
from oct_jax.files import json_text, write_together
from oct_jax.metrics.evaluation import Evaluated, appraise, parse_prevalence
from oct_jax.model.inference import Outputs, predict_source
from oct_jax.reports.evaluation_page import to_html, to_lines
from oct_jax.runs.folder import exclusive
from oct_jax.runs.ownership import check_claimable, claim_folder, mark
from oct_jax.runs.scans import (
    Selection,
    find_overlap,
    is_own,
    refuse_overlap,
    select_for_model,
    select_scans,
)
from oct_jax.runs.source import ModelSource
from oct_jax.runs.verified import fingerprint
from oct_jax.types import UserError


def evaluate(config: EvaluateConfig, source: ModelSource, console: Console) -> Evaluated:
    """Evaluates a model, writes predictions, figures and page, and tells the main figures.

    Raises:
      UserError: no scans, scans that the model was trained on, or a setting that is wrong.
    """
    folder, classifier = source.folder, _open(source, console)
    prevalence = parse_prevalence(config.prevalence, classifier.task)
    selection = _select(source, classifier, config)
    scans = selection.scans
    for line in scans.lines:
        console.print(line, markup=False)
    rule = classifier.rule
    overlap = find_overlap(classifier.provenance, scans.records)
    refuse_overlap(overlap, len(scans), config.allow_overlap)
    out = Path(config.out) if config.out else _folder_for(folder, selection)
    check_claimable(out)
    evaluated = appraise(
        outputs_of(classifier, scans, config.threads),
        rule,
        scans,
        groups=selection.groups,
        task=classifier.task,
        prevalence=prevalence,
        resamples=config.resamples,
        seed=config.seed,
    )
    about = {
        "data": selection.name,
        "split": selection.split,
        "run": source.name,
        "stage": classifier.stage,
        "model": fingerprint(classifier),
        "synthetic": classifier.synthetic,
        "contaminated": bool(overlap.trained),
        "trained_on": len(overlap.trained),
        "chose_epoch_or_thresholds": overlap.chosen,
    }
    evaluated = replace(evaluated, report=evaluated.report | about)
    if config.out is None:
        claim_folder(folder / "evaluation")
    _write(evaluated, to_html(evaluated, classifier), out)
    for line in to_lines(evaluated.report):
        console.print(line, markup=False)
    console.print(f"report: {out / 'report.html'}", markup=False)
    return evaluated


def _open(source: ModelSource, console: Console) -> Classifier:
    if source.note:
        console.print(source.note, markup=False)
    return source.load()


def _select(source: ModelSource, classifier: Classifier, config: EvaluateConfig) -> Selection:
    if source.run is not None:
        return select_scans(
            source.run,
            data=config.data,
            manifest=config.manifest,
            split=config.split,
            labels=config.labels,
            on_bad_scan=config.on_bad_scan,
        )
    if config.manifest is not None:
        raise UserError("manifest=: is for a run; a model file is evaluated on data=FOLDER")
    return select_for_model(
        classifier.task,
        data=config.data,
        split=config.split,
        labels=config.labels,
        on_bad_scan=config.on_bad_scan,
    )


def recalibrate(config: RecalibrateConfig, source: ModelSource, console: Console) -> None:
    """Fits a model's decision rule to other scans; the network and its features stay.

    A run's new rule is stored with the run; of a model file another file is written.

    Raises:
      UserError: no scans, scans that the model was trained on, or a file that is there already.
    """
    out = _recalibrated_file(config, source)
    classifier = _open(source, console)
    split = None
    if source.run is not None and is_own(source.run, config.data):
        split = "calibration"
    where = EvaluateConfig(data=config.data, split=split, on_bad_scan=config.on_bad_scan)
    selection = _select(source, classifier, where)
    scans = selection.scans
    for line in scans.lines:
        console.print(line, markup=False)
    overlap = find_overlap(classifier.provenance, scans.records)
    refuse_overlap(overlap, len(scans), config.allow_overlap)
    outputs, truth = outputs_of(classifier, scans, config.threads), scans.labels
    met = {"trained_on": len(overlap.trained)}
    rule = fit_rule(
        outputs,
        truth,
        classifier.rule.outliers if classifier.rule else None,
        patients=scans.patients,
        coverage=config.coverage,
        sensitivity=config.sensitivity,
        outlier_rate=config.outlier_rate,
        fitted_on=describe(scans, selection.name) | met,
        model=fingerprint(classifier),
        records=scans.records,
        task=classifier.task,
    )
    if out is None:
        place = str(source.folder / classifier.stage)
        mark(source.folder)  # a run of an earlier version has no marker
        with exclusive(source.folder):
            write_rule(source.folder / classifier.stage, rule)
    else:
        place = str(out)
        known = classifier.provenance.with_chosen(scans.records)
        replace(classifier, rule=rule, provenance=known).save(out)
    for line in shortages(rule):
        console.print(f"warning: {line}", markup=False)
    change = calibration_figures(np.asarray(outputs.logits), truth, rule.temperature)
    console.print(
        f"temperature {rule.temperature:.3f}: expected calibration error"
        f" {change['before']['ece']:.4f} before, {change['after']['ece']:.4f} after, on these"
        f" {len(truth)} scans; `just evaluate` measures it on others. {place}",
        markup=False,
    )


def _recalibrated_file(config: RecalibrateConfig, source: ModelSource) -> Path | None:
    """The model file to write; None for a run, which keeps its rule itself."""
    if source.run is not None:
        if config.out is not None:
            raise UserError("out=: is for model=; a run keeps the new rule itself")
        return None
    out = Path(config.out or f"{source.folder}-recalibrated.safetensors")
    if out.exists():
        raise UserError(f"out={out}: exists; name another file")
    return out


def shortages(rule: DecisionRule) -> list[str]:
    """What the calibration scans are too few for, a line each."""
    patients_of = rule.fitted_on["patients_of"]
    lines = [
        f"scans of {patients_of.get(name, 0)} patients with {name} are too few for"
        f" coverage={rule.coverage:g}: every prediction set will hold it"
        for label, name in enumerate(rule.task.classes)
        if rule.set_thresholds[label] == 0
    ]
    classes = zip(rule.task.classes, rule.task.urgent, strict=True)
    urgent = sum(patients_of.get(name, 0) for name, is_urgent in classes if is_urgent)
    if not any(rule.task.urgent):
        pass  # nothing is asked of a class that the task does not have
    elif not urgent:
        lines.append("no scan of an urgent class: every scan will be called urgent or deferred")
    elif urgent + 1 < 1 / (1 - rule.sensitivity):
        lines.append(
            f"{urgent} urgent patients are too few to promise sensitivity={rule.sensitivity:g}: all"
            f" of their scans are urgent, of new patients' {urgent / (urgent + 1):.3f} can be"
            " expected"
        )
    if rule.outliers is None:
        lines.append("the run has no outlier model of its features: no scan is called an outlier")
    return lines


def outputs_of(classifier: Classifier, scans: Scans, threads: int) -> Outputs:
    """What a classifier makes of the scans."""
    return predict_source(
        classifier.model,
        classifier.variables,
        scans,
        classifier.preprocess,
        threads=threads,
    )


def predictions_csv(evaluated: Evaluated) -> str:
    """A line for each scan: file, patient, label, prediction, probabilities, referral, set."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    task = evaluated.task
    decided = ["referral", "prediction_set", "outlier_score"] if evaluated.decisions else []
    writer.writerow(["file", "patient", "label", "predicted", *task.classes, *decided])
    names, truth = evaluated.scans.task.classes, evaluated.scans.labels
    predicted = evaluated.by_group.argmax(1)
    for row, record in enumerate(evaluated.scans.records):
        cells = [record.path, record.patient, names[truth[row]], names[predicted[row]]]
        cells += [f"{value:.6f}" for value in evaluated.probabilities[row]]
        if evaluated.decisions is not None:
            inside = zip(task.classes, evaluated.decisions.sets[row], strict=True)
            cells.append(evaluated.decisions.referrals[row] or "")
            cells.append("+".join(name for name, member in inside if member))
            score = evaluated.decisions.outlier_scores[row]
            cells.append("" if np.isnan(score) else f"{score:.4f}")
        writer.writerow(cells)
    return text.getvalue()


def _folder_for(run: Path, selection: Selection) -> Path:
    """`evaluation/` for the run's own test scans, a folder in it for everything else."""
    if selection.own and selection.split == "test":
        return run / "evaluation"
    if selection.own:
        return run / "evaluation" / f"own-{selection.split}"
    where = Path(selection.name).resolve()
    labels = ",".join(f"{group.name}:{'+'.join(group.classes)}" for group in selection.groups)
    digest = hashlib.sha256(f"{where} {labels}".encode()).hexdigest()[:6]
    return run / "evaluation" / f"{where.name}-{selection.split}-{digest}"


def _write(evaluated: Evaluated, page: str, out: Path) -> None:
    claim_folder(out)
    write_together(
        {
            out / "predictions.csv": predictions_csv(evaluated).encode("utf-8", "surrogateescape"),
            out / "report.json": json_text(evaluated.report),
            out / "report.html": page,
        }
    )
