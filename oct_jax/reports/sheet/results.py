"""Answers about what was measured."""

from __future__ import annotations

from pathlib import Path

from oct_jax.decision.rule import PROMISE
from oct_jax.reports.sheet.answer import (
    Answer,
    data_report,
    figure_of,
    fitted_on,
    in_words,
    last_stage,
    listed,
)
from oct_jax.runs.facts import RunFacts

EVALUATE = "not measured: `just evaluate` on the run's test scans"


def metrics(facts: RunFacts) -> Answer | None:
    """Which figures an evaluation has."""
    if facts.internal is None:
        return None
    names = ", ".join(facts.internal["figures"])
    return Answer(
        f"{names}; plots: ROC, precision and recall, reliability, risk and coverage",
        "evaluation/report.json, evaluation/report.html",
        "why these; clinical utility (`just compare` draws decision curves)",
    )


def uncertainty(facts: RunFacts) -> Answer | None:
    """Intervals."""
    if facts.internal is None:
        return None
    return Answer(
        "95 % percentile intervals from drawing patients with replacement, each with all scans",
        "evaluation/report.json",
    )


def robustness(facts: RunFacts) -> Answer | None:
    """What was measured beyond the run's own test scans."""
    unseen = {
        path: report["unseen"] for path, report in facts.external.items() if report.get("unseen")
    }
    if not unseen:
        return None
    parts = [
        f"{name}: {figure_of(row, 'deferred')} deferred"
        for rows in unseen.values()
        for name, row in rows.items()
    ]
    return Answer(
        f"diseases that the model does not know: {'; '.join(parts)}",
        ", ".join(unseen),
        "disturbed scans",
    )


def heatmaps(facts: RunFacts) -> Answer | None:
    """Explanations, and whether they were tested."""
    if facts.heatmaps is None:
        return None
    passed = "passed" if facts.heatmaps["passed"] else "NOT passed"
    return Answer(
        f"{facts.heatmaps['method']} heatmaps; faithfulness report (deletion, insertion, ROAD,"
        f" randomisation) {passed} on {facts.heatmaps['scans']} scans",
        "explanation/report.json",
    )


def internal(facts: RunFacts) -> Answer | None:
    """The run's own test scans."""
    if facts.internal is None:
        return None
    return Answer(in_words(facts.internal), "evaluation/report.json")


def external(facts: RunFacts) -> Answer | None:
    """Other scans."""
    if not facts.external:
        return None
    words = "; ".join(
        f"`{Path(report['data']).name}`: {in_words(report)}" for report in facts.external.values()
    )
    return Answer(words, ", ".join(facts.external), "how their setting and devices differ")


def performance(facts: RunFacts) -> Answer | None:
    """Overall figures."""
    names = ("accuracy", "balanced accuracy", "macro AUC", "calibration error")
    return listed(facts, names)


def diagnostic(facts: RunFacts) -> Answer | None:
    """Sensitivity, specificity and AUC of each class, and referral."""
    names = [
        f"{label} {what}"
        for label in facts.config.task.classes
        for what in ("recall", "specificity", "AUC")
    ]
    answer = listed(facts, (*names, "urgent sensitivity", "urgent missed", "deferred"))
    return answer and Answer(answer.words, answer.place, "subgroups of patients")


def failures(facts: RunFacts) -> Answer | None:
    """How many are wrong, and where they are shown."""
    if facts.internal is None:
        return None
    names, rows = facts.internal["confusion"]["names"], facts.internal["confusion"]["rows"]
    wrong = {
        f"{true} as {other}": rows[i][j]
        for i, true in enumerate(names)
        for j, other in enumerate(names)
        if i != j and rows[i][j]
    }
    total = sum(map(sum, rows))
    listed = ", ".join(f"{name} {count}" for name, count in wrong.items()) or "none"
    return Answer(
        f"{sum(wrong.values())} of {total} test scans wrong: {listed}; the surest mistakes are"
        " shown under their heatmaps",
        "evaluation/report.html, evaluation/predictions.csv",
        "what a clinician sees in them",
    )


def limitations(facts: RunFacts) -> Answer:
    """What the files themselves say against the figures."""
    lines = []
    if facts.config.synthetic:
        lines.append("SYNTHETIC: trained on phantoms, nothing is known of patients")
    if facts.internal is None:
        lines.append(EVALUATE)
    elif facts.internal["contaminated"]:
        lines.append("CONTAMINATED: trained on some of the evaluated scans or their patients")
    if not facts.external:
        lines.append("no external evaluation of this model")
    if data_report(facts).get("without_patient"):
        lines.append("scans without a patient: splits may share patients, intervals are too narrow")
    rule = facts.rule
    promised = rule.fitted_on.get("promised", {}).get("sensitivity") if rule else None
    if rule is not None and promised is not None and promised < rule.sensitivity:
        lines.append(
            f"the urgent calibration patients are too few for sensitivity {rule.sensitivity:g}:"
            f" {promised:.3f} is promised"
        )
    if rule is not None:
        lines.append(PROMISE)
    return Answer("; ".join(lines), "evaluation/, <stage>/decision/rule.json", "all else")


def clusters(facts: RunFacts) -> Answer | None:
    """Data sets apart."""
    answer = external(facts)
    return answer and Answer(
        f"each other data set is evaluated apart: {answer.words}",
        answer.place,
        "by hospital, device",
    )


def recalibration(facts: RunFacts) -> Answer | None:
    """The decision rule."""
    rule = facts.rule
    if rule is None:
        return None
    calibration = (facts.internal or {}).get("calibration")
    words = f"temperature {rule.temperature:.3f}, fitted on {fitted_on(facts)}"
    if calibration:
        errors = [calibration[when].get("calibration_error") for when in ("before", "after")]
        if None not in errors:
            words += (
                f"; calibration error on test scans {errors[0]:.3f} before, {errors[1]:.3f} after"
            )
    return Answer(words, f"{last_stage(facts)}/decision/rule.json, evaluation/report.json")


def shift(facts: RunFacts) -> Answer | None:
    """How far other scans are from the training scans."""
    rates = {
        path: report["outliers"]["rate"]
        for path, report in facts.external.items()
        if report.get("outliers")
    }
    if not rates:
        return None
    return Answer(
        "outliers of the feature density: "
        + ", ".join(f"{Path(path).parent.name} {rate:.1%}" for path, rate in rates.items()),
        ", ".join(rates),
        "demographics",
    )
