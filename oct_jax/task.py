"""A classification task as a value: class names, referral tiers, penalties, colours, meanings.

    from oct_jax.task import KERMANY, read_task
    KERMANY.classes                      # ("CNV", "DME", "DRUSEN", "NORMAL")
    read_task("mine.toml").tier_of("ERM")

The order of `Task.classes` is the order of every logit, probability and confusion-matrix axis.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from oct_jax.paths import expand_home
from oct_jax.types import UserError

Tier: TypeAlias = Literal["urgent", "routine", "observe"]
"""What is done with a patient (Kermany et al. 2018, figure 3)."""
TIERS: tuple[Tier, ...] = get_args(Tier)
"""From the most to the least urgent."""

FOLDERS = "folders"
"""The name of a task whose classes are the folders of a data set."""

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


def to_json(task: Task) -> dict[str, Any]:
    """A task as JSON values; `from_json` is the inverse."""
    return {
        "name": task.name,
        "source": task.source,
        "classes": [
            {
                "name": info.name,
                "tier": info.tier,
                "meaning": info.meaning,
                "colour": colour,
            }
            for info, colour in zip(task.infos, task.colours, strict=True)
        ],
        "penalties": {f"{first}>{second}": cost for first, second, cost in task.penalties},
    }


def from_json(value: Mapping[str, Any]) -> Task:
    """A task from the values of `to_json`, or from a file of `read_task`.

    Raises:
      UserError: unknown keys, missing ones, values of other types, or not a task; see `Task`.
    """
    _refuse_unknown(value, {"name", "source", "classes", "penalties"}, "task")
    rows = value.get("classes")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise UserError("task: `classes` must be a list of tables, each with a `name`")
    return Task(
        name=_text(value, "name", "task"),
        infos=tuple(_class_info(row) for row in rows),
        source=_text(value, "source", "task", ""),
        penalties=_penalties(value.get("penalties")),
    )


def stored_task(value: Mapping[str, Any], path: Path, remedy: str) -> Task:
    """`from_json` of a value that a file holds; the one-line error names file and remedy."""
    try:
        return from_json(value)
    except UserError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error


def read_task(path: str | Path) -> Task:
    """Reads a task from a TOML file.

        name = "macula"
        source = "our clinic"

        [[classes]]
        name = "ERM"
        tier = "routine"                # urgent, routine or observe; may be left out
        meaning = "epiretinal membrane"
        colour = "#0072b2"              # may be left out

        [penalties]                     # may be left out
        "urgent>observe" = 4

    Raises:
      UserError: the file cannot be read, or is not a task; one line.
    """
    path = Path(expand_home(path))
    try:
        return from_json(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise UserError(f"task={path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"task={path}: not a TOML file ({error})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def of_folders(names: Sequence[str]) -> Task:
    """A task whose classes are folder names, sorted; nothing is referred.

    Raises:
      UserError: see `Task`.
    """
    infos = tuple(ClassInfo(name) for name in sorted(names, key=str.casefold))
    return Task(FOLDERS, infos, source="folder names")


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


def _class_info(row: Mapping[str, Any]) -> ClassInfo:
    _refuse_unknown(row, {"name", "tier", "meaning", "colour"}, "class")
    tier = row.get("tier")
    if tier not in (None, *TIERS):
        raise UserError(f"class: tier {tier!r} must be one of {', '.join(TIERS)}, or left out")
    return ClassInfo(
        name=_text(row, "name", "class"),
        tier=tier,
        meaning=_text(row, "meaning", "class", ""),
        colour=_text(row, "colour", "class", ""),
    )


def _penalties(value: Any) -> Penalties:
    if value is None:
        return DEFAULT_PENALTIES
    try:
        return tuple((*_tiers(key), float(cost)) for key, cost in value.items())
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError('task: `penalties` are written as "urgent>observe" = 4') from error


def _tiers(key: str) -> tuple[Tier, Tier]:
    first, second = key.split(">")
    return TIERS[TIERS.index(first)], TIERS[TIERS.index(second)]  # ty cannot narrow text


def _text(value: Mapping[str, Any], key: str, what: str, default: str | None = None) -> str:
    text = value.get(key, default)
    if not isinstance(text, str):
        raise UserError(f"{what}: `{key}` must be given, as text")
    return text


def _refuse_unknown(value: Mapping[str, Any], known: set[str], what: str) -> None:
    unknown = sorted(set(value) - known)
    if unknown:
        raise UserError(
            f"{what}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(known))}"
        )


_CNV = ClassInfo("CNV", "urgent", "choroidal neovascularisation")
_DME = ClassInfo("DME", "urgent", "diabetic macular oedema")
_DRUSEN = ClassInfo("DRUSEN", "routine", "drusen of early or intermediate AMD")
_NORMAL = ClassInfo("NORMAL", "observe", "no finding")
_CSR = ClassInfo("CSR", "urgent", "central serous retinopathy")
_MH = ClassInfo("MH", "urgent", "macular hole")
_DR = ClassInfo("DR", "routine", "diabetic retinopathy")

KERMANY = Task(
    "kermany",
    (_CNV, _DME, _DRUSEN, _NORMAL),
    source="Kermany et al. 2018, Cell 172:1122-1131; tiers of its figure 3",
)

# The data sets below publish class names, no referral. Their tiers are this project's own, on the
# careful side: a class that mixes stages has the tier of its most urgent one.
_OWN_TIERS = "; referral tiers are this project's own"
OCTDL = Task(
    "octdl",
    (
        ClassInfo("AMD", "urgent", "age-related macular degeneration, all stages"),
        _DME,
        ClassInfo("ERM", "routine", "epiretinal membrane"),
        ClassInfo("NO", "observe", "no finding"),
        ClassInfo("RAO", "urgent", "retinal artery occlusion"),
        ClassInfo("RVO", "urgent", "retinal vein occlusion"),
        ClassInfo("VID", "routine", "vitreomacular interface disease"),
    ),
    source="OCTDL: Kulyabin et al. 2024, Scientific Data 11:365" + _OWN_TIERS,
)
SRINIVASAN = Task(
    "srinivasan",
    (ClassInfo("AMD", "routine", "dry age-related macular degeneration"), _DME, _NORMAL),
    source="Srinivasan et al. 2014, Biomedical Optics Express 5:3568-3577" + _OWN_TIERS,
)
NEH = Task(
    "neh",
    (_CNV, _DRUSEN, _NORMAL),
    source="NEH-UT 2021: Sotoudeh-Paima et al. 2022, Computers in Biology and Medicine 144"
    + _OWN_TIERS,
)
OCTID = Task(
    "octid",
    (
        ClassInfo("AMRD", "urgent", "age-related macular degeneration"),
        _CSR,
        _DR,
        _MH,
        _NORMAL,
    ),
    source="OCTID: Gholami et al. 2020, Computers and Electrical Engineering 81" + _OWN_TIERS,
)
OCT_C8 = Task(
    "oct_c8",
    (
        ClassInfo("AMD", "urgent", "age-related macular degeneration"),
        _CNV,
        _CSR,
        _DME,
        _DR,
        _DRUSEN,
        _MH,
        _NORMAL,
    ),
    source="OCT-C8: Subramanian et al. 2022, Retinal OCT Image Classification - C8" + _OWN_TIERS,
)

BUILT_IN: dict[str, Task] = {
    task.name: task for task in (KERMANY, OCTDL, SRINIVASAN, NEH, OCTID, OCT_C8)
}
"""Tasks by name."""


def named_task(spec: str) -> Task:
    """The built-in task of the name `spec`, or the one in a TOML file of that name.

    Raises:
      UserError: neither; or `folders`, which only a folder of scans can answer.
    """
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    if spec.endswith(".toml"):
        return read_task(spec)
    raise UserError(
        f"task={spec}: must be one of {', '.join(BUILT_IN)}, {FOLDERS}, or a file ending in .toml"
    )


def task_or_folders(spec: str) -> Task | None:
    """`named_task`; or None for `folders`: whoever opens the folder makes the task of its names."""
    return None if spec == FOLDERS else named_task(spec)
