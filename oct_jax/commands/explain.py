"""`explain`: scans in, a page and a JSON file for each of them out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from oct_jax.arrays import ScanArray
from oct_jax.classifier import Classifier
from oct_jax.commands.scan_files import SUFFIX, Jobs, ScanJob
from oct_jax.commands.settings import ExplainConfig
from oct_jax.data.preprocess import resize_scan, to_input_coordinates
from oct_jax.data.readers import UnreadableScan, map_threads, read_scan
from oct_jax.explanation import Explanation
from oct_jax.files import write_atomic, write_json
from oct_jax.model.inference import batch_slices
from oct_jax.prediction import SYNTHETIC_MODEL
from oct_jax.reports.doubts import doubts_of
from oct_jax.reports.overlay import RESEARCH_USE, advice, certainty, encode_png, overlay, page
from oct_jax.reports.picture import contact_sheet
from oct_jax.runs.source import ModelSource
from oct_jax.types import UserError

TRAINED_ON = "contaminated: the model was trained on this very scan; its certainty proves nothing"

_SHEET_LIMIT = 60


@dataclass(frozen=True)
class Trained:
    """A trained model as `explain` uses it.

    Attributes:
      source: where it is.
      classifier: the model.
      marks: cautions for every scan.
      hashes: SHA-256 of the files that the model was trained on.
    """

    source: ModelSource
    classifier: Classifier
    marks: tuple[str, ...]
    hashes: frozenset[str]


def explain(jobs: Jobs, source: ModelSource, config: ExplainConfig, console: Console) -> None:
    """Writes a page and a JSON file for every scan and every eye; see `ExplainConfig`.

    Args:
      jobs: the scans and volumes, as `find_jobs` gives them for `config.out`.
      source: the model.
      config: the settings.
      console: gets two lines for each scan.

    Raises:
      UserError: the model is damaged; or, after all others are done, the scans that failed.
    """
    out = None if config.out is None else Path(config.out)
    for line in jobs.lines():
        console.print(line, markup=False)
    if source.note:
        console.print(source.note, markup=False)
    scans, folders = jobs.scans, jobs.folders
    trained = _open_model(source, config)
    failed: list[str] = []
    if jobs.volumes:
        from oct_jax.commands.explain_eye import explain_eyes  # which needs this module

        failed += explain_eyes(jobs, trained, config, console)
    tiles: dict[Path, tuple[np.ndarray, str]] = {}
    with Progress(console=console, transient=True, disable=len(scans) < 2) as progress:
        bar = progress.add_task("explaining", total=len(scans))
        for rows in batch_slices(len(scans)):
            chunk = scans[rows]
            tiles |= _explain_chunk(chunk, trained, config, console, failed)
            progress.advance(bar, len(chunk))
    for folder in folders:
        _write_sheet(folder, out or folder, tiles, trained, console)
    total = len(scans) + len(jobs.volumes)
    if failed and total == 1:
        raise UserError(failed[0])
    if failed:
        kinds = "scans and volumes" if jobs.volumes else "scans"
        raise UserError(f"{len(failed)} of {total} {kinds} failed: {'; '.join(failed)}")


def _open_model(source: ModelSource, config: ExplainConfig) -> Trained:
    classifier = source.load()
    marks = []
    if classifier.synthetic:
        marks.append(SYNTHETIC_MODEL)
    if not source.is_verified(classifier, config.method, config.flip):
        marks.append("unverified explanation: this model has no passed faithfulness report")
    return Trained(source, classifier, tuple(marks), classifier.provenance.trained.scans)


def _explain_chunk(
    jobs: Sequence[ScanJob],
    trained: Trained,
    config: ExplainConfig,
    console: Console,
    failed: list[str],
) -> dict[Path, tuple[np.ndarray, str]]:
    """Explains up to 32 scans; returns a small picture and a caption of each that worked."""
    read = list(zip(jobs, map_threads(_read, jobs), strict=True))
    failed += [str(scan) for _, scan in read if isinstance(scan, UnreadableScan)]
    good = [(job, scan) for job, scan in read if not isinstance(scan, UnreadableScan)]
    if not good:
        return {}
    classifier, scans = trained.classifier, [scan for _, scan in good]
    explanations = classifier.explain(scans, config.target, config.method, config.flip)
    inputs = [resize_scan(scan, classifier.preprocess) for scan in scans]
    doubts = doubts_of(classifier, explanations, inputs, flip=config.flip)
    tiles = {}
    for (job, scan), explanation, doubt, small in zip(
        good, explanations, doubts, inputs, strict=True
    ):
        trained_on = hashlib.sha256(job.scan.read_bytes()).hexdigest() in trained.hashes
        marks = [*trained.marks, *([TRAINED_ON] if trained_on else []), *doubt]
        try:
            written = _write(job, scan, explanation, marks, trained)
        except OSError as error:
            failed.append(f"cannot write {job.output.parent}: {error.strerror}; give out=FOLDER")
            continue
        _report(console, job.scan, explanation, written, [f"by {trained.source.name}", *marks])
        over_input = to_input_coordinates(
            explanation.cells, explanation.grid, classifier.preprocess.size
        )
        tiles[job.scan] = (overlay(small, over_input), _caption(job.scan, explanation))
    return tiles


def _read(job: ScanJob) -> ScanArray | UnreadableScan:
    try:
        return read_scan(job.scan)
    except UnreadableScan as error:
        return error


def _write(
    job: ScanJob, scan: ScanArray, explanation: Explanation, marks: Sequence[str], trained: Trained
) -> Path:
    job.output.parent.mkdir(parents=True, exist_ok=True)
    picture = Path(f"{job.output}{SUFFIX}.png")
    write_atomic(picture, encode_png(page(scan, explanation, marks)))
    write_json(Path(f"{job.output}{SUFFIX}.json"), _as_json(job, explanation, marks, trained))
    return picture


def _as_json(
    job: ScanJob, explanation: Explanation, marks: Sequence[str], trained: Trained
) -> dict[str, Any]:
    prediction = explanation.prediction
    peak = (
        np.unravel_index(explanation.heatmap.argmax(), explanation.scan_shape)
        if explanation.cells.any()
        else None
    )
    return {
        "scan": str(job.scan),
        "height_width": list(explanation.scan_shape),
        "label": prediction.label,
        "referral": advice(prediction),
        "probabilities": dict(
            zip(prediction.task.classes, prediction.probabilities.tolist(), strict=True)
        ),
        "logits": dict(zip(prediction.task.classes, prediction.logits.tolist(), strict=True)),
        "calibrated": prediction.decision is not None and not prediction.decision.adapted,
        "decision": None
        if prediction.decision is None
        else {
            "referral": prediction.decision.referral,
            "prediction_set": list(prediction.decision.classes),
            "outlier_score": prediction.decision.outlier_score,
            "no_retina": prediction.decision.no_retina,
        },
        "target": explanation.target,
        "method": explanation.method,
        "map": {
            "cells": [[round(value, 6) for value in row] for row in explanation.cells.tolist()],
            "grid": dataclasses.asdict(explanation.grid),
            "mean": float(explanation.cells.mean()),
            "peak_row_column": None if peak is None else [int(place) for place in peak],
        },
        "model": trained.source.name,
        "run": None if trained.source.run is None else str(trained.source.run),
        "stage": trained.classifier.stage,
        "synthetic": trained.classifier.synthetic,
        "marks": list(marks),
        "notice": RESEARCH_USE,
    }


def _report(
    console: Console, scan: Path, explanation: Explanation, picture: Path, marks: Sequence[str]
) -> None:
    prediction = explanation.prediction
    console.print(
        f"{scan}: {prediction.label} {prediction.probabilities.max():.1%},"
        f" {advice(prediction)} ({certainty(prediction)})",
        markup=False,
    )
    notes = "; ".join([*marks, RESEARCH_USE])
    console.print(
        f"  {picture}: {explanation.method} of {explanation.target}; {notes}", markup=False
    )


def _caption(scan: Path, explanation: Explanation) -> str:
    # The font has letters for text alone, and a file's name may be any bytes.
    name = scan.name.encode("utf-8", "replace").decode()
    return f"{explanation.prediction.label} {explanation.prediction.probabilities.max():.0%} {name}"


def _write_sheet(
    folder: Path,
    where: Path,
    tiles: dict[Path, tuple[np.ndarray, str]],
    trained: Trained,
    console: Console,
) -> None:
    mine = [tile for scan, tile in tiles.items() if scan.is_relative_to(folder)]
    if not mine:
        return
    shown = mine[:_SHEET_LIMIT]
    sheet = contact_sheet(
        [picture for picture, _ in shown],
        [caption for _, caption in shown],
        synthetic=trained.classifier.synthetic,
    )
    path = where / f"contact-sheet{SUFFIX}.png"
    write_atomic(path, encode_png(sheet))
    rest = f" (the first {len(shown)} of {len(mine)})" if len(mine) > len(shown) else ""
    console.print(f"{path}: all on one page{rest}", markup=False)
