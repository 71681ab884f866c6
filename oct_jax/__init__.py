"""Retinal OCT B-scans as CNV, DME, DRUSEN or NORMAL, and where in the scan it shows.

    from oct_jax import load
    load("runs/default").predict("scan.png").label

Research use; not a medical device.
"""

from oct_jax.types import CLASSES, Decision, Prediction, UserError

__all__ = ["CLASSES", "Classifier", "Decision", "Prediction", "UserError", "load"]


def __getattr__(name: str) -> object:
    # JAX takes seconds to import; `--help` and one-line errors should not wait for it.
    if name in ("Classifier", "load"):
        from oct_jax import classifier

        return getattr(classifier, name)
    raise AttributeError(f"module 'oct_jax' has no attribute {name!r}")
