"""Tasks by name: those of published data sets, and those of folder names."""

from __future__ import annotations

from collections.abc import Sequence

from oct_jax.task.storage import read_task
from oct_jax.task.value import ClassInfo, Task
from oct_jax.types import UserError

FOLDERS = "folders"
"""The name of a task whose classes are the folders of a data set."""

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


def of_folders(names: Sequence[str]) -> Task:
    """A task whose classes are folder names, sorted; nothing is referred.

    Raises:
      UserError: see `Task`.
    """
    infos = tuple(ClassInfo(name) for name in sorted(names, key=str.casefold))
    return Task(FOLDERS, infos, source="folder names")


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
