"""The evaluation for people: lines for the terminal, a page with curves and the worst mistakes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from oct_jax.classifier import Classifier
from oct_jax.decision.referral import NOT_REFERRED
from oct_jax.decision.rule import PROMISE
from oct_jax.metrics.classification import risk_coverage
from oct_jax.metrics.evaluation import Evaluated, reliability_rows
from oct_jax.metrics.groups import members_of
from oct_jax.reports import html
from oct_jax.reports.overlay import RESEARCH_USE, overlay
from oct_jax.reports.parts_page import part_lines, part_sections, with_interval
from oct_jax.reports.picture import contact_sheet
from oct_jax.task import Task

_MISTAKES = 12
_OVERALL = (
    "accuracy",
    "balanced accuracy",
    "macro precision",
    "macro F1",
    "macro AUC",
    "macro AP",
    "weighted error",
    "calibration error",
)
_BY_GROUP = ("precision", "recall", "specificity", "F1", "AUC", "AP")
_REFERRAL = (
    "coverage of prediction sets",
    "urgent sensitivity",
    "urgent specificity",
    "urgent missed",
    "deferred",
    "tier accuracy when answered",
)


def cautions(report: dict[str, Any]) -> list[str]:
    """What a reader must know before any figure; mostly none."""
    warnings = []
    if report["synthetic"]:
        warnings.append("SYNTHETIC: the model was trained on phantoms; nothing here is of patients")
    if report["contaminated"]:
        warnings.append(
            f"CONTAMINATED: the run was trained on {report['trained_on']} of these"
            f" {report['scans']} scans or their patients; no figure here is evidence"
        )
    if report["chose_epoch_or_thresholds"]:
        warnings.append(
            f"{report['chose_epoch_or_thresholds']} of these scans chose the run's epoch or its"
            " thresholds: the figures are a little too good"
        )
    if report["scans_without_patient"]:
        warnings.append(
            f"{report['scans_without_patient']} of {report['scans']} scans name no patient and"
            " count as a patient each: where some are of one, the intervals are too narrow"
        )
    return warnings


def to_lines(report: dict[str, Any]) -> list[str]:
    """The main figures, a line each."""
    lines = [f"warning: {line}" for line in cautions(report)]
    lines.append(
        f"{report['scans']} scans of {report['patients']} patients, {report['split']} split;"
        " value and 95 % interval over patients"
    )
    lines += [f"  {name}: {_with_interval(report, name)}" for name in _OVERALL]
    for name in report["groups"]:
        values = ", ".join(
            f"{what} {_with_interval(report, f'{name} {what}')}" for what in ("AUC", "recall")
        )
        lines.append(f"  {name}: precision {_with_interval(report, f'{name} precision')}, {values}")
    if report["calibration"]:
        before = report["calibration"]["before"]["calibration_error"]
        if before is not None:
            lines.append(f"  calibration error before temperature scaling: {before:.3f}")
    if report["sets"]:
        lines.append(
            f"  prediction sets: coverage {report['sets']['coverage']:.3f}"
            f" (asked {report['sets']['asked']:g}), mean size {report['sets']['mean_size']:.2f}"
        )
    if report["referral"]:
        values = ", ".join(
            f"{n} {_with_interval(report, n)}" for n in _REFERRAL if n in report["figures"]
        )
        lines.append(f"  referral: {values}")
        lines += _unseen_lines(report)
    elif report["sets"]:
        lines.append(f"  {NOT_REFERRED}")
    else:
        lines.append("  no decision rule: `just recalibrate data=FOLDER` fits one")
    return lines + [f"  {line}" for line in part_lines(report)]


def to_html(evaluated: Evaluated, classifier: Classifier) -> str:
    """One page, pictures and style inside."""
    report = evaluated.report
    data = f"{report['data']}, {report['split']} split"
    sections = ["<h1>Evaluation</h1>"]
    sections += [html.verdict(line, good=False) for line in cautions(report)]
    sections.append(html.items(_about(report, data)))
    sections += ["<h2>Overall</h2>", _figures_table(report, _OVERALL)]
    sections += ["<h2>By class</h2>", _groups_table(report)]
    sections += ["<h2>Confusion</h2><p>rows: label; columns: prediction</p>", _confusion(report)]
    if report["prevalence"]:
        sections += ["<h2>Precision where classes are as common as stated</h2>", _prevalent(report)]
    sections += ["<h2>Curves</h2>", html.picture(_curves(evaluated), "png", "ROC and other curves")]
    sections += _decisions(report, evaluated.task)
    sections += _unseen_sections(report)
    sections += part_sections(report)
    sections += _mistakes(evaluated, classifier)
    sections.append(
        f"<p>{RESEARCH_USE}. Run {html.text(report['run'])}, {report['stage']} stage,"
        f" model {report['model']}.</p>"
    )
    return html.page("Evaluation", sections)


def _unseen_lines(report: dict[str, Any]) -> list[str]:
    """Of each disease that the model does not know, what became of it."""
    lines = []
    for name, row in (report.get("unseen") or {}).items():
        figures = ", ".join(f"{what} {_with_interval(row, what)}" for what in row["figures"])
        lines.append(
            f"  unseen {name}, {row['scans']} scans of {row['patients']} patients: {figures}"
        )
        if row["urgent_observed"]:
            lines.append(
                f"  warning: {row['urgent_observed']} unseen scans ({name}) that should be urgent"
                " are answered observe"
            )
    return lines


def _unseen_sections(report: dict[str, Any]) -> list[str]:
    rows = report.get("unseen")
    if not rows:
        return []
    figures = list(next(iter(rows.values()))["figures"])
    referrals = list(next(iter(rows.values()))["referrals"])
    table = html.table(
        ("disease", "scans", "patients", *figures, *referrals, "urgent, answered observe"),
        [
            (
                name,
                row["scans"],
                row["patients"],
                *(_with_interval(row, what) for what in figures),
                *(row["referrals"][word] for word in referrals),
                row["urgent_observed"],
            )
            for name, row in rows.items()
        ],
    )
    words = (
        "The model knows none of these diseases: the right answer is to defer. Accepted at 95 % of"
        " known: the share of unseen scans that are no more unusual than all but 5 % of the known"
        " ones. Less urgent tier: than the disease should have."
    )
    return ["<h2>Diseases that the model does not know</h2>", f"<p>{words}</p>", table]


def _about(report: dict[str, Any], data: str) -> list[str]:
    groups = ", ".join(f"{name} {n}" for name, n in report["scans_by_group"].items())
    return [
        f"data: {data}",
        f"{report['scans']} scans of {report['patients']} patients: {groups}",
        "intervals: 95 %, by drawing patients anew; of shares of exactly 0 or 1, where drawing"
        " cannot show the uncertainty, Wilson's with each patient as one scan. An AUC of"
        " (1.000-1.000) is as uncertain as the sensitivities beside it",
        "precision is that of a population with these shares of classes; a balanced set flatters"
        " it (prevalence=...)",
    ]


def _with_interval(report: dict[str, Any], name: str) -> str:
    return with_interval(report["figures"][name])


def _figures_table(report: dict[str, Any], names: Sequence[str]) -> str:
    return html.table(
        ("figure", "value (95 %)"), [(name, _with_interval(report, name)) for name in names]
    )


def _groups_table(report: dict[str, Any]) -> str:
    rows = [
        (name, *(_with_interval(report, f"{name} {figure}") for figure in _BY_GROUP))
        for name in report["groups"]
    ]
    return html.table(("class", *_BY_GROUP), rows)


def _confusion(report: dict[str, Any]) -> str:
    names, rows = report["confusion"]["names"], report["confusion"]["rows"]
    return html.table(("", *names), [(n, *row) for n, row in zip(names, rows, strict=True)])


def _prevalent(report: dict[str, Any]) -> str:
    rows = [
        (
            name,
            f"{share:.1%}",
            _with_interval(report, f"{name} precision there"),
            _with_interval(report, f"{name} precision"),
        )
        for name, share in report["prevalence"].items()
    ]
    return html.table(("class", "prevalence", "precision there", "precision on these scans"), rows)


def _decisions(report: dict[str, Any], task: Task) -> list[str]:
    sections = []
    if report["calibration"]:
        scores = report["calibration"]
        rows = [
            (when, *("-" if value is None else f"{value:.4f}" for value in scores[when].values()))
            for when in ("before", "after")
        ]
        title = f"<h2>Calibration</h2><p>temperature {scores['temperature']:.3f}</p>"
        sections += [
            title,
            html.table(("temperature scaling", "calibration error", "Brier", "NLL"), rows),
        ]
    if report["sets"]:
        sections += ["<h2>Prediction sets</h2>", _sets(report["sets"])]
        sections.append(f"<p>{html.text(PROMISE)}</p>")
    if report["referral"]:
        table, fitted = report["referral"], report["rule_fitted_on"].get("scans", {})
        urgent = [name for name, yes in zip(task.classes, task.urgent, strict=True) if yes]
        words = (
            f"Urgent: {' + '.join(f'p({name})' for name in urgent)} of"
            f" {table['urgent_threshold']:.3f} or more, chosen for a sensitivity of"
            f" {table['asked_sensitivity']:g} on {sum(fitted.get(name, 0) for name in urgent)}"
            " urgent calibration scans."
        )
        promised = table["promised_sensitivity"]
        if promised is not None and promised < table["asked_sensitivity"]:
            words += f" Their patients are too few for it and can promise {promised:.3f}."
        named = [name for name in _REFERRAL if name in report["figures"]]
        sections += [
            f"<h2>Referral</h2><p>{html.text(words)}</p>",
            html.table(
                ("label", *table["columns"]), [(n, *row) for n, row in table["rows"].items()]
            ),
            _figures_table(report, named),
        ]
    elif not task.refers:
        sections.append(f"<h2>Referral</h2><p>{NOT_REFERRED}</p>")
    if report["outliers"]:
        outliers = report["outliers"]
        sections.append(
            f"<p>Out of distribution: {outliers['rate']:.1%} of these scans"
            f" ({outliers['asked_rate']:.1%} of the calibration scans may be);"
            f" {outliers['no_retina']:.1%} show no retina.</p>"
        )
    return sections


def _sets(sets: dict[str, Any]) -> str:
    rows = [
        (
            name,
            f"{row['promised']:.3f}",
            f"{row['coverage']:.3f}",
            row["scans"],
            row["patients"],
            "{:.3f}-{:.3f}".format(*row["sampling_range"]) if row["sampling_range"] else "-",
            row["calibration_patients"],
        )
        for name, row in sets["by_group"].items()
    ]
    head = (
        "class",
        "promised",
        "coverage, over patients",
        "scans",
        "patients",
        "range by sampling alone*",
        "calibration patients",
    )
    sizes = ", ".join(f"{size}: {count}" for size, count in sets["sizes"].items())
    words = f"asked {sets['asked']:g}, mean size {sets['mean_size']:.2f}; scans by size: {sizes}"
    note = (
        "<p>* of 95 in 100 repetitions, drawing patients; none where the"
        " thresholds come from augmented views, which are harder than these scans</p>"
    )
    return f"<p>{html.text(words)}</p>" + html.table(head, rows) + note


def _curves(evaluated: Evaluated) -> bytes:
    figure = Figure(figsize=(10, 9), layout="constrained")
    roc, precision, reliable, risk = figure.subplots(2, 2).ravel()
    for number, group in enumerate(evaluated.groups):
        own = evaluated.scans.labels == number
        if not own.any() or own.all():
            continue
        colour = evaluated.scans.task.colours[number]
        false, true, _ = roc_curve(own, evaluated.by_group[:, number])
        roc.plot(false, true, color=colour, label=group.name)
        exact, recalled, _ = precision_recall_curve(own, evaluated.by_group[:, number])
        precision.plot(recalled, exact, color=colour, label=group.name)
    _dress(roc, "ROC", "1 - specificity", "sensitivity")
    _dress(precision, "Precision and recall", "recall", "precision")
    rows = np.array(reliability_rows(evaluated))
    reliable.plot([0, 1], [0, 1], color="#c1c1c1", linestyle="--")
    reliable.scatter(rows[:, 0], rows[:, 1], s=10 + 200 * rows[:, 2] / rows[:, 2].sum())
    _dress(reliable, "Reliability (size: scans in the bin)", "confidence", "accuracy")
    right = (evaluated.by_group.argmax(1) == evaluated.scans.labels).astype(int)
    coverage, error = risk_coverage(evaluated.by_group.max(1), right)
    risk.plot(coverage, error)
    risk.set(
        title="Error when the least certain are left out",
        xlabel="share of scans answered",
        ylabel="error",
        ylim=(0, None),
    )
    for axes in (roc, precision):
        if axes.lines:
            axes.legend(frameon=False)
    if evaluated.report["synthetic"]:
        figure.suptitle("SYNTHETIC")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90)
    return out.getvalue()


def _dress(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set(title=title, xlabel=across, ylabel=up, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _mistakes(evaluated: Evaluated, classifier: Classifier) -> list[str]:
    """The most confident mistakes, each under the Grad-CAM of the class predicted."""
    predicted, confidence = evaluated.by_group.argmax(1), evaluated.by_group.max(1)
    wrong = np.flatnonzero(predicted != evaluated.scans.labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    title = f"<h2>Mistakes ({len(worst)} most confident of {len(wrong)})</h2>"
    if not len(worst):
        return ["<h2>Mistakes</h2><p>none</p>"]
    source, groups, task = evaluated.scans, evaluated.groups, evaluated.task
    if not source.reader.full_size:
        return [title, "<p>no pictures: a training cache has no full-size scans</p>"]
    pictures = []
    for index in worst:
        scan = source.read(int(index))
        members = members_of(groups[predicted[index]], task)
        target = task.classes[
            max(members, key=lambda one, row=index: evaluated.probabilities[row, one])
        ]
        pictures.append(overlay(scan, classifier.explain(scan, target).heatmap))
    captions = [
        f"{groups[evaluated.scans.labels[index]].name} called {groups[predicted[index]].name}"
        f" {confidence[index]:.0%}"
        for index in worst
    ]
    names = [source.records[int(index)].path for index in worst]
    sheet = contact_sheet(pictures, captions, columns=4, synthetic=evaluated.report["synthetic"])
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "JPEG", quality=85)
    listed = [f"{caption}: {name}" for caption, name in zip(captions, names, strict=True)]
    return [title, html.picture(out.getvalue(), "jpeg", "mistakes"), html.items(listed)]
