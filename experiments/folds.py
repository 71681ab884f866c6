"""What experiments on folds share: train the stages on a manifest, keep what they say of its test.

A fold that ended is one file; an experiment that finds it does not train again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from oct_jax import load
from oct_jax.commands.evaluate import outputs_of
from oct_jax.commands.settings import EvaluateConfig
from oct_jax.commands.train import train_stage
from oct_jax.decision.rule import decide
from oct_jax.files import read_json, write_json
from oct_jax.runs.folder import read_settings
from oct_jax.runs.paths import STAGES
from oct_jax.runs.scans import open_labelled
from oct_jax.task import KERMANY
from oct_jax.types import UserError


def stage_words(given: Mapping[str, str]) -> dict[str, list[str]]:
    """The settings `frozen.x=y` and `finetune.x=y` as words `x=y` of each stage."""
    return {
        stage: [
            f"{name.removeprefix(f'{stage}.')}={value}"
            for name, value in given.items()
            if name.startswith(f"{stage}.")
        ]
        for stage in STAGES
    }


def same_words(path: Path, words: dict[str, str]) -> None:
    """Refuses to mix folds that were trained with other settings."""
    if path.exists() and read_json(path) != words:
        raise UserError(f"{path.parent}: was begun with other settings; say another out=")
    write_json(path, words)


def train_frozen(
    run: Path,
    manifest: Path,
    *,
    root: Path,
    weights: str,
    seed: int,
    words: Sequence[str],
    console: Console,
) -> None:
    """The frozen stage of a run on a manifest's scans."""
    first = [f"data={root}", f"weights={weights}", f"manifest={manifest}", f"seed={seed}"]
    train_stage(read_settings(["stage=frozen", f"run={run}", *first, *words]), console)


def train_finetune(run: Path, words: Sequence[str], console: Console) -> None:
    """The finetune stage of a run that has a frozen one."""
    train_stage(read_settings(["stage=finetune", f"run={run}", *words]), console)


def share_frozen(run: Path, copy: Path) -> None:
    """Copies a run with its frozen stage alone, for another finetune stage."""
    if copy.exists():
        return
    beside = copy.with_name(f"{copy.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(run, beside, ignore=shutil.ignore_patterns("finetune", "features-*.npy"))
    beside.rename(copy)


def test_run(run: Path, path: Path) -> None:
    """Stores what a run's latest stage says of its test scans, with its calibration."""
    classifier = load(run)
    labelled = open_labelled(run, EvaluateConfig(run=str(run)))
    outputs = outputs_of(classifier, labelled, threads=2)
    if classifier.rule is None:
        raise UserError(f"{run}: has no calibration scans")
    said = decide(classifier.rule, outputs)
    beside = path.with_suffix(".part.npz")
    np.savez(
        beside,
        paths=[record.path for record in labelled.source.records],
        patients=[record.patient for record in labelled.source.records],
        truth=labelled.truth,
        logits=outputs.logits,
        probabilities=said.probabilities,
        sets=said.sets,
        referrals=said.referrals,
        outlier_scores=said.outlier_scores,
        urgent_threshold=classifier.rule.urgent_threshold,
        coverage=classifier.rule.coverage,
        sensitivity=classifier.rule.sensitivity,
        calibration_scans=[
            classifier.rule.fitted_on["scans"].get(name, 0) for name in KERMANY.classes
        ],
    )
    beside.rename(path)
