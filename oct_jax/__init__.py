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
    from oct_jax.classifier import Classifier, classifier_of
    from oct_jax.data.augment import random_changes
    from oct_jax.data.datasets import open_data
    from oct_jax.data.folder import open_folder
    from oct_jax.data.phantom import phantom_scans
    from oct_jax.data.preprocess import Preprocess
    from oct_jax.data.scans import Reader, Scans, from_arrays
    from oct_jax.data.strengths import Augment
    from oct_jax.decision.fit import fit_on_scans
    from oct_jax.decision.rule import DecisionRule, apply_rule
    from oct_jax.explanation import Explanation
    from oct_jax.metrics.summary import Estimate, Summary, summarise
    from oct_jax.model.backbones import load_backbone
    from oct_jax.model.inference import Outputs
    from oct_jax.model.mobilenet_v3 import MobileNetV3Config
    from oct_jax.model.pooled import PooledModel
    from oct_jax.model.protocol import ModelConfig, Pretrained, Variables
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
    "DecisionRule",
    "Estimate",
    "Explanation",
    "MobileNetV3Config",
    "ModelConfig",
    "Outputs",
    "PooledModel",
    "Prediction",
    "Preprocess",
    "Pretrained",
    "Reader",
    "Scans",
    "Summary",
    "Task",
    "UserError",
    "Variables",
    "adapt",
    "apply_rule",
    "classifier_of",
    "fit_on_scans",
    "from_arrays",
    "load",
    "load_backbone",
    "named_task",
    "open_data",
    "open_folder",
    "phantom_scans",
    "random_changes",
    "summarise",
]

# Imported at first use: `import oct_jax` must cost nothing, and JAX takes a second.
_HOMES = {
    "KERMANY": "oct_jax.task",
    "Adapted": "oct_jax.adaptation",
    "Augment": "oct_jax.data.strengths",
    "ClassInfo": "oct_jax.task",
    "Classifier": "oct_jax.classifier",
    "Decision": "oct_jax.prediction",
    "DecisionRule": "oct_jax.decision.rule",
    "Estimate": "oct_jax.metrics.summary",
    "Explanation": "oct_jax.explanation",
    "MobileNetV3Config": "oct_jax.model.mobilenet_v3",
    "ModelConfig": "oct_jax.model.protocol",
    "Outputs": "oct_jax.model.inference",
    "PooledModel": "oct_jax.model.pooled",
    "Prediction": "oct_jax.prediction",
    "Preprocess": "oct_jax.data.preprocess",
    "Pretrained": "oct_jax.model.protocol",
    "Reader": "oct_jax.data.scans",
    "Scans": "oct_jax.data.scans",
    "Summary": "oct_jax.metrics.summary",
    "Task": "oct_jax.task",
    "Variables": "oct_jax.model.protocol",
    "adapt": "oct_jax.adaptation",
    "apply_rule": "oct_jax.decision.rule",
    "classifier_of": "oct_jax.classifier",
    "fit_on_scans": "oct_jax.decision.fit",
    "from_arrays": "oct_jax.data.scans",
    "load": "oct_jax.runs.load",
    "load_backbone": "oct_jax.model.backbones",
    "named_task": "oct_jax.task",
    "open_data": "oct_jax.data.datasets",
    "open_folder": "oct_jax.data.folder",
    "phantom_scans": "oct_jax.data.phantom",
    "random_changes": "oct_jax.data.augment",
    "summarise": "oct_jax.metrics.summary",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
