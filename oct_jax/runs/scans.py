"""Which scans are evaluated, by which labels, and which of them the run has seen before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from oct_jax.classifier import Classifier
from oct_jax.data.datasets import PHANTOM, open_data
from oct_jax.data.folder import scans_in_files
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import Record, summarize
from oct_jax.data.prepared import is_prepared
from oct_jax.data.scans import Scans
from oct_jax.metrics.groups import Group, plain_groups, task_of_groups
from oct_jax.provenance import Provenance
from oct_jax.runs.config import read_run_config
from oct_jax.runs.source import ModelSource
from oct_jax.task import Task
from oct_jax.types import UserError

OnBadScan: TypeAlias = Literal["refuse", "skip"]

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


@dataclass(frozen=True)
class Selection:
    """Which scans a user means by folder, manifest, split and labels.

    Attributes:
      scans: with labels that are the names of `groups`.
      groups: what the labels stand for among the run's classes.
      name: of the data, for reports.
      split: of the data that the scans are, or `all`.
      own: whether they are of the run's own data.
      unseen: scans of diseases outside of the task, with no label; None where none were asked for.
    """

    scans: Scans
    groups: tuple[Group, ...]
    name: str
    split: str
    own: bool
    unseen: Scans | None = None


def open_run_scans(
    folder: Path,
    *,
    data: str | None = None,
    manifest: Path | None = None,
    on_bad_scan: OnBadScan | None = None,
) -> Scans:
    """Opens the scans of a run by its manifest, or others by the run's settings.

    Args:
      folder: of the run.
      data: another data set, of the same task, whose splits are its own.
      manifest: whose scans and splits to use, in place of the run's.
      on_bad_scan: in place of the run's.

    Raises:
      UserError: no run, or its data is gone; see `open_data`.
    """
    config = read_run_config(folder)
    settings = config.settings
    if data is None and manifest is None:
        manifest = folder / "manifest.csv"
    return open_data(
        data or settings["data"],
        task=config.task,
        manifest=manifest,
        on_bad_scan=on_bad_scan or settings["on_bad_scan"],
        seed=settings["seed"],
        phantom_patients=settings["phantom_patients"],
    )


def select_scans_for(
    source: ModelSource,
    classifier: Classifier,
    *,
    data: str | None = None,
    manifest: str | None = None,
    split: str | None = None,
    labels: str | None = None,
    unseen: Sequence[str] = (),
    on_bad_scan: OnBadScan = "refuse",
) -> Selection:
    """Opens the scans to evaluate a model on: see `select_scans`, of a file `select_for_model`."""
    if source.run is not None:
        return select_scans(
            source.run,
            data=data,
            manifest=manifest,
            split=split,
            labels=labels,
            unseen=unseen,
            on_bad_scan=on_bad_scan,
        )
    return select_for_model(
        classifier.task,
        data=data,
        manifest=manifest,
        split=split,
        labels=labels,
        unseen=unseen,
        on_bad_scan=on_bad_scan,
    )


def select_scans(
    folder: Path,
    *,
    data: str | None = None,
    manifest: str | None = None,
    split: str | None = None,
    labels: str | None = None,
    unseen: Sequence[str] = (),
    on_bad_scan: OnBadScan = "refuse",
) -> Selection:
    """Opens the scans to evaluate a run on.

    Args:
      folder: of the run.
      data: another folder; None for the run's own data.
      manifest: whose scans and splits to use.
      split: None for test of the run's own data, and for all of another folder.
      labels: which classes the folder names of another folder stand for; see `parse_groups`.
      unseen: folder names of diseases outside of the task, in another folder.
      on_bad_scan: what to do with bad files; see `list_scans`.

    Raises:
      UserError: the data is gone, has none of the classes, or has no scans of the split.
    """
    own = is_own(folder, data)
    if not own and data == PHANTOM:
        raise UserError(f"data={PHANTOM}: {folder} was trained on other data; leave data= out")
    if own or manifest is not None or is_prepared(Path(str(data))):
        if labels is not None:
            raise UserError("labels=: is for folders whose labels are other than the classes")
        if unseen:
            raise UserError("unseen=: is for another folder of scans; say data=FOLDER")
        return _select_split(folder, None if own else data, manifest, split, on_bad_scan)
    task = read_run_config(folder).task
    groups = parse_groups(labels, task)
    return _select_folder(Path(str(data)), groups, split, on_bad_scan, task, unseen)


def select_for_model(
    task: Task,
    *,
    data: str | None,
    manifest: str | None = None,
    split: str | None = None,
    labels: str | None = None,
    unseen: Sequence[str] = (),
    on_bad_scan: OnBadScan = "refuse",
) -> Selection:
    """Opens the scans to evaluate a model file on, which has none of its own.

    Args:
      task: of the model.
      data: a folder of scans.
      manifest: of that folder: its scans, splits and columns are used.
      split: None for all of it.
      labels: as for `select_scans`.
      unseen: as for `select_scans`.
      on_bad_scan: as for `select_scans`.

    Raises:
      UserError: no folder, none of the classes, or no scans of the split.
    """
    if data is None or data == PHANTOM:
        raise UserError("data=: must be given: a model file has no scans of its own; data=FOLDER")
    root = Path(data)
    if manifest is None and not is_prepared(root):
        return _select_folder(root, parse_groups(labels, task), split, on_bad_scan, task, unseen)
    if labels is not None or unseen:
        word = "labels" if labels is not None else "unseen"
        raise UserError(f"{word}=: is for folders whose labels are other than the classes")
    given = None if manifest is None else Path(manifest)
    scans = open_data(data, task=task, manifest=given, on_bad_scan=on_bad_scan)
    chosen = scans if split in (None, "all") else scans.select(split)
    if not len(chosen):
        raise UserError(f"{data}: has no scans in the {split} split; leave split= out")
    return Selection(chosen, plain_groups(task), data, split or "all", False)


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


def _select_split(
    folder: Path,
    data: str | None,
    manifest: str | None,
    split: str | None,
    on_bad_scan: OnBadScan,
) -> Selection:
    """Scans that have splits: the run's own where `data` is None, or those of another set."""
    given = None if manifest is None else Path(manifest)
    opened = open_run_scans(folder, data=data, manifest=given, on_bad_scan=on_bad_scan)
    split = split or ("test" if data is None else "all")
    scans = opened if split == "all" else opened.select(split)
    name = data or str(read_run_config(folder).settings["data"])
    if not len(scans):
        raise UserError(f"{name}: has no scans in the {split} split; say split=... or data=...")
    own = data is None and manifest is None
    return Selection(scans, plain_groups(scans.task), name, split, own)


