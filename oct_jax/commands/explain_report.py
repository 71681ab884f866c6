"""The faithfulness report: whether a run's explanations may be believed, as numbers.

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
from oct_jax.runs.load import load
from oct_jax.runs.ownership import check_claimable, claim_folder
from oct_jax.runs.paths import find_run
from oct_jax.runs.scans import open_run_scans
from oct_jax.runs.verified import report_path
from oct_jax.types import UserError


def report(config: ExplainReportConfig, console: Console) -> None:
    """Tests a run's explanations and stores the outcome with the run.

    Raises:
      UserError: no trained run, or its data is gone or has no test scans.
    """
    folder = find_run(config.run)
    classifier = load(folder)
    check_claimable(report_path(folder).parent)
    scans = choose_scans(folder, config.scans)
    console.print(f"{len(scans)} test scans of {folder}", markup=False)
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


def choose_scans(folder: Path, count: int) -> Scans:
    """About `count` test scans of a run's data, as many of each class.

    Raises:
      UserError: the data is gone, or has no test scans.
    """
    scans = open_run_scans(folder).select("test")
    if not len(scans):
        raise UserError(f"{folder}: its data has no test scans to explain")
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
