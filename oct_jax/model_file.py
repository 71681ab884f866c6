"""A trained model in one file: safetensors, with everything else as JSON in its header.

No pickle, nothing that is executed. Tensors are the folded variables, the outlier model and the
digests of the scans that the model has met; the JSON holds the model's config, preprocessing, task,
decision rule, heatmap grid, provenance, and a SHA-256 of all of it. See docs/model-file.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from oct_jax.data.preprocess import HeatmapGrid, Preprocess
from oct_jax.decision.rule import DecisionRule
from oct_jax.decision.stored import (
    OUTLIER_TENSORS,
    StoredRule,
    finite,
    outliers_from,
    rule_from,
    rule_values,
)
from oct_jax.files import Positive, check_tensors, convert, parse_json, write_atomic
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import ModelConfig, Variables, build, path_name
from oct_jax.provenance import NO_PROVENANCE, Facts, FaithfulnessResult, Provenance, ScanDigests
from oct_jax.task import Task, stored_task, to_json
from oct_jax.types import UserError

SUFFIX = ".safetensors"
FORMAT = 1
_KEY = "oct_jax"
_REMEDY = "get the file again"
_MOBILENET = "mobilenetv3"
_OUTLIERS = {f"outliers/{name}": shape for name, shape in OUTLIER_TENSORS.items()}
_DIGESTS = ("trained/scans", "trained/patients", "chosen/scans", "chosen/patients")


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds; the fields are those of `oct_jax.classifier.Classifier`.

    Attributes:
      config: of the folded model, of a backbone that the package has.
      variables: float32, NumPy arrays.
      preprocess: from a scan to the model's input.
      task: the classes.
      rule: the decision rule, without its list of calibration scans; None where there is none.
      grid: where the feature map looks.
      stage: the stage that the variables come from.
      synthetic: whether the model was trained on phantoms.
      provenance: where the model comes from.
      eye_rule: the decision rule for eyes, which has no outlier model; None where there is none.
    """

    config: ModelConfig
    variables: Variables
    preprocess: Preprocess
    task: Task
    rule: DecisionRule | None
    grid: HeatmapGrid
    stage: str
    synthetic: bool
    provenance: Provenance = NO_PROVENANCE
    eye_rule: DecisionRule | None = None


class _StoredRule(StoredRule, kw_only=True, forbid_unknown_fields=True):
    rest_precision: Positive | None
    outlier_threshold: Positive | None
    no_retina_threshold: Positive | None = None


class _Header(Struct, forbid_unknown_fields=True):
    format: int
    sha256: str
    backbone: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    task: dict[str, Any]
    rule: _StoredRule | None
    grid: dict[str, Any]
    stage: Literal["frozen", "finetune"]
    synthetic: bool
    facts: dict[str, Any]
    tested: list[FaithfulnessResult]
    eye_rule: StoredRule | None = None


HALF_FROM = 20_000
"""Values of the smallest variable that is stored as float16. On the starter model the smaller ones
are 8 % of the values, and rounding them too moves a probability 16 times as far (0.01; 0.0006)."""


def write_model(path: Path, content: ModelFile, *, half: bool = False) -> None:
    """Writes a model file, whole or not at all.

    Args:
      path: ends in `.safetensors`.
      content: of the file.
      half: store variables of `HALF_FROM` values and more as float16, rounded to 11 bits.

    Raises:
      UserError: another ending, a backbone that is not the package's, facts of another form, or
        values that float16 cannot hold.
    """
    if path.suffix != SUFFIX:
        raise UserError(f"{path}: the name of a model file ends in {SUFFIX}")
    facts = dict(content.provenance.facts)
    convert(facts, Facts, "provenance.facts", remedy="see `oct_jax.provenance.Facts`")
    tensors = _stored_variables(content.variables, half=half)
    rule, outliers = content.rule, content.rule.outliers if content.rule else None
    if outliers is not None:
        tensors |= {
            name: np.ascontiguousarray(getattr(outliers, name.rpartition("/")[2]))
            for name in _OUTLIERS
        }
    for name in _DIGESTS:
        part, _, kind = name.partition("/")
        tensors[name] = _packed(getattr(getattr(content.provenance, part), kind))
    header = {
        "format": FORMAT,
        "backbone": _backbone_of(content.config),
        "config": dataclasses.asdict(content.config),
        "preprocess": dataclasses.asdict(content.preprocess),
        "task": to_json(content.task),
        "rule": None if rule is None else _rule_as_json(rule),
        "grid": dataclasses.asdict(content.grid),
        "stage": content.stage,
        "synthetic": content.synthetic,
        "facts": facts,
        "tested": [dataclasses.asdict(report) for report in content.provenance.tested],
    }
    if content.eye_rule is not None:
        header["eye_rule"] = _without_folders(rule_values(content.eye_rule))
    # As it will be read: lists, plain keys.
    header = json.loads(json.dumps(header, allow_nan=False))
    header["sha256"] = digest(header, tensors)
    write_atomic(path, save(tensors, {_KEY: json.dumps(header, allow_nan=False)}))