def _select_folder(
    root: Path,
    groups: tuple[Group, ...],
    split: str | None,
    on_bad_scan: OnBadScan,
    task: Task,
    unseen: Sequence[str],
) -> Selection:
    """Another folder: whatever classes and labels it has, all of it or its official split."""
    others = [group.name for group in groups if group.name not in task.classes]
    listing = list_scans(
        root,
        task=task,
        on_bad_scan=on_bad_scan,
        require_all_classes=False,
        other_labels=[*others, *unseen],
    )
    strange = {name.casefold() for name in unseen}
    split = split or "all"
    if split in ("test", "val") and not listing.official:
        raise UserError(f"split={split}: {root} has no official split; leave split= out")
    names = {group.name.casefold(): group.name for group in groups}
    names |= {name.casefold(): group.name for group in groups for name in group.classes}
    chosen = [
        replace(record, split=split if split != "all" else "test")
        for record in listing.records
        if split in ("all", record.split)
    ]
    records = tuple(
        replace(record, label=names[folder_of(record).casefold()])
        for record in chosen
        if folder_of(record).casefold() not in strange
    )
    beyond = tuple(record for record in chosen if folder_of(record).casefold() in strange)
    if not records:
        raise UserError(f"{root}: has no scans in the {split} split of classes that are known")
    absent = strange - {folder_of(record).casefold() for record in beyond}
    if absent:
        raise UserError(f"unseen=: {root} has no scans in a folder {min(absent)}")
    lines = [f"{root}: {len(records)} scans"]
    if listing.ignored:
        lines.append(
            f"folders of no class left out: {summarize(listing.ignored)}; name their classes"
            " with labels=FOLDER:CLASS+CLASS to have them evaluated"
        )
    if listing.bad:
        lines.append(f"{len(listing.bad)} bad scans left out")
    scans = scans_in_files(root, records, task_of_groups(groups, task))
    return Selection(
        replace(scans, lines=tuple(lines)),
        groups,
        str(root),
        split,
        False,
        scans_in_files(root, beyond, task) if unseen else None,
    )


def folder_of(record: Record) -> str:
    """The name of the folder that a scan lies in."""
    return PurePosixPath(record.path).parent.name
