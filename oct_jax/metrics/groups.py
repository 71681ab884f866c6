"""Groups of classes, for scans whose labels are coarser than the classes of a model."""

from __future__ import annotations

from dataclasses import dataclass

from oct_jax.task import ClassInfo, Task, Tier


@dataclass(frozen=True)
class Group:
    """A label of the data: a class, or several classes under one name."""

    name: str
    classes: tuple[str, ...]


def plain_groups(task: Task) -> tuple[Group, ...]:
    """A group of its own for every class."""
    return tuple(Group(name, (name,)) for name in task.classes)


def task_of_groups(groups: tuple[Group, ...], task: Task) -> Task:
    """The task whose classes are the groups, which scans with such labels are scans of.

    Args:
      groups: disjoint; together they hold every class.
      task: of the classes.

    Raises:
      UserError: names that no class may have; see `Task`.
    """
    if groups == plain_groups(task):
        return task
    infos = tuple(
        ClassInfo(group.name, tier_of(group, task), colour=task.colours[members_of(group, task)[0]])
        for group in groups
    )
    return Task(f"groups of {task.name}", infos, task.source, task.penalties)


def members_of(group: Group, task: Task) -> list[int]:
    """Indices of a group's classes."""
    return [task.index(name) for name in group.classes]


def tier_of(group: Group, task: Task) -> Tier | None:
    """The referral tier of a group; None where its classes have several, or have none."""
    tiers = {task.tier_of(name) for name in group.classes}
    return tiers.pop() if len(tiers) == 1 else None
