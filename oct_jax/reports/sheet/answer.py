"""An answer of a run's files to an item of a checklist, and what several answers are made of.

An answer says nothing that the files do not: where they are silent there is none, and the item is
left to people. Where they know a part, `missing` names the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from oct_jax.runs.facts import RunFacts


@dataclass(frozen=True)
class Answer:
    """What a run's files say.

    Attributes:
      words: with figures.
      place: the files that say so, in the run folder.
      missing: what people must add; "" where nothing.
    """

    words: str
    place: str
    missing: str = ""


Fill: TypeAlias = Callable[[RunFacts], Answer | None]
"""From the facts of a run to an answer."""


def listed(facts: RunFacts, names: Sequence[str]) -> Answer | None:
    """Figures of the internal evaluation by name; None where there is none."""
    if facts.internal is None:
        return None
    words = [
        f"{name} {figure_of(facts.internal, name)}"
        for name in names
        if name in facts.internal["figures"]
    ]
    return Answer(", ".join(words), "evaluation/report.json")


def in_words(report: Mapping[str, Any]) -> str:
    """An evaluation's size and main figures."""
    names = [name for name in ("accuracy", "macro AUC", "deferred") if name in report["figures"]]
    listed = ", ".join(f"{name} {figure_of(report, name)}" for name in names)
    unnamed = report["scans_without_patient"]
    nameless = f" ({unnamed} scans name no patient, each counted as one)" if unnamed else ""
    return f"{report['scans']} scans of {report['patients']} patients{nameless}, {listed}"


def figure_of(report: Mapping[str, Any], name: str) -> str:
    """A figure of a report with its interval."""
    figure = report["figures"][name]
    if figure["value"] is None:
        return "not defined"
    if figure["interval"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['interval'][0]:.3f} to {figure['interval'][1]:.3f})"


def backbone(facts: RunFacts) -> str:
    """The architecture."""
    name = facts.config.settings.get("backbone", "mobilenetv3")
    variant = getattr(facts.config.model, "variant", None)
    return f"{name}, {variant}" if variant else str(name)


def data_report(facts: RunFacts) -> Mapping[str, Any]:
    """What `provenance.json` says of the data."""
    return facts.provenance.get("data", {})


def left_out(facts: RunFacts) -> str:
    """Files that were left out; "" where that is not known."""
    data = data_report(facts)
    if "bad" not in data or "removed" not in data:
        return ""
    return (
        f"{len(data['bad'])} unreadable or wrongly filed files left out, {len(data['removed'])}"
        " scans removed because their patient is in the test split"
    )


def fitted_on(facts: RunFacts) -> str:
    """The size of the calibration set."""
    assert facts.rule is not None, "asked for only where there is one"
    fitted = facts.rule.fitted_on
    scans = sum(fitted.get("scans", {}).values())
    return f"{scans} calibration scans of {fitted.get('patients', 'unknown')} patients"


def last_stage(facts: RunFacts) -> str:
    """The stage that the model comes from."""
    return list(facts.stages)[-1] if facts.stages else "frozen"


def numbers(values: Sequence[float]) -> str:
    """Numbers, each once."""
    return "/".join(f"{value:g}" for value in dict.fromkeys(values))


def alternatives(names: Sequence[str]) -> str:
    """`A, B or C`."""
    return f"{', '.join(names[:-1])} or {names[-1]}"
