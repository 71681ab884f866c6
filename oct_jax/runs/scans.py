"""Which scans are evaluated, by which labels, and which of them the run has seen before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from oct_jax.commands.settings import EvaluateConfig
from oct_jax.data.datasets import PHANTOM, open_data
from oct_jax.data.folder import scans_in_files
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import Record, summarize
from oct_jax.data.prepared import is_prepared
from oct_jax.metrics.groups import Group, Labelled, plain_groups
from oct_jax.provenance import Provenance
from oct_jax.runs.folder import read_run_config
from oct_jax.task import Task
from oct_jax.types import UserError

_RESERVED = ("macro", "urgent", "weighted", "balanced")


@dataclass(frozen=True)
class Overlap:
    """Evaluated scans that the run has met.

    Attributes:
      trained: names of those that, or whose patients, it was trained on.
      chosen: number of those that, or whose patients, chose its epoch or fitted its thresholds.
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
    if is_own(folder, config.data):
        return _open_with_splits(folder, config, own=config.manifest is None)
    assert config.data is not None
    if config.data == PHANTOM:
        raise UserError(f"data={PHANTOM}: {folder} was trained on other data; leave data= out")
    root = Path(config.data)
    if config.manifest is not None or is_prepared(root):
        return _open_with_splits(folder, config, own=False)
    task = read_run_config(folder).task
    return _open_folder(root, parse_groups(config.labels, task), config, task)


def is_own(folder: Path, data: str | None) -> bool:
    """Whether `data=` means the data that a run was trained on, however it is spelt."""
    own = read_run_config(folder).settings["data"]
    if data is None or PHANTOM in (data, own):
        return data in (None, own)
    return Path(data).resolve() == Path(own).resolve()


def parse_groups(text: str | None, task: Task) -> tuple[Group, ...]:
    """`AMD:CNV+DRUSEN,HEALTHY:NORMAL` as groups; the classes not named are groups of their own.

    Raises:
      UserError: not of this form, no such class, or a class that is named twice.
    """
    names = {name.casefold(): name for name in task.classes}
    groups: list[Group] = []
    for part in text.split(",") if text else ():
        name, _, members = part.partition(":")
        name, spelt = name.strip(), [member.strip().casefold() for member in members.split("+")]
        if not name or not set(spelt) <= set(names):
            raise UserError(
                f"labels={text}: write FOLDER:CLASS+CLASS,... with the classes"
                f" {', '.join(task.classes)}"
            )
        classes = tuple(names[member] for member in spelt)
        if name.casefold() in names or name.casefold() in _RESERVED:
            raise UserError(f"labels={text}: {name} is a class or the name of a figure already")
        groups.append(Group(name, classes))
    named = [member for group in groups for member in group.classes]
    folders = [group.name.casefold() for group in groups]
    if len(named) != len(set(named)) or len(folders) != len(set(folders)):
        raise UserError(f"labels={text}: name each folder once, and each class in one folder only")
    rest = [group for group in plain_groups(task) if group.name not in named]
    return tuple(groups + rest)


def find_overlap(provenance: Provenance, evaluated: Sequence[Record]) -> Overlap:
    """Which of the scans, by hash or by patient number, a model has met.

    A number is all that a file name says of a patient: the same number in another clinic's data
    is another patient, which only a person can know.
    """
    trained = [record.path for record in evaluated if provenance.trained.holds(record)]
    return Overlap(tuple(trained), sum(map(provenance.chosen.holds, evaluated)))


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
    data = settings["data"] if is_own(folder, config.data) else str(config.data)
    given = None if config.manifest is None else Path(config.manifest)
    manifest = folder / "manifest.csv" if own else given
    task = read_run_config(folder).task
    opened = open_data(
        data,
        task=task,
        manifest=manifest,
        on_bad_scan=config.on_bad_scan,
        seed=settings["seed"],
        phantom_patients=settings["phantom_patients"],
    )
    split = config.split or ("test" if is_own(folder, config.data) else "all")
    source = opened if split == "all" else opened.select(split)
    if not len(source):
        raise UserError(f"{data}: has no scans in the {split} split; say split=... or data=...")
    groups = plain_groups(task)
    return Labelled(source, groups, source.labels, data, split, own, tuple(opened.lines), task)


def _open_folder(
    root: Path, groups: tuple[Group, ...], config: EvaluateConfig, task: Task
) -> Labelled:
    """Another folder: whatever classes and labels it has, all of it or its official split."""
    others = [group.name for group in groups if group.name not in task.classes]
    listing = list_scans(
        root,
        task=task,
        on_bad_scan=config.on_bad_scan,
        require_all_classes=False,
        other_labels=others,
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
        scans_in_files(root, records), groups, truth, str(root), split, False, tuple(lines)
    )