def read_model(path: Path) -> ModelFile:
    """Reads a model file.

    Raises:
      UserError: the file cannot be read, is no model file, is damaged, or is of a newer version;
        one line.
    """
    metadata, tensors = _read(path)
    if _KEY not in metadata:
        raise UserError(f"{path}: weights without a description; not saved by oct_jax")
    plain: dict[str, Any] = parse_json(metadata[_KEY], dict[str, Any], str(path), remedy=_REMEDY)
    if plain.get("format") != FORMAT:
        raise UserError(
            f"{path}: of format {plain.get('format')!r}, this version of oct_jax reads {FORMAT}:"
            " update it"
        )
    header: _Header = convert(plain, _Header, str(path), remedy=_REMEDY)
    if digest(plain, tensors) != header.sha256:
        raise UserError(f"{path}: its content has changed: SHA-256 differs; {_REMEDY}")
    kind = _config_class(header.backbone, path)
    config = convert(header.config, kind, f"{path}: config", remedy=_REMEDY)
    task = stored_task(header.task, path, _REMEDY)
    expected = [*_OUTLIERS, *_DIGESTS] if header.rule and header.rule.rest_precision else _DIGESTS
    variables = _variables(path, config, tensors, also=expected)
    if len(task.classes) != build(config).num_classes:
        raise UserError(f"{path}: not one output for each class of its task; {_REMEDY}")
    return ModelFile(
        config=config,
        variables=variables,
        preprocess=convert(header.preprocess, Preprocess, f"{path}: preprocess", remedy=_REMEDY),
        task=task,
        rule=None if header.rule is None else _rule(path, header.rule, tensors, task),
        grid=convert(header.grid, HeatmapGrid, f"{path}: grid", remedy=_REMEDY),
        stage=header.stage,
        synthetic=header.synthetic,
        provenance=_provenance(path, header, tensors),
        eye_rule=_eye_rule(path, header.eye_rule, task),
    )


