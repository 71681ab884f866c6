"""Figures over the test scans of several folds together, which come from as many models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from oct_jax.decision.calibration import (
    brier_score,
    calibration_error,
    expected_calibration_error,
    softmax,
)
from oct_jax.decision.referral import urgency
from oct_jax.metrics.classification import bootstrap, confusion, figures, share_among
from oct_jax.metrics.shares import scans_behind, widen_certain
from oct_jax.task import Task

_OF_SCANS = ("truth", "logits", "probabilities", "sets", "referrals", "outlier_scores")


def fold_accuracy(row: dict[str, Any]) -> float:
    """Share of a fold's test scans that are right."""
    return float((row["probabilities"].argmax(1) == row["truth"]).mean())


def summarize_folds(rows: Sequence[dict[str, Any]], task: Task, resamples: int) -> dict[str, Any]:
    """Figures over all folds, with 95 % intervals from drawing patients.

    Args:
      rows: of each fold what `oct_jax.runs.folds.store_test` stores, and `seed` and `fold`.
      task: that the classes are of.
      resamples: draws of patients.

    Returns:
      JSON values.
    """
    joined = {name: np.concatenate([row[name] for row in rows]) for name in _OF_SCANS}
    patients = np.concatenate([row["patients"] for row in rows])
    owners = np.unique(patients, return_inverse=True)[1]
    truth, probabilities = joined["truth"], joined["probabilities"]
    alarm = np.concatenate(
        [urgency(row["probabilities"], task) >= row["urgent_threshold"] for row in rows]
    )
    covered = joined["sets"][np.arange(len(truth)), truth]
    deferred = joined["referrals"] == "defer"
    missed = ~deferred & (joined["referrals"] != "urgent")
    urgent = np.array(task.urgent)[truth]

    def of(drawn: Int[np.ndarray, "drawn"]) -> dict[str, float | None]:
        part, labels = probabilities[drawn], truth[drawn]
        measures = figures(part, labels, task.classes)
        measures["ECE, uncalibrated"] = expected_calibration_error(
            softmax(joined["logits"][drawn]), labels
        )
        measures["ECE, calibrated"] = expected_calibration_error(part, labels)
        measures["calibration error"] = calibration_error(part, labels, owners[drawn])
        measures["Brier, calibrated"] = brier_score(part, labels)
        measures["coverage of prediction sets"] = float(covered[drawn].mean())
        for number, name in enumerate(task.classes):
            measures[f"{name} coverage"] = share_among(covered[drawn], labels == number)
        measures["called outliers"] = float((joined["outlier_scores"][drawn] > 1).mean())
        if task.refers:
            is_urgent = urgent[drawn]
            measures |= {
                "urgent sensitivity": share_among(alarm[drawn], is_urgent),
                "urgent specificity": share_among(~alarm[drawn], ~is_urgent),
                "urgent missed (answered, not urgent)": share_among(missed[drawn], is_urgent),
                "deferred": float(deferred[drawn].mean()),
            }
        return measures

    values = of(np.arange(len(truth)))
    everything = np.ones(len(truth), bool)
    behind = scans_behind(probabilities.argmax(1), truth, task.classes) | {
        "coverage of prediction sets": everything,
        "called outliers": everything,
        "deferred": everything,
        "urgent sensitivity": urgent,
        "urgent specificity": ~urgent,
        "urgent missed (answered, not urgent)": urgent,
    }
    behind |= {f"{name} coverage": truth == number for number, name in enumerate(task.classes)}
    intervals = widen_certain(
        values, bootstrap(patients.tolist(), of, resamples=resamples, seed=0), behind, patients
    )
    return {
        "scans": len(truth),
        "patients": len(set(patients.tolist())),
        "folds": [
            {"seed": row["seed"], "fold": row["fold"], "accuracy": fold_accuracy(row)}
            for row in rows
        ],
        "asked": {
            "coverage": float(rows[0]["coverage"]),
            "sensitivity": float(rows[0]["sensitivity"]),
        },
        "calibration_scans": [row["calibration_scans"].tolist() for row in rows],
        "confusion": confusion(probabilities, truth, len(task.classes)).tolist(),
        "figures": {
            name: {"value": value, "interval": intervals[name]} for name, value in values.items()
        },
    }


def to_markdown(summary: dict[str, Any], task: Task) -> list[str]:
    """The figures as a table."""
    accuracies = [fold["accuracy"] for fold in summary["folds"]]
    lines = [
        f"{summary['scans']} predictions for scans of {summary['patients']} patients in"
        f" {len(accuracies)} folds; accuracy of folds {np.mean(accuracies):.4f} +-"
        f" {np.std(accuracies):.4f} ({min(accuracies):.4f} to {max(accuracies):.4f})",
        "",
        f"coverage asked {summary['asked']['coverage']:g},"
        f" urgent sensitivity asked {summary['asked']['sensitivity']:g}",
        "",
        "| figure | value | 95 % interval over patients |",
        "|---|---|---|",
    ]
    for name, figure in summary["figures"].items():
        ends = figure["interval"]
        interval = "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
        value = "-" if figure["value"] is None else f"{figure['value']:.4f}"
        lines.append(f"| {name} | {value} | {interval} |")
    columns = len(task.classes) + 1
    lines += [
        "",
        "| label \\ prediction | " + " | ".join(task.classes) + " |",
        "|---" * columns + "|",
    ]
    for name, row in zip(task.classes, summary["confusion"], strict=True):
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    return lines
