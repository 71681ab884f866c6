"""Run folders whose files are missing, cut or edited: the same answer, or one line."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fault_parts.tally import Tally, attempt
from oct_jax import load
from oct_jax.commands.parsing import flatten, unflatten
from oct_jax.commands.settings import TrainConfig
from oct_jax.decision.storage import read_rule
from oct_jax.files import read_json
from oct_jax.model.protocol import fingerprint_of
from oct_jax.runs.config import read_run_config
from oct_jax.runs.folder import check_resumable
from oct_jax.runs.scans import find_overlap, select_scans
from oct_jax.runs.source import find_source
from oct_jax.runs.verified import is_verified

Damage = Callable[[bytes, np.random.Generator], bytes | None]
DAMAGES: dict[str, Damage] = {
    "missing": lambda data, rng: None,
    "empty": lambda data, rng: b"",
    "cut": lambda data, rng: data[: int(rng.integers(len(data)))] if data else b"",
    "changed": lambda data, rng: _flipped(data, rng),
    "a list": lambda data, rng: b"[]",
    "not text": lambda data, rng: b"\xff\xfe\x00",
}
READ_BY = {
    "config.json": ("run config", "load"),
    "manifest.csv": ("evaluate's scans",),
    "provenance.json": ("export",),
    "frozen/best/": ("load",),
    "frozen/decision/": ("rule", "load"),
    "frozen/config.json": ("resume",),
    "explanation/report.json": ("report",),
}
"""Files of a run, by how their paths begin, and what reads them, one after the other until one
refuses. Checkpoints to resume from, `last/`, have tests of their own."""
_EDITS = (None, -1, 0, 1e308, 10**400, "", "x", [], {}, True, [[]], {"x": None})


def damaged_run(run: Path, seed: int, begins: str) -> Tally:
    """Damages files of a copy of a run, one at a time, and reads it as the commands do.

    Args:
      run: a trained run; only its copy is damaged.
      seed: of the places that are cut and changed.
      begins: how the paths of the files begin, a key of `READ_BY`.

    A damaged file that changes an answer without a word counts as wrong. A configuration that was
    edited to other valid values is another run, and its answers are not judged.
    """
    rng = np.random.default_rng(seed)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(run, Path(folder) / "run"))
        every = _readers(copy, stage_settings(copy))
        readers = {name: every[name] for name in READ_BY[begins]}
        whole = {name: read() for name, read in readers.items()}
        for path in sorted(path for path in copy.rglob("*") if path.is_file()):
            name = path.relative_to(copy).as_posix()
            if not name.startswith(begins):
                continue
            data = path.read_bytes()
            for label, content in _damages(path, data, rng):
                _write(path, content)
                judged = label in DAMAGES
                _read_all(tally, readers, f"{name} {label}", whole, judged=judged)
                path.write_bytes(data)
    return tally


def stage_settings(run: Path) -> TrainConfig:
    """The settings of a run's frozen stage; the defaults where it has none stored."""
    path = run / "frozen" / "config.json"
    if not path.exists():
        return TrainConfig(stage="frozen", run=str(run))
    return unflatten(TrainConfig, read_json(path))


def _read_all(
    tally: Tally,
    readers: dict[str, Callable[[], Any]],
    label: str,
    whole: dict[str, Any],
    *,
    judged: bool,
) -> None:
    for name, read in readers.items():
        answer = attempt(tally, f"{name}: {label}", read)
        refused = answer is None
        # Without its file a rule or a report is simply not there.
        absent = label.endswith(" missing") and answer in (("none",), False)
        if judged and not refused and not absent and answer != whole[name]:
            tally.add("wrong", f"{name}: {label}: {str(answer)[:100]}")
        if refused:
            return


def _readers(run: Path, settings: TrainConfig) -> dict[str, Callable[[], Any]]:
    """What is read of a run by load, evaluate, train and explain; each as a value to compare."""
    stage = run / "frozen"

    def classifier() -> Any:
        loaded = load(run)
        return fingerprint_of(loaded.variables), loaded.preprocess, _of_rule(loaded.rule)

    def scans() -> Any:
        scans = select_scans(run).scans
        overlap = find_overlap(load(run).provenance, scans.records)
        return scans.labels.tolist(), scans.records, overlap

    return {
        "load": classifier,
        "evaluate's scans": scans,
        "run config": lambda: read_run_config(run),
        "rule": lambda: _of_rule(read_rule(stage)),
        "resume": lambda: (check_resumable(stage, flatten(settings), defaults={}), "resumable"),
        "export": lambda: _exported(run),
        "report": lambda: is_verified(run, load(run), "gradcam", False),
    }


def _exported(run: Path) -> Any:
    # Seconds of imports that only this needs.
    from oct_jax.export.description import describe, evidence_of

    source, classifier = find_source(str(run), None), load(run)
    return describe(source, classifier), evidence_of(source, classifier)


def _of_rule(rule: Any) -> Any:
    if rule is None:
        return ("none",)
    outliers = None if rule.outliers is None else rule.outliers.mean.tobytes()
    thresholds = (rule.temperature, rule.urgent_threshold, rule.set_thresholds.tobytes())
    return *thresholds, rule.model, rule.records, outliers


def _damages(
    path: Path, data: bytes, rng: np.random.Generator
) -> Iterator[tuple[str, bytes | None]]:
    for label, damage in DAMAGES.items():
        yield label, damage(data, rng)
    if path.suffix == ".json" and path.name != "sha256.json":
        for key, value in _edits(json.loads(data)):
            yield f"edited: {key}", json.dumps(value).encode()


def _edits(stored: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The value with each of its keys, at two depths, removed or set to something odd."""
    if not isinstance(stored, dict):
        return
    for key, old in stored.items():
        yield f"{name}{key} removed", {k: v for k, v in stored.items() if k != key}
        for value in _EDITS:
            yield f"{name}{key}={str(value)[:20]}", stored | {key: value}
        if not name:
            for inner, changed in _edits(old, f"{key}."):
                yield inner, stored | {key: changed}


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    if not data:
        return b"\0"
    changed = bytearray(data)
    changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _write(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)
