"""A classification task as a value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from oct_jax.types import UserError

Tier: TypeAlias = Literal["urgent", "routine", "observe"]
"""What is done with a patient (Kermany et al. 2018, figure 3)."""
TIERS: tuple[Tier, ...] = get_args(Tier)
"""From the most to the least urgent."""

MAX_CLASSES = 100

# Kermany's own four, then further hues that stay apart for colour-blind readers (Okabe and Ito
# 2008), reused in turn where a task has more classes.
_COLOURS = ("#b3261e", "#e69f00", "#0072b2", "#2e7d32", "#cc79a7", "#56b4e9", "#7a5195", "#6b6b6b")
_NAME = re.compile(r"[^\W_][\w .+-]{0,39}")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")

Penalties: TypeAlias = tuple[tuple[Tier, Tier, float], ...]

DEFAULT_PENALTIES: Penalties = (
    ("urgent", "routine", 2.0),
    ("urgent", "observe", 4.0),
    ("routine", "observe", 2.0),
    ("routine", "urgent", 1.0),
    ("observe", "routine", 1.0),
    ("observe", "urgent", 1.0),
)
"""(true tier, predicted tier, penalty). In the manner of Kermany et al. 2018, whose errors weigh by
what a patient loses; the numbers are this project's own, so a weighted error is not comparable to
their 6.6 %."""
SAME_TIER_PENALTY = 1.0
"""Of taking one class for another of the same tier."""


@dataclass(frozen=True)
class ClassInfo:
    """One class of a task.

    Attributes:
      name: 1 to 40 letters, digits, spaces, `.`, `+`, `-` or `_`, beginning with a letter or digit.
      tier: what is done with a patient of this class; None where the task does not say. A scan
        that may be of a class without a tier is deferred to a person.
      meaning: one line for pages.
      colour: `#rrggbb`; chosen from a palette where it is "".
    """

    name: str
    tier: Tier | None = None
    meaning: str = ""
    colour: str = ""


@dataclass(frozen=True)
class Task:
    """The classes that a model tells apart, and what follows from each; hashable.

    Attributes:
      name: of the task.
      infos: one for each class, in the order of the logits.
      source: where the classes come from: a paper, a data set, a folder.
      penalties: cost of taking the first tier for the second; see `DEFAULT_PENALTIES`.

    Raises:
      UserError: fewer than two classes, more than `MAX_CLASSES`, names that are equal but for
        case, or a name, tier, colour or penalty that is not of the form above.
    """

    name: str
    infos: tuple[ClassInfo, ...]
    source: str = ""
    penalties: Penalties = DEFAULT_PENALTIES

    def __post_init__(self) -> None:
        _check(self)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return tuple(info.name for info in self.infos)

    @property
    def tiers(self) -> tuple[Tier | None, ...]:
        """Referral tier of each class; None where a class has none."""
        return tuple(info.tier for info in self.infos)

    @property
    def refers(self) -> bool:
        """Whether any class has a tier; without one, scans are classified and not referred."""
        return any(info.tier for info in self.infos)

    @property
    def urgent(self) -> tuple[bool, ...]:
        """Of each class, whether its tier is `urgent`."""
        return tuple(info.tier == "urgent" for info in self.infos)

    @property
    def colours(self) -> tuple[str, ...]:
        """`#rrggbb` of each class."""
        return tuple(
            info.colour or _COLOURS[index % len(_COLOURS)] for index, info in enumerate(self.infos)
        )

    @property
    def meanings(self) -> tuple[str, ...]:
        """One line for each class; "" where the task has none."""
        return tuple(info.meaning for info in self.infos)

    def index(self, name: str) -> int:
        """Position of the class `name`.

        Raises:
          UserError: no class of that name; the line lists the names.
        """
        if name not in self.classes:
            raise UserError(f"class {name!r}: must be one of {', '.join(self.classes)}")
        return self.classes.index(name)

    def tier_of(self, name: str) -> Tier | None:
        """Referral tier of the class `name`; UserError as for `index`."""
        return self.tiers[self.index(name)]

    def penalty(self, true: Tier, predicted: Tier) -> float:
        """Cost of taking a class of tier `true` for another class, of tier `predicted`; above 0."""
        costs = {(first, second): cost for first, second, cost in self.penalties}
        return costs.get((true, predicted), SAME_TIER_PENALTY)

    @property
    def largest_penalty(self) -> float:
        """The cost that a weighted error is divided by."""
        return max([SAME_TIER_PENALTY, *(cost for _, _, cost in self.penalties)])


def _check(task: Task) -> None:
    if not 2 <= len(task.infos) <= MAX_CLASSES:
        raise UserError(f"task {task.name}: {len(task.infos)} classes; must be 2 to {MAX_CLASSES}")
    folded = [info.name.casefold() for info in task.infos]
    repeated = sorted({name for name in folded if folded.count(name) > 1})
    if repeated:
        raise UserError(f"task {task.name}: class {repeated[0]} is named twice")
    for info in task.infos:
        where = f"task {task.name}: class {info.name!r}"
        if not _NAME.fullmatch(info.name):
            raise UserError(f"{where}: a name is 1 to 40 letters, digits, spaces and .+-_")
        if info.colour and not _COLOUR.fullmatch(info.colour):
            raise UserError(f"{where}: colour {info.colour!r} must be written #rrggbb")
        if "\n" in info.meaning or len(info.meaning) > 200:
            raise UserError(f"{where}: a meaning is one line of at most 200 letters")
    for first, second, cost in task.penalties:
        if not 0 < cost < 1e6:
            raise UserError(f"task {task.name}: penalty {first}>{second}={cost}: must be above 0")
