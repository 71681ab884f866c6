"""A decision rule on disk.

<folder>/decision/
  rule.json                    temperature, thresholds, what they were fitted on
  scans-<hash>.csv             the calibration scans, with their hashes
  outliers-<hash>.safetensors  the outlier model of the features

Both files are named by a hash of their content, which is compared when they are read.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from safetensors.numpy import save

from oct_jax.data.manifest import manifest_csv, manifest_digest, read_manifest
from oct_jax.decision.outliers import OutlierModel
from oct_jax.decision.rule import DecisionRule
from oct_jax.decision.stored import (
    OUTLIER_TENSORS,
    StoredRule,
    finite,
    outliers_from,
    rule_from,
    rule_values,
)
from oct_jax.files import Positive, json_text, read_json, read_tensors, write_together
from oct_jax.task import stored_task, to_json
from oct_jax.types import UserError

_OF_A_RULE = re.compile(r"scans(-[0-9a-f]{12})?\.csv|outliers-[0-9a-f]{12}\.safetensors")


class _StoredOutliers(Struct, forbid_unknown_fields=True):
    file: Annotated[str, Meta(pattern=r"^outliers-[0-9a-f]{12}\.safetensors$")]
    rest_precision: Positive
    threshold: Positive
    no_retina: Positive | None = None


class _StoredRule(StoredRule, kw_only=True, forbid_unknown_fields=True):
    task: dict[str, Any]
    outliers: _StoredOutliers | None
    # Rules that version 0.1 stored have a list without a hash.
    scans: Annotated[str, Meta(pattern=r"^scans(-[0-9a-f]{12})?\.csv$")] = "scans.csv"


def write_rule(stage: Path, rule: DecisionRule) -> None:
    """Stores a rule with the stage that it was fitted for; replaces an earlier one.

    `rule.json` gets its place last and names the other files by a hash: a kill in between leaves
    the earlier rule whole.
    """
    folder = stage / "decision"
    folder.mkdir(exist_ok=True)
    outliers = None
    files: dict[Path, str | bytes] = {}
    if rule.outliers is not None:
        tensors = save(
            {name: np.ascontiguousarray(getattr(rule.outliers, name)) for name in OUTLIER_TENSORS}
        )
        file = f"outliers-{hashlib.sha256(tensors).hexdigest()[:12]}.safetensors"
        files[folder / file] = tensors
        model = rule.outliers
        outliers = _StoredOutliers(
            file, model.rest_precision, model.threshold, finite(model.no_retina)
        )
    scans = f"scans-{manifest_digest(rule.records)[:12]}.csv"
    files[folder / scans] = manifest_csv(rule.records)
    stored = _StoredRule(
        **rule_values(rule), task=to_json(rule.task), outliers=outliers, scans=scans
    )
    files[folder / "rule.json"] = json_text(msgspec.to_builtins(stored))
    write_together(files)
    in_use = {scans, outliers.file if outliers else ""}
    for path in list(folder.iterdir()):
        if _OF_A_RULE.fullmatch(path.name) and path.name not in in_use:
            path.unlink()


def read_rule(stage: Path) -> DecisionRule | None:
    """Reads a stage's rule; None where it has none.

    Raises:
      UserError: the files are not a rule, are damaged, or are not of one rule.
    """
    folder = stage / "decision"
    path = folder / "rule.json"
    if not path.is_file():
        return None
    remedy = f"delete {folder} and repeat the training command, which only fits it anew"
    stored: _StoredRule = read_json(path, _StoredRule, remedy=remedy)
    task = stored_task(stored.task, path, remedy)
    records = read_manifest(folder / stored.scans)
    digest = stored.scans.removesuffix(".csv").removeprefix("scans").removeprefix("-")
    if not manifest_digest(records).startswith(digest):
        raise UserError(f"{folder / stored.scans}: changed since it was written; {remedy}")
    outliers = _read_outliers(folder, stored.outliers, remedy)
    return rule_from(stored, task, outliers, records, where=str(path), remedy=remedy)


def _read_outliers(
    folder: Path, stored: _StoredOutliers | None, remedy: str
) -> OutlierModel | None:
    if stored is None:
        return None
    path = folder / stored.file
    digest = stored.file.removeprefix("outliers-").removesuffix(".safetensors")
    tensors = read_tensors(path, OUTLIER_TENSORS, sha256=digest, remedy=remedy)
    return outliers_from(
        tensors,
        rest_precision=stored.rest_precision,
        threshold=stored.threshold,
        no_retina=stored.no_retina,
        where=str(path),
        remedy=remedy,
    )