def digest(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all that a model file holds, but for the entry `sha256` of its header."""
    described = {name: value for name, value in header.items() if name != "sha256"}
    sha256 = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(tensors):
        sha256.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        sha256.update(tensors[name].tobytes())
    return sha256.hexdigest()


def is_model_file(path: Path) -> bool:
    """Whether a file is one that `write_model` wrote, by its header; weights alone are not."""
    if path.suffix != SUFFIX or not path.is_file():
        return False
    try:
        with safe_open(path, framework="np") as file:
            return _KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged, or not a model file ({reason}); {_REMEDY}") from error


def _stored_variables(variables: Variables, *, half: bool) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables._asdict())
    named = {path_name(path): np.asarray(leaf, np.float32) for path, leaf in leaves}
    if not half:
        return {name: np.ascontiguousarray(leaf) for name, leaf in named.items()}
    largest = float(np.finfo(np.float16).max)
    for name, leaf in named.items():
        if np.abs(leaf).max(initial=0) > largest:
            raise UserError(f"{name} holds values that float16 cannot; save it without half=True")
    return {
        name: np.ascontiguousarray(leaf, np.float16 if leaf.size >= HALF_FROM else np.float32)
        for name, leaf in named.items()
    }


def _backbone_of(config: ModelConfig) -> str:
    """The name of a config's class; UserError where the package has none."""
    if isinstance(config, MobileNetV3Config):
        return _MOBILENET
    from oct_jax.model.backbones import BACKBONES

    place = f"{type(config).__module__}:{type(config).__qualname__}"
    names = {home: name for name, home in BACKBONES.items()}
    if place not in names:
        raise UserError(
            f"{place}: a backbone of your own cannot be saved as one file, which would have to"
            f" hold its code; saved are {', '.join(BACKBONES)}"
        )
    return names[place]


def _config_class(backbone: str, path: Path) -> Any:
    """The class of a backbone's configs; a file names one of the package's, never code."""
    if backbone == _MOBILENET:
        return MobileNetV3Config
    from oct_jax.model.backbones import BACKBONES, config_class

    if backbone not in BACKBONES:
        raise UserError(f"{path}: of an unknown backbone {backbone[:40]!r}; {_REMEDY}")
    return config_class(backbone)


def _packed(digests: frozenset[str]) -> np.ndarray:
    """Hexadecimal SHA-256 digests in order, as uint8 of shape (digests, 32)."""
    data = bytes.fromhex("".join(sorted(digests)))
    return np.frombuffer(data, np.uint8).reshape(-1, 32)


def _unpacked(path: Path, name: str, tensors: Mapping[str, np.ndarray]) -> frozenset[str]:
    rows = tensors.get(name)
    if rows is None or rows.dtype != np.uint8 or rows.shape[1:] != (32,):
        raise UserError(f"{path}: {name} is missing or of another shape; {_REMEDY}")
    return frozenset(row.tobytes().hex() for row in rows)


def _provenance(path: Path, header: _Header, tensors: Mapping[str, np.ndarray]) -> Provenance:
    names = ("trained", "chosen")
    trained, chosen = (
        ScanDigests(*(_unpacked(path, f"{part}/{kind}", tensors) for kind in ("scans", "patients")))
        for part in names
    )
    convert(header.facts, Facts, f"{path}: facts", remedy=_REMEDY)
    return Provenance(trained, chosen, header.facts, tuple(header.tested))


def _variables(
    path: Path,
    config: ModelConfig,
    tensors: Mapping[str, np.ndarray],
    also: Iterable[str],
) -> Variables:
    """The variables of a config among the tensors.

    Raises:
      UserError: one is missing, of another shape or not finite, or there are tensors that are
        neither of these nor among `also`.
    """

    def leaf(place: tuple, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path_name(place)
        if name not in tensors or tensors[name].shape != shape.shape:
            raise UserError(f"{path}: {name} is missing or of another shape; {_REMEDY}")
        values = tensors[name].astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{path}: {name} holds values that are not finite; {_REMEDY}")
        return values

    shapes = build(config).shapes._asdict()
    places, _ = jax.tree_util.tree_flatten_with_path(shapes)
    unknown = tensors.keys() - {path_name(place) for place, _ in places} - set(also)
    if unknown:
        raise UserError(f"{path}: holds {min(unknown)[:80]!r}, which is of no part; {_REMEDY}")
    return Variables(**jax.tree_util.tree_map_with_path(leaf, shapes))


def _without_folders(values: dict[str, Any]) -> dict[str, Any]:
    """A rule's values in which its data has a name and no path: the file is given to others."""
    data = values["fitted_on"].get("data")
    if data is None:
        return values
    return values | {"fitted_on": values["fitted_on"] | {"data": Path(data).name or data}}


def _rule_as_json(rule: DecisionRule) -> dict[str, Any]:
    outliers = rule.outliers
    return {
        **_without_folders(rule_values(rule)),
        "rest_precision": None if outliers is None else outliers.rest_precision,
        "outlier_threshold": None if outliers is None else outliers.threshold,
        "no_retina_threshold": None if outliers is None else finite(outliers.no_retina),
    }


def _eye_rule(path: Path, stored: StoredRule | None, task: Task) -> DecisionRule | None:
    if stored is None:
        return None
    return rule_from(stored, task, None, where=f"{path}: eye_rule", remedy=_REMEDY)


def _rule(
    path: Path, stored: _StoredRule, tensors: Mapping[str, np.ndarray], task: Task
) -> DecisionRule:
    outliers = None
    if stored.rest_precision is not None and stored.outlier_threshold is not None:
        parts = {name: tensors[name] for name in _OUTLIERS if name in tensors}
        try:
            check_tensors(parts, _OUTLIERS)
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); {_REMEDY}") from error
        outliers = outliers_from(
            {name: tensors[f"outliers/{name}"] for name in OUTLIER_TENSORS},
            rest_precision=stored.rest_precision,
            threshold=stored.outlier_threshold,
            no_retina=stored.no_retina_threshold,
            where=str(path),
            remedy=_REMEDY,
        )
    return rule_from(stored, task, outliers, where=str(path), remedy=_REMEDY)
