"""`evaluate` and `recalibrate`: a run and scans in; files with the run, and lines, out.

runs/<name>/evaluation/
  predictions.csv  a line for each scan
  report.json      every figure
  report.html      the same as a page, with curves and the worst mistakes
  eyes.csv         a line for each eye, where the scans are of volumes
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from oct_jax.classifier import Classifier
from oct_jax.commands.evaluate_eyes import JudgedEye, eye_report, eyes_csv, judge_eyes
from oct_jax.commands.settings import EvaluateConfig, RecalibrateConfig
from oct_jax.data.scans import Scans
from oct_jax.decision.calibration import calibration_figures
from oct_jax.decision.fit import describe
from oct_jax.decision.rule import DecisionRule, decide, fit_rule
from oct_jax.decision.storage import write_rule
from oct_jax.files import json_text, write_together
from oct_jax.metrics.evaluation import Evaluated, appraise, parse_prevalence
from oct_jax.metrics.parts import Answered, check_column, figures_by_column
from oct_jax.metrics.unseen import Unseen, parse_unseen
from oct_jax.model.inference import Outputs, predict_source
from oct_jax.reports.evaluation_page import to_html, to_lines
from oct_jax.runs.folder import exclusive
from oct_jax.runs.ownership import check_claimable, claim_folder, mark
from oct_jax.runs.scans import (
    Selection,
    find_overlap,
    folder_of,
    is_own,
    refuse_overlap,
    select_scans_for,
)
from oct_jax.runs.source import ModelSource
from oct_jax.runs.verified import fingerprint
from oct_jax.task import Task, Tier
from oct_jax.types import UserError


def evaluate(config: EvaluateConfig, source: ModelSource, console: Console) -> Evaluated:
    """Evaluates a model, writes predictions, figures and page, and tells the main figures.

    Raises:
      UserError: no scans, scans that the model was trained on, or a setting that is wrong.
    """
    folder, classifier = source.folder, _open(source, console)
    prevalence = parse_prevalence(config.prevalence, classifier.task)
    tiers = parse_unseen(config.unseen, classifier.task)
    rule = classifier.rule
    if tiers and rule is None:
        raise UserError(f"unseen=: {source.name} has no decision rule, which is what would defer")
    selection = select_scans_for(
        source,
        classifier,
        data=config.data,
        manifest=config.manifest,
        split=config.split,
        labels=config.labels,
        unseen=tuple(tiers),
        on_bad_scan=config.on_bad_scan,
    )
    scans = selection.scans
    for line in scans.lines:
        console.print(line, markup=False)
    met = scans.records + (selection.unseen.records if selection.unseen else ())
    overlap = find_overlap(classifier.provenance, met)
    refuse_overlap(overlap, len(met), config.allow_overlap)
    out = Path(config.out) if config.out else _folder_for(folder, selection)
    check_claimable(out)
    check_column(scans.records, config.by)
    outputs = outputs_of(classifier, scans, config.threads)
    evaluated = appraise(
        outputs,
        rule,
        scans,
        groups=selection.groups,
        task=classifier.task,
        prevalence=prevalence,
        unseen=_unseen(classifier, selection.unseen, tiers, config.threads),
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
    eyes = judge_eyes(classifier, scans, outputs)
    about["by_column"] = figures_by_column(_answered(evaluated), scans.records, config.by)
    about["eyes"] = eye_report(eyes, evaluated) if eyes else None
    evaluated = replace(evaluated, report=evaluated.report | about)
    if config.out is None:
        claim_folder(folder / "evaluation")
    _write(evaluated, eyes, to_html(evaluated, classifier), out)
    for line in to_lines(evaluated.report):
        console.print(line, markup=False)
    console.print(f"report: {out / 'report.html'}", markup=False)
    return evaluated


def _open(source: ModelSource, console: Console) -> Classifier:
    if source.note:
        console.print(source.note, markup=False)
    return source.load()


def _unseen(
    classifier: Classifier, scans: Scans | None, tiers: Mapping[str, Tier], threads: int
) -> Unseen | None:
    """Scans of diseases outside of the task with the rule's decisions, labelled by their folder."""
    if scans is None or classifier.rule is None:
        return None
    spelt = {name.casefold(): name for name in tiers}
    return Unseen(
        [record.path for record in scans.records],
        [spelt[folder_of(record).casefold()] for record in scans.records],
        scans.patients,
        tiers,
        decide(classifier.rule, outputs_of(classifier, scans, threads)),
    )


