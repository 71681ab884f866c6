"""Whether a run's faithfulness report speaks of the model at hand, and what it says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import jax
import numpy as np

from oct_jax.classifier import Classifier
from oct_jax.files import read_json


def report_path(run: Path) -> Path:
    """Where a run's faithfulness report is."""
    return run / "explanation" / "report.json"


def fingerprint(classifier: Classifier) -> str:
    """Names a model's weights by its head, which all training changes: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(classifier.variables.params["head"]):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def is_verified(run: Path, classifier: Classifier, method: str, flip: bool) -> bool:
    """Whether a passed report of this very model and method is stored with the run."""
    path = report_path(run)
    if not path.is_file():
        return False
    report = read_json(path)
    tested = (report["model"], report["method"], report["flip"])
    return report["passed"] and tested == (fingerprint(classifier), method, flip)
