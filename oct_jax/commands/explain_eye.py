"""`explain` for volumes: a page and a JSON file for each eye, and one page for many."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from oct_jax.commands.explain import Trained
from oct_jax.commands.scan_files import SUFFIX, Jobs, VolumeJob
from oct_jax.commands.settings import ExplainConfig
from oct_jax.data.preprocess import resize_scan
from oct_jax.data.readers import UnreadableScan
from oct_jax.data.volumes import Volume, open_volumes
from oct_jax.eye import EyeExplanation, explain_eye
from oct_jax.files import write_atomic, write_json
from oct_jax.reports.doubts import doubts_of
from oct_jax.reports.eye_page import NOT_CALIBRATED, advice, eye_page, eyes_page
from oct_jax.reports.overlay import RESEARCH_USE
from oct_jax.types import UserError

_ORDER = {"urgent": 0, "defer": 1, "routine": 2, "observe": 3, None: 4}
_COLUMNS = (
    "eye", "laterality", "label", "probability", "referral", "reason", "calibrated", "page",
)  # fmt: skip


@dataclass(frozen=True)
class _Explained:
    """An eye and the page that was written of it."""

    volume: Volume
    explanation: EyeExplanation
    page: Path


def explain_eyes(
    jobs: Jobs, trained: Trained, config: ExplainConfig, console: Console
) -> list[str]:
    """Writes a page and a JSON file for every eye; of several, a page and a CSV of all.

    Args:
      jobs: the volumes, as `find_jobs` gives them.
      trained: the run.
      config: the settings.
      console: gets two lines for each eye.

    Returns:
      The volumes that failed, a line each.

    Raises:
      UserError: a folder cannot be written to; raised before anything is computed.
    """
    for folder in {job.folder for job in jobs.volumes}:
        _check_writable(folder)
    failed: list[str] = []
    done: list[_Explained] = []
    taken: set[Path] = set()
    with Progress(console=console, transient=True) as progress:
        for job in jobs.volumes:
            for volume in _opened(job, failed):
                try:
                    page = _page_of(volume, job.folder, taken)
                    done.append(_explain(volume, page, trained, config, progress))
                except (UserError, OSError) as error:
                    failed.append(_message(error, job))
                    continue
                _report(console, done[-1], trained)
    if len(done) > 1:
        _write_overview(done, failed, _common_folder(jobs, config), trained, console)
    return failed


def _opened(job: VolumeJob, failed: list[str]) -> Sequence[Volume]:
    try:
        return open_volumes(job.path)
    except UnreadableScan as error:
        failed.append(str(error))
        return ()


def _message(error: Exception, job: VolumeJob) -> str:
    if isinstance(error, OSError):
        return f"cannot write {job.folder}: {error.strerror}; give out=FOLDER"
    return str(error)


def _check_writable(folder: Path) -> None:
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(place, os.W_OK):
        raise UserError(f"cannot write to {folder}; give out=FOLDER")


def _page_of(volume: Volume, folder: Path, taken: set[Path]) -> Path:
    """A page's path, without its ending; volumes of one name are numbered."""
    page, number = folder / volume.name, 2
    while page in taken:
        page, number = folder / f"{volume.name}-{number}", number + 1
    taken.add(page)
    return page


def _explain(
    volume: Volume,
    page: Path,
    trained: Trained,
    config: ExplainConfig,
    progress: Progress,
) -> _Explained:
    bar = progress.add_task(volume.name, total=2 * len(volume))
    explanation = explain_eye(
        trained.classifier,
        volume,
        target=config.target,
        method=config.method,
        flip=config.flip,
        progress=lambda done, _: progress.update(bar, completed=done),
    )
    doubts = _doubts(volume, explanation, trained, config)
    facts = [
        ("model", f"{Path(trained.source.name).name}, {trained.classifier.stage}"),
        ("heatmaps", config.method),
    ]
    marks = [*trained.marks, *volume.missing]
    page.parent.mkdir(parents=True, exist_ok=True)
    text = eye_page(volume, explanation, marks, doubts, facts)
    write_atomic(Path(f"{page}{SUFFIX}.html"), text)
    write_json(Path(f"{page}{SUFFIX}.json"), _as_json(volume, explanation, marks, doubts, trained))
    progress.remove_task(bar)
    return _Explained(volume, explanation, Path(f"{page}{SUFFIX}.html"))


def _doubts(
    volume: Volume, explanation: EyeExplanation, trained: Trained, config: ExplainConfig
) -> dict[int, list[str]]:
    """Cautions for the telling B-scans, by their index in the volume."""
    classifier = trained.classifier
    inputs = [
        resize_scan(volume.read(index), classifier.preprocess, volume.spacing)
        for index, _ in explanation.telling
    ]
    maps = [bscan for _, bscan in explanation.telling]
    lines = doubts_of(classifier, maps, inputs, flip=config.flip)
    return {index: line for (index, _), line in zip(explanation.telling, lines, strict=True)}