def recalibrate(config: RecalibrateConfig, source: ModelSource, console: Console) -> None:
    """Fits a model's decision rule to other scans; the network and its features stay.

    A run's new rule is stored with the run; of a model file another file is written.

    Raises:
      UserError: no scans, scans that the model was trained on, or a file that is there already.
    """
    out = recalibrated_file(config, source)
    classifier = _open(source, console)
    split = None
    if source.run is not None and is_own(source.run, config.data):
        split = "calibration"
    selection = select_scans_for(
        source, classifier, data=config.data, split=split, on_bad_scan=config.on_bad_scan
    )
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
    change = calibration_figures(
        np.asarray(outputs.logits), truth, rule.temperature, scans.patients
    )
    errors = [change[when]["calibration_error"] for when in ("before", "after")]
    before, after = ("not measured" if error is None else f"{error:.4f}" for error in errors)
    console.print(
        f"temperature {rule.temperature:.3f}: calibration error {before} before, {after} after, on"
        f" these {len(truth)} scans; `just evaluate` measures it on others. {place}",
        markup=False,
    )


def recalibrated_file(config: RecalibrateConfig, source: ModelSource) -> Path | None:
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
    promised = rule.fitted_on["promised"]
    lines = []
    for name, share in promised["coverage"].items():
        if not share:
            lines.append(f"no scan of {name}: every prediction set will hold it")
        elif share < rule.coverage:
            lines.append(
                f"the patients with {name} are too few for coverage={rule.coverage:g}: {share:.3f}"
                " is what they can promise"
            )
    sensitivity = promised["sensitivity"]
    if not any(rule.task.urgent):
        pass  # nothing is asked of a class that the task does not have
    elif not sensitivity:
        lines.append("no scan of an urgent class: every scan will be called urgent or deferred")
    elif sensitivity < rule.sensitivity:
        lines.append(
            f"the urgent patients are too few for sensitivity={rule.sensitivity:g}:"
            f" {sensitivity:.3f} is what they can promise"
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
    writer.writerows(_unseen_rows(evaluated.unseen, task))
    return text.getvalue()


def _unseen_rows(unseen: Unseen | None, task: Task) -> Iterator[list[str]]:
    """A line for each scan of a disease outside of the task, like the others'."""
    if unseen is None:
        return
    decisions = unseen.decisions
    for row, name in enumerate(unseen.names):
        inside = zip(task.classes, decisions.sets[row], strict=True)
        score = decisions.outlier_scores[row]
        yield [
            name,
            unseen.patients[row],
            unseen.labels[row],
            task.classes[decisions.probabilities[row].argmax()],
            *(f"{value:.6f}" for value in decisions.probabilities[row]),
            decisions.referrals[row] or "",
            "+".join(label for label, member in inside if member),
            "" if np.isnan(score) else f"{score:.4f}",
        ]


def _folder_for(run: Path, selection: Selection) -> Path:
    """`evaluation/` for the run's own test scans, a folder in it for everything else."""
    if selection.own and selection.split == "test":
        return run / "evaluation"
    if selection.own:
        return run / "evaluation" / f"own-{selection.split}"
    where = Path(selection.name).resolve()
    labels = ",".join(f"{group.name}:{'+'.join(group.classes)}" for group in selection.groups)
    if selection.unseen is not None:
        labels += "".join(
            f" {name}" for name in sorted(set(map(folder_of, selection.unseen.records)))
        )
    digest = hashlib.sha256(f"{where} {labels}".encode()).hexdigest()[:6]
    return run / "evaluation" / f"{where.name}-{selection.split}-{digest}"


def _answered(evaluated: Evaluated) -> Answered:
    decisions, task = evaluated.decisions, evaluated.scans.task
    refers = decisions is not None and evaluated.task.refers
    return Answered(
        evaluated.by_group,
        evaluated.scans.labels,
        evaluated.scans.patients,
        decisions.referrals if decisions is not None and refers else None,
        task.classes,
        task.tiers,
    )


def _write(evaluated: Evaluated, eyes: list[JudgedEye], page: str, out: Path) -> None:
    claim_folder(out)
    contents = {
        out / "predictions.csv": predictions_csv(evaluated).encode("utf-8", "surrogateescape"),
        out / "report.json": json_text(evaluated.report),
        out / "report.html": page,
    }
    if eyes:
        contents[out / "eyes.csv"] = eyes_csv(eyes, evaluated)
    write_together(contents)
