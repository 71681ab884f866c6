"""Whether a run's faithfulness report speaks of the model at hand, and what it says."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from oct_jax.classifier import Classifier
from oct_jax.files import Count, read_json
from oct_jax.model.protocol import fingerprint_of

REMEDY = "delete it, or make it anew with `just explain report`"


class FaithfulnessReport(Struct):
    """What is read of a faithfulness report; it holds more."""

    model: str
    method: str
    flip: bool
    passed: bool
    scans: Count


def report_path(run: Path) -> Path:
    """Where a run's faithfulness report is."""
    return run / "explanation" / "report.json"


def fingerprint(classifier: Classifier) -> str:
    """Names a model's weights: 16 hexadecimal digits."""
    return fingerprint_of(classifier.variables)


def read_report(run: Path) -> FaithfulnessReport | None:
    """A run's faithfulness report; None where it has none."""
    path = report_path(run)
    return read_json(path, FaithfulnessReport, remedy=REMEDY) if path.is_file() else None


def is_verified(run: Path, classifier: Classifier, method: str, flip: bool) -> bool:
    """Whether a passed report of this very model and method is stored with the run."""
    report = read_report(run)
    if report is None:
        return False
    tested = (report.model, report.method, report.flip)
    return report.passed and tested == (fingerprint(classifier), method, flip)
