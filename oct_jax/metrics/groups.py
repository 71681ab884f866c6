"""Scans to evaluate on, whose labels may be coarser than the classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from oct_jax.data.scans import Scans
from oct_jax.task import KERMANY, Task, Tier


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
      task: whose classes the groups are of.
    """

    source: Scans
    groups: tuple[Group, ...]
    truth: Int[np.ndarray, "scans"]
    name: str
    split: str
    own: bool
    lines: tuple[str, ...]
    task: Task = KERMANY


def plain_groups(task: Task) -> tuple[Group, ...]:
    """A group of its own for every class."""
    return tuple(Group(name, (name,)) for name in task.classes)


def members_of(group: Group, task: Task) -> list[int]:
    """Indices of a group's classes."""
    return [task.index(name) for name in group.classes]


def tier_of(group: Group, task: Task) -> Tier | None:
    """The referral tier of a group; None where its classes have several, or have none."""
    tiers = {task.tier_of(name) for name in group.classes}
    return tiers.pop() if len(tiers) == 1 else None
