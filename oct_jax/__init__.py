"""Retinal OCT B-scans as CNV, DME, DRUSEN or NORMAL, and where in the scan it shows.

    from oct_jax import load
    load("runs/default").predict("scan.png").label

Research use; not a medical device.
"""

import importlib
from typing import TYPE_CHECKING

from oct_jax.types import CLASSES, UserError

if TYPE_CHECKING:
    from oct_jax.classifier import Classifier
    from oct_jax.prediction import Decision, Prediction
    from oct_jax.runs.load import load

__all__ = ["CLASSES", "Classifier", "Decision", "Prediction", "UserError", "load"]

# Imported at first use: `import oct_jax` must cost nothing, and JAX takes a second.
_HOMES = {
    "Classifier": "oct_jax.classifier",
    "Decision": "oct_jax.prediction",
    "Prediction": "oct_jax.prediction",
    "load": "oct_jax.runs.load",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
