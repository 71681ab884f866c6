"""The faithfulness report: whether a model's explanations may be believed, as numbers.

runs/<name>/explanation/
  report.json   every figure, and whether the report is passed
  report.md     the same for people
  curves.png    probability of the target as the map's places are removed or restored
  maps.png      a page of maps, with the lesions' outlines where they are known
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from oct_jax.classifier import Classifier
from oct_jax.commands.outline_report import examine_outlines, outlines_markdown
from oct_jax.commands.settings import ExplainReportConfig
from oct_jax.data.scans import Scans
from oct_jax.files import json_text, write_together
from oct_jax.reports.faithfulness import examine
from oct_jax.reports.faithfulness_page import draw_curves, draw_sheet, to_markdown
from oct_jax.reports.overlay import encode_png
from oct_jax.runs.ownership import check_claimable, claim_folder
from oct_jax.runs.scans import (
    find_overlap,
    open_run_scans,
    refuse_overlap,
    select_scans_for,
)
from oct_jax.runs.source import ModelSource
from oct_jax.runs.verified import report_path
from oct_jax.types import UserError


def report(config: ExplainReportConfig, source: ModelSource, console: Console) -> None:
    """Tests a model's explanations; the outcome goes to the run, or a folder of the model's name.

    Raises:
      UserError: no trained model; its data is gone, has no test scans, or is what the model was
        trained on.
    """
    if source.note:
        console.print(source.note, markup=False)
    folder, classifier = source.folder, source.load()
    check_claimable(report_path(folder).parent)
    scans = choose_scans(source, classifier, config.data, config.scans)
    console.print(f"{len(scans)} scans, to test {source.name}", markup=False)
    outlines = _outlines(classifier, config)
    with Progress(console=console, transient=True) as bars:
        bar = bars.add_task("removing and restoring", total=len(scans))
        tested = examine(
            classifier,
            scans,
            method=config.method,
            flip=config.flip,
            steps=config.steps,
            seed=config.seed,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    tested.figures["outlines"] = outlines
    where = report_path(folder).parent
    text = to_markdown(tested.figures)
    if outlines is not None:
        text += outlines_markdown(outlines)
    claim_folder(where)
    write_together(
        {
            report_path(folder): json_text(tested.figures),
            where / "report.md": text,
            where / "curves.png": draw_curves(tested),
            where / "maps.png": encode_png(draw_sheet(tested, scans, classifier)),
        }
    )
    console.print(text, markup=False)
    console.print(f"stored in {where}", markup=False)


def _outlines(classifier: Classifier, config: ExplainReportConfig) -> dict[str, Any] | None:
    """The figures on outlined lesions, first: bad masks should not wait for the other tests."""
    if config.masks is None:
        return None
    if config.lesion not in classifier.task.classes:
        choices = ", ".join(classifier.task.classes)
        raise UserError(f"lesion={config.lesion}: must be one of {choices}")
    return examine_outlines(
        classifier,
        Path(config.masks),
        config.lesion,
        config.method,
        flip=config.flip,
        seed=config.seed,
    )


def choose_scans(
    source: ModelSource, classifier: Classifier, data: str | None, count: int
) -> Scans:
    """About `count` scans that the model was not trained on, as many of each class.

    Of a run's own scans those of its test split, and where they are fewer than `count` those of its
    calibration split too: the rule was fitted to them, but no weight, and heatmaps are of weights.

    Args:
      source: where the model is.
      classifier: the model.
      data: a folder of labelled scans; None for the run's own.
      count: of scans.

    Raises:
      UserError: the data is gone, has no test scans, or the model was trained on it.
    """
    scans = select_scans_for(source, classifier, data=data).scans
    if source.run is not None and data is None and len(scans) < count:
        own = open_run_scans(source.run)
        untrained = [record.split in ("test", "calibration") for record in own.records]
        scans = own.take(np.flatnonzero(untrained).tolist())
    overlap = find_overlap(classifier.provenance, scans.records)
    refuse_overlap(overlap, len(scans), allowed=False)
    return scans.take(_spread(scans, count).tolist())


def _spread(source: Scans, count: int) -> np.ndarray:
    each = -(-count // len(source.task.classes))
    chosen = []
    for label in range(len(source.task.classes)):
        indices = np.flatnonzero(source.labels == label)
        if len(indices):
            places = np.linspace(0, len(indices) - 1, min(each, len(indices)))
            chosen.append(indices[places.astype(int)])
    return np.concatenate(chosen)
