"""A classification task as a value: class names, referral tiers, penalties, colours, meanings.

    from oct_jax.task import KERMANY, read_task
    KERMANY.classes                      # ("CNV", "DME", "DRUSEN", "NORMAL")
    read_task("mine.toml").tier_of("ERM")

The order of `Task.classes` is the order of every logit, probability and confusion-matrix axis.
"""

from oct_jax.task.named import (
    BUILT_IN,
    FOLDERS,
    KERMANY,
    NEH,
    OCT_C8,
    OCTDL,
    OCTID,
    SRINIVASAN,
    named_task,
    of_folders,
    task_or_folders,
)
from oct_jax.task.storage import from_json, read_task, stored_task, to_json
from oct_jax.task.value import (
    DEFAULT_PENALTIES,
    MAX_CLASSES,
    SAME_TIER_PENALTY,
    TIERS,
    ClassInfo,
    Penalties,
    Task,
    Tier,
)

__all__ = [
    "BUILT_IN",
    "DEFAULT_PENALTIES",
    "FOLDERS",
    "KERMANY",
    "MAX_CLASSES",
    "NEH",
    "OCTDL",
    "OCTID",
    "OCT_C8",
    "SAME_TIER_PENALTY",
    "SRINIVASAN",
    "TIERS",
    "ClassInfo",
    "Penalties",
    "Task",
    "Tier",
    "from_json",
    "named_task",
    "of_folders",
    "read_task",
    "stored_task",
    "task_or_folders",
    "to_json",
]