def _as_json(
    volume: Volume,
    explanation: EyeExplanation,
    marks: Sequence[str],
    doubts: dict[int, list[str]],
    trained: Trained,
) -> dict[str, Any]:
    eye, task = explanation.prediction, trained.classifier.task
    telling = dict(explanation.telling)
    return {
        "eye": {
            "label": eye.label,
            "referral": eye.referral,
            "advice": advice(eye),
            "reason": eye.reason,
            "probabilities": _named(eye.probabilities, task.classes),
            "calibrated": eye.calibrated,
            "certainty": "calibrated on labelled eyes" if eye.calibrated else NOT_CALIBRATED,
            "taken_from": eye.field.words,
            "laterality": volume.laterality,
            "patient": volume.patient,
            "id": volume.eye,
        },
        "volume": {
            "name": volume.name,
            "format": volume.format,
            "device": volume.device,
            "grey_levels": volume.transform,
            "pattern": volume.pattern,
            "micrometres_axial_lateral": volume.spacing,
            "bscans": len(volume),
            "missing": [*volume.missing, *eye.unreadable],
        },
        "scans": [
            {
                "number": volume.numbers[index],
                "label": scan.label,
                "probabilities": _named(scan.probabilities, task.classes),
                "central": bool(eye.field.central[index]),
                "micrometres_from_centre": _rounded(volume.distances, index),
                "evidence": round(float(values.max()), 4),
                "telling": index in telling,
                "doubts": doubts.get(index, []),
            }
            for index, scan, values in zip(
                eye.indices, eye.scans, explanation.evidence, strict=True
            )
        ],
        "target": explanation.target,
        "model": trained.source.name,
        "run": None if trained.source.run is None else str(trained.source.run),
        "stage": trained.classifier.stage,
        "synthetic": trained.classifier.synthetic,
        "marks": list(marks),
        "notice": RESEARCH_USE,
    }


def _named(values: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _rounded(distances: Sequence[float], index: int) -> float | None:
    return round(distances[index], 1) if distances else None


def _report(console: Console, done: _Explained, trained: Trained) -> None:
    eye, volume = done.explanation.prediction, done.volume
    certainty = "calibrated by eye" if eye.calibrated else "certainty not calibrated"
    console.print(
        f"{volume.name}: {eye.label} {eye.probabilities.max():.1%}, {advice(eye)} ({certainty})",
        markup=False,
    )
    notes = [eye.reason, *volume.missing, *eye.unreadable, *trained.marks, RESEARCH_USE]
    console.print(f"  {done.page}: {'; '.join(notes)}", markup=False)


def _common_folder(jobs: Jobs, config: ExplainConfig) -> Path:
    if config.out is not None:
        return Path(config.out)
    return Path(os.path.commonpath([job.path.absolute().parent for job in jobs.volumes]))


def _write_overview(
    done: Sequence[_Explained],
    failed: Sequence[str],
    folder: Path,
    trained: Trained,
    console: Console,
) -> None:
    """One page and one CSV of all eyes: the most urgent first, then the most certain."""
    ordered = sorted(done, key=_urgency)
    rows = [_row(eye, folder) for eye in ordered]
    _write_csv(folder / f"eyes{SUFFIX}.csv", rows)
    page = folder / f"eyes{SUFFIX}.html"
    write_atomic(page, eyes_page(rows, [*trained.marks, *failed]))
    console.print(f"{page}: {len(rows)} eyes by urgency, and the same as CSV", markup=False)


def _urgency(explained: _Explained) -> tuple[int, float, str]:
    eye = explained.explanation.prediction
    urgent = float(eye.probabilities[np.array(eye.task.urgent)].sum())
    return _ORDER[eye.referral], -urgent, explained.volume.name


def _row(explained: _Explained, folder: Path) -> dict[str, Any]:
    eye = explained.explanation.prediction
    link = Path(os.path.relpath(explained.page.absolute(), folder.absolute())).as_posix()
    return {
        "eye": explained.volume.name,
        "name": explained.volume.name,
        "laterality": explained.volume.laterality,
        "label": eye.label,
        "probability": float(eye.probabilities.max()),
        "referral": eye.referral,
        "advice": advice(eye),
        "reason": eye.reason,
        "calibrated": eye.calibrated,
        "page": link,
        "link": link,
    }


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "probability": f"{row['probability']:.6f}"} for row in rows)
    write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))
