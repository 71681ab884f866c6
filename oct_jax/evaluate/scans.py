"""Which scans are evaluated, by which labels, and which of them the run has seen before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Int

from oct_jax.config import EvaluateConfig
from oct_jax.data.datasets import PHANTOM, open_data
from oct_jax.data.kermany import OWN_GROUP, list_scans
from oct_jax.data.manifest import Record, read_manifest, summarize
from oct_jax.data.source import FolderSource, Source
from oct_jax.train.run_folder import read_run_config
from oct_jax.types import CLASSES, LabelBatch, UserError


@dataclass(frozen=True)
class Group:
    """What the data calls one thing: a class, or several classes under one name."""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """Scans to evaluate on.

    Attributes:
      source: the scans.
      groups: disjoint; together they hold every class.
      truth: index of each scan's group.
      name: of the data, for the report.
      split: of the scans.
      own: whether they are a split of the run's own data.
      lines: what a person should know of them.
    """

    source: Source
    groups: tuple[Group, ...]
    truth: Int[np.ndarray, "scans"]
    name: str
    split: str
    own: bool
    lines: tuple[str, ...]


@dataclass(frozen=True)
class ForeignScans(FolderSource):
    """Scans whose labels may be none of the classes; `Labelled.truth` holds what they are."""

    @property
    def labels(self) -> LabelBatch:
        """-1 for every scan: nothing may be trained on them by mistake."""
        return np.full(len(self.records), -1, np.int32)


@dataclass(frozen=True)
class Overlap:
    """Evaluated scans that the run has met.

    Attributes:
      trained: names of those that, or whose patients, it was trained on.
      chosen: number of those that chose its epoch or its thresholds.
    """

    trained: tuple[str, ...]
    chosen: int


def open_labelled(folder: Path, config: EvaluateConfig) -> Labelled:
    """Opens the scans that a command asks for.

    Args:
      folder: of the run.
      config: the settings.

    Raises:
      UserError: the data is gone, has none of the classes, or has no scans of the split.
    """
    settings = read_run_config(folder).settings
    own = config.data is None or config.data == settings["data"]
    if own or config.manifest is not None:
        return _open_with_splits(folder, config, own=own and config.manifest is None)
    assert config.data is not None
    if config.data == PHANTOM:
        raise UserError(f"data={PHANTOM}: {folder} was trained on other data; leave data= out")
    groups = parse_groups(config.labels)
    return _open_folder(Path(config.data).expanduser(), groups, config)


def parse_groups(text: str | None) -> tuple[Group, ...]:
    """`AMD:CNV+DRUSEN,HEALTHY:NORMAL` as groups; the classes not named are groups of their own.

    Raises:
      UserError: not of this form, no such class, or a class that is named twice.
    """
    groups: list[Group] = []
    for part in text.split(",") if text else ():
        name, _, members = part.partition(":")
        classes = tuple(member.strip().upper() for member in members.split("+"))
        if not name.strip() or not set(classes) <= set(CLASSES):
            raise UserError(
                f"labels={text}: write FOLDER:CLASS+CLASS,... with the classes {', '.join(CLASSES)}"
            )
        groups.append(Group(name.strip(), classes))
    named = [member for group in groups for member in group.classes]
    if len(named) != len(set(named)):
        raise UserError(f"labels={text}: a class may be in one folder's list only")
    rest = [Group(name, (name,)) for name in CLASSES if name not in named]
    return tuple(groups + rest)


def find_overlap(run: Path, evaluated: Sequence[Record]) -> Overlap:
    """Which of the scans, by hash or by patient number, the run was trained on.

    A number is all that a file name says of a patient: the same number in another clinic's data
    is another patient, which only a person can know.
    """
    hashes: dict[str, set[str]] = {"train": set(), "other": set()}
    patients = set()
    for record in read_manifest(run / "manifest.csv"):
        if record.split == "train":
            hashes["train"].add(record.sha256)
            patients.add(record.patient)
        elif record.split in ("val", "calibration"):
            hashes["other"].add(record.sha256)
    trained = tuple(
        record.path
        for record in evaluated
        if record.sha256 in hashes["train"]
        or (record.patient in patients and not record.patient.startswith(OWN_GROUP))
    )
    return Overlap(trained, sum(record.sha256 in hashes["other"] for record in evaluated))


def refuse_overlap(overlap: Overlap, scans: int, allowed: bool) -> None:
    """Stops where the run was trained on evaluated scans, unless that is allowed.

    Raises:
      UserError: counts and names them.
    """
    if overlap.trained and not allowed:
        raise UserError(
            f"{len(overlap.trained)} of {scans} scans are of patients that the run was trained on"
            f" ({summarize(overlap.trained)}): figures on them are no evidence; evaluate other"
            " scans, or mark every figure as contaminated with allow_overlap=true"
        )


def _open_with_splits(folder: Path, config: EvaluateConfig, *, own: bool) -> Labelled:
    if config.labels is not None:
        raise UserError("labels=: is for folders whose labels are other than the classes")
    settings = read_run_config(folder).settings
    data = config.data or settings["data"]
    manifest = folder / "manifest.csv" if own else Path(str(config.manifest)).expanduser()
    opened = open_data(
        data,
        manifest=manifest,
        on_bad_scan=config.on_bad_scan,
        seed=settings["seed"],
        phantom_patients=settings["phantom_patients"],
    )
    split = config.split or "test"
    source = opened.source if split == "all" else opened.source.select(split)
    if not len(source):
        raise UserError(f"{data}: has no scans in the {split} split; say split=... or data=...")
    groups = tuple(Group(name, (name,)) for name in CLASSES)
    return Labelled(source, groups, source.labels, data, split, own, tuple(opened.lines))


def _open_folder(root: Path, groups: tuple[Group, ...], config: EvaluateConfig) -> Labelled:
    """Another folder: whatever classes and labels it has, all of it or its official split."""
    others = [group.name for group in groups if group.name not in CLASSES]
    listing = list_scans(
        root, on_bad_scan=config.on_bad_scan, require_all_classes=False, other_labels=others
    )
    split: Literal["test", "val", "calibration", "all"] = config.split or "all"
    if split in ("test", "val") and not listing.official:
        raise UserError(f"split={split}: {root} has no official split; leave split= out")
    records = tuple(
        replace(record, split=split if split != "all" else "test")
        for record in listing.records
        if split == "all" or record.split == split
    )
    if not records:
        raise UserError(f"{root}: has no scans in the {split} split")
    index = {group.name.casefold(): number for number, group in enumerate(groups)}
    index |= {name.casefold(): n for n, group in enumerate(groups) for name in group.classes}
    folders = [PurePosixPath(record.path).parent.name.casefold() for record in records]
    truth = np.array([index[name] for name in folders], np.int32)
    lines = [f"{root}: {len(records)} scans"]
    if listing.ignored:
        lines.append(
            f"folders of no class left out: {summarize(listing.ignored)}; name their classes"
            " with labels=FOLDER:CLASS+CLASS to have them evaluated"
        )
    if listing.bad:
        lines.append(f"{len(listing.bad)} bad scans left out")
    return Labelled(
        ForeignScans(root, records), groups, truth, str(root), split, False, tuple(lines)
    )
