"""The card of the starter model, from what its file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from oct_jax import Classifier

# What the data sets are, the hardest first.
NAMES = {
    "noor_dev": "another hospital (Noor Eye Hospital, Spectralis), AMD counted for CNV or DRUSEN",
    "uncurated_dev": "the same release before curation, CNV and NORMAL",
    "oct2017_subset": "the same curated release, other patients",
}


def card(classifier: Classifier, recipe: Sequence[str], price: tuple[int, float], size: int) -> str:
    """Markdown.

    Args:
      classifier: loaded from the model file.
      recipe: the words of each stage.
      price: of float16 storage: changed labels, and the largest change of a probability.
      size: of the file, bytes.
    """
    facts, preprocess = classifier.provenance.facts, classifier.preprocess
    scans = {split: sum(counts.values()) for split, counts in facts["data"]["scans"].items()}
    versions = {name: facts["versions"].get(name) for name in ("oct-jax", "jax", "flax")}
    template = Path(__file__).with_name("starter_card.template.md").read_text(encoding="utf-8")
    return Template(template).substitute(
        scans,
        scans=sum(scans.values()),
        classes=", ".join(f"{info.name} ({info.meaning})" for info in classifier.task.infos),
        table=_table(facts["measured"]),
        recalls=_recalls(facts["measured"]),
        heatmaps=_heatmaps(classifier),
        part=facts["scans"]["part"],
        source=facts["scans"]["source"],
        data_licence=facts["scans"]["licence"],
        weights=facts["initial_weights"]["source"],
        weights_licence=facts["initial_weights"]["licence"],
        weights_file=facts["weights"].get("file"),
        weights_sha256=facts["weights"].get("sha256"),
        size=preprocess.size,
        resize=preprocess.resize,
        recipe=", then ".join(f"`just train {words}`" for words in recipe),
        date=facts["created"][:10],
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        megabytes=f"{size / 1e6:.1f}",
        changed=price[0],
        moved=f"{price[1]:.1g}",
        licence=facts["licence"],
    )


def _in_order(measured: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any] | None]]:
    """Of each data set, its name in words and its evaluation, where there is one."""
    by_name = {report["data"]: report for report in measured}
    return [(words, by_name.get(name)) for name, words in NAMES.items()]


def _table(measured: Sequence[Mapping[str, Any]]) -> str:
    rows = ["| scans | right | deferred to a person |", "|---|---|---|"]
    for words, report in _in_order(measured):
        if report is None:
            rows.append(f"| {words} | not measured | |")
            continue
        figures = report["figures"]
        rows.append(
            f"| {report['scans']}: {words} | {_percent(figures['accuracy'])}"
            f" | {_percent(figures['deferred'])} |"
        )
    return "\n".join(rows)


def _recalls(measured: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for words, report in _in_order(measured):
        if report is None:
            continue
        shares = [
            f"{name} {_percent(report['figures'][f'{name} recall'])}"
            for name in report["groups"]
            if f"{name} recall" in report["figures"]
        ]
        lines.append(f"- {words}: {', '.join(shares)}")
    return "\n".join(["Right, by the label of the scan:", "", *lines])


def _heatmaps(classifier: Classifier) -> str:
    tested = [each for each in classifier.provenance.tested if each.method == "gradcam"]
    if not tested:
        return "Not tested: they are marked as unverified."
    report = tested[-1]
    if not report.passed:
        return (
            f"The faithfulness report on {report.scans} scans was **not passed**: heatmaps are"
            " marked as unverified."
        )
    return (
        f"Grad-CAM passed the faithfulness report on {report.scans} test and calibration scans:"
        " removing what a heatmap marks costs the class more probability than removing random"
        " places or what a random head's heatmap marks, and random weights destroy it. A heatmap"
        " has a coarse grid, and shows where, not why."
    )


def _percent(share: Sequence[float]) -> str:
    value, low, high = (100 * number for number in share)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"
