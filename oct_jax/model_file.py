"""A trained model in one file: safetensors, with everything else as JSON in its header.

No pickle, nothing that is executed. Tensors are the folded variables and the outlier model; the
JSON holds the model's config, preprocessing, task, decision rule, heatmap grid, where the model
comes from, and a SHA-256 of the tensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from oct_jax.data.preprocess import HeatmapGrid, Preprocess
from oct_jax.decision.outliers import OutlierModel
from oct_jax.decision.rule import DecisionRule
from oct_jax.files import Positive, Share, convert, parse_json, write_atomic
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Variables, build, path_name
from oct_jax.task import Task, stored_task, to_json
from oct_jax.types import UserError

SUFFIX = ".safetensors"
FORMAT = 1
_KEY = "oct_jax"
_REMEDY = "get the file again"
_OUTLIERS = ("mean", "directions", "precisions")


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds; the fields are those of `oct_jax.classifier.Classifier`.

    Attributes:
      config: of the folded model.
      variables: float32, NumPy arrays.
      preprocess: from a scan to the model's input.
      task: the classes.
      rule: the decision rule, without its list of calibration scans; None where there is none.
      grid: where the feature map looks.
      stage: the stage that the variables come from.
      synthetic: whether the model was trained on phantoms.
    """

    config: MobileNetV3Config
    variables: Variables
    preprocess: Preprocess
    task: Task
    rule: DecisionRule | None
    grid: HeatmapGrid
    stage: str
    synthetic: bool


class _StoredRule(Struct, forbid_unknown_fields=True):
    temperature: Positive
    set_thresholds: list[Share]
    urgent_threshold: Share
    coverage: Share
    sensitivity: Share
    outlier_rate: Share
    model: str
    fitted_on: dict[str, Any]
    rest_precision: Positive | None
    outlier_threshold: Positive | None


class _Header(Struct, forbid_unknown_fields=True):
    format: int
    sha256: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    task: dict[str, Any]
    rule: _StoredRule | None
    grid: dict[str, Any]
    stage: Literal["frozen", "finetune"]
    synthetic: bool


def write_model(path: Path, content: ModelFile, *, half: bool = False) -> None:
    """Writes a model file, whole or not at all.

    Args:
      path: ends in `.safetensors`.
      content: of the file.
      half: store variables as float16: half the size, rounded to 11 bits.

    Raises:
      UserError: another ending.
    """
    if path.suffix != SUFFIX:
        raise UserError(f"{path}: the name of a model file ends in {SUFFIX}")
    dtype = np.float16 if half else np.float32
    tensors = {
        name: np.ascontiguousarray(leaf, dtype) for name, leaf in _named(content.variables).items()
    }
    rule, outliers = content.rule, content.rule.outliers if content.rule else None
    if outliers is not None:
        tensors |= {
            f"outliers/{name}": np.ascontiguousarray(getattr(outliers, name)) for name in _OUTLIERS
        }
    header = {
        "format": FORMAT,
        "sha256": _digest(tensors),
        "config": dataclasses.asdict(content.config),
        "preprocess": dataclasses.asdict(content.preprocess),
        "task": to_json(content.task),
        "rule": None if rule is None else _rule_as_json(rule),
        "grid": dataclasses.asdict(content.grid),
        "stage": content.stage,
        "synthetic": content.synthetic,
    }
    write_atomic(path, save(tensors, {_KEY: json.dumps(header, allow_nan=False)}))


def read_model(path: Path) -> ModelFile:
    """Reads a model file.

    Raises:
      UserError: the file cannot be read, is no model file, is damaged, or is of a newer version;
        one line.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged, or not a model file ({reason}); {_REMEDY}") from error
    if _KEY not in metadata:
        raise UserError(f"{path}: weights without a description; not saved by oct_jax")
    version = parse_json(metadata[_KEY], dict[str, Any], str(path), remedy=_REMEDY).get("format")
    if version != FORMAT:
        raise UserError(
            f"{path}: of format {version!r}, this version of oct_jax reads {FORMAT}: update it"
        )
    header: _Header = parse_json(metadata[_KEY], _Header, str(path), remedy=_REMEDY)
    if _digest(tensors) != header.sha256:
        raise UserError(f"{path}: its tensors have changed: SHA-256 differs; {_REMEDY}")
    config = convert(header.config, MobileNetV3Config, f"{path}: config", remedy=_REMEDY)
    task = stored_task(header.task, path, _REMEDY)
    return ModelFile(
        config=config,
        variables=_variables(path, config, tensors),
        preprocess=convert(header.preprocess, Preprocess, f"{path}: preprocess", remedy=_REMEDY),
        task=task,
        rule=None if header.rule is None else _rule(path, header.rule, tensors, task),
        grid=convert(header.grid, HeatmapGrid, f"{path}: grid", remedy=_REMEDY),
        stage=header.stage,
        synthetic=header.synthetic,
    )


def _named(variables: Variables) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables._asdict())
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def _variables(
    path: Path, config: MobileNetV3Config, tensors: Mapping[str, np.ndarray]
) -> Variables:
    """The variables of a config among the tensors; UserError where one is missing or not so."""

    def leaf(place: tuple, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path_name(place)
        if name not in tensors or tensors[name].shape != shape.shape:
            raise UserError(f"{path}: {name} is missing or of another shape; {_REMEDY}")
        values = tensors[name].astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{path}: {name} holds values that are not finite; {_REMEDY}")
        return values

    shapes = build(config).shapes._asdict()
    return Variables(**jax.tree_util.tree_map_with_path(leaf, shapes))


def _rule_as_json(rule: DecisionRule) -> dict[str, Any]:
    plain = ("temperature", "urgent_threshold", "coverage", "sensitivity", "outlier_rate", "model")
    outliers = rule.outliers
    return {
        **{name: getattr(rule, name) for name in plain},
        "set_thresholds": rule.set_thresholds.tolist(),
        "fitted_on": dict(rule.fitted_on),
        "rest_precision": None if outliers is None else outliers.rest_precision,
        "outlier_threshold": None if outliers is None else outliers.threshold,
    }


def _rule(
    path: Path, stored: _StoredRule, tensors: Mapping[str, np.ndarray], task: Task
) -> DecisionRule:
    if len(stored.set_thresholds) != len(task.classes):
        raise UserError(f"{path}: not one set threshold for each class; {_REMEDY}")
    outliers = None
    if stored.rest_precision is not None and stored.outlier_threshold is not None:
        try:
            parts = {name: tensors[f"outliers/{name}"] for name in _OUTLIERS}
        except KeyError as error:
            raise UserError(f"{path}: {error} is missing; {_REMEDY}") from error
        outliers = OutlierModel(
            **parts, rest_precision=stored.rest_precision, threshold=stored.outlier_threshold
        )
    return DecisionRule(
        temperature=stored.temperature,
        set_thresholds=np.array(stored.set_thresholds, np.float32),
        urgent_threshold=stored.urgent_threshold,
        coverage=stored.coverage,
        sensitivity=stored.sensitivity,
        outlier_rate=stored.outlier_rate,
        outliers=outliers,
        fitted_on=stored.fitted_on,
        model=stored.model,
        task=task,
    )
