"""Model card (Mitchell et al. 2019) and data card (Gebru et al. 2021) from a run's own files.

They follow the templates in docs/cards; a line that the files do not fill says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from oct_jax.reports.overlay import RESEARCH_USE
from oct_jax.reports.sheet import data, model, results
from oct_jax.reports.sheet.answer import Fill
from oct_jax.runs.facts import RunFacts
from oct_jax.types import SPLITS

_Sections: TypeAlias = dict[str, dict[str, Fill | None]]
_UNKNOWN = "not known to the run: fill in"
_MODEL: _Sections = {
    "Model": {
        "made by, contact": None,
        "architecture, parameters": model.model,
        "starting weights": model.weights,
        "training": model.training,
        "epoch": model.selection,
        "software": model.software,
        "licence": model.availability,
    },
    "Intended use": {"for": model.role, "not for": model.practice, "users": model.users},
    "Data": {"training set": data.sources, "splits": data.partitions, "test": data.disjoint},
    "Evaluation": {
        "own test scans": results.internal,
        "by class, and referral": results.diagnostic,
        "calibration": results.recalibration,
        "other scans": results.external,
        "mistakes": results.failures,
        "subgroups": None,
    },
    "Explanations": {"faithfulness": results.heatmaps},
    "Robustness": {"diseases not known": results.robustness, "poor input": model.poor_input},
    "Limits and risks": {"known from the files": results.limitations, "when it is wrong": None},
}
_DATA: _Sections = {
    "What it is": {"name, scans, patients": data.sources, "classes": data.labels},
    "Who and how": {
        "patients, consent, approval": None,
        "devices": data.acquisition,
        "who labelled": None,
        "left out": data.exclusion,
    },
    "Splits": {"how": data.partitions, "disjoint at": data.disjoint, "missing data": data.missing},
    "What it is not": {"prevalence": data.characteristics, "diseases that are missing": None},
    "Privacy": {"identifiers": None},
}


def model_card(facts: RunFacts) -> str:
    """The model card as Markdown."""
    head = [f"# Model card: {facts.folder.name}", "", f"**{RESEARCH_USE}.**"]
    if facts.config.synthetic:
        head += ["", "**SYNTHETIC: trained on phantoms; nothing here is of patients.**"]
    return _card(head, _MODEL, facts)


def data_card(facts: RunFacts) -> str:
    """The data card of the run's scans as Markdown."""
    card = _card([f"# Data card: scans of {facts.folder.name}"], _DATA, facts)
    classes = facts.config.task.classes
    rows = [
        f"| {split} | "
        + " | ".join("{} ({})".format(*facts.counts(label)[split]) for label in classes)
        + " |"
        for split in SPLITS
    ]
    table = [f"| scans (patients) | {' | '.join(classes)} |", "|---" * (len(classes) + 1) + "|"]
    return "\n".join([card, *table, *rows, ""])


def _card(head: Sequence[str], sections: _Sections, facts: RunFacts) -> str:
    lines = list(head)
    for title, entries in sections.items():
        lines += ["", f"## {title}", ""]
        for name, fill in entries.items():
            answer = fill(facts) if fill else None
            words = _UNKNOWN if answer is None else f"{answer.words} ({answer.place})"
            if answer is not None and answer.missing:
                words += f"; {_UNKNOWN}: {answer.missing}"
            lines.append(f"- **{name}:** {words}")
    return "\n".join([*lines, ""])
