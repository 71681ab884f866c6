"""Classify retinal OCT B-scans, of Kermany's four classes or one's own, and show where it shows.

    from oct_jax import load
    load("runs/default").predict("scan.png").label

Research use; not a medical device.
"""

import importlib
from typing import TYPE_CHECKING

from oct_jax.types import UserError

if TYPE_CHECKING:
    from oct_jax.adaptation import Adapted, adapt
    from oct_jax.classifier import Classifier, Explanation, classifier_of
    from oct_jax.data.folder import open_folder
    from oct_jax.data.preprocess import Preprocess
    from oct_jax.data.scans import Reader, Scans, from_arrays
    from oct_jax.data.strengths import Augment
    from oct_jax.metrics.summary import Estimate, Summary, summarise
    from oct_jax.model.backbones import load_backbone
    from oct_jax.prediction import Decision, Prediction
    from oct_jax.runs.load import load
    from oct_jax.task import KERMANY, ClassInfo, Task, named_task

__all__ = [
    "KERMANY",
    "Adapted",
    "Augment",
    "ClassInfo",
    "Classifier",
    "Decision",
    "Estimate",
    "Explanation",
    "Prediction",
    "Preprocess",
    "Reader",
    "Scans",
    "Summary",
    "Task",
    "UserError",
    "adapt",
    "classifier_of",
    "from_arrays",
    "load",
    "load_backbone",
    "named_task",
    "open_folder",
    "summarise",
]

# Imported at first use: `import oct_jax` must cost nothing, and JAX takes a second.
_HOMES = {
    "load_backbone": "oct_jax.model.backbones",
    "KERMANY": "oct_jax.task",
    "Adapted": "oct_jax.adaptation",
    "Augment": "oct_jax.data.strengths",
    "ClassInfo": "oct_jax.task",
    "Classifier": "oct_jax.classifier",
    "Decision": "oct_jax.prediction",
    "Estimate": "oct_jax.metrics.summary",
    "Explanation": "oct_jax.classifier",
    "Prediction": "oct_jax.prediction",
    "Preprocess": "oct_jax.data.preprocess",
    "Reader": "oct_jax.data.scans",
    "Scans": "oct_jax.data.scans",
    "Summary": "oct_jax.metrics.summary",
    "Task": "oct_jax.task",
    "adapt": "oct_jax.adaptation",
    "classifier_of": "oct_jax.classifier",
    "from_arrays": "oct_jax.data.scans",
    "load": "oct_jax.runs.load",
    "named_task": "oct_jax.task",
    "open_folder": "oct_jax.data.folder",
    "summarise": "oct_jax.metrics.summary",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
