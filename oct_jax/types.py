"""The vocabulary: classes, arrays, a prediction, and the error that is the user's to mend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

CLASSES: tuple[str, ...] = ("CNV", "DME", "DRUSEN", "NORMAL")
"""Class names in the order of every logit, probability and confusion-matrix axis."""

Split: TypeAlias = Literal["train", "val", "calibration", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "calibration", "test")

Referral: TypeAlias = Literal["urgent", "routine", "observe", "defer"]

Resize: TypeAlias = Literal["squash", "letterbox", "crop"]
Padding: TypeAlias = Literal["symmetric", "same"]

# For functions that take what the host or the device holds.
AnyArray: TypeAlias = Array | np.ndarray
# One B-scan as read from disk: grey, 0 (dark) to 255 (bright), rows from vitreous to choroid.
ScanArray: TypeAlias = UInt8[np.ndarray, "height width"]
# What the loader yields: resized grey scans and indices into CLASSES.
ScanBatch: TypeAlias = UInt8[np.ndarray, "batch size size"]
LabelBatch: TypeAlias = Int32[np.ndarray, "batch"]
# What the model eats and makes, channels last. The underscores leave sizes free: the images that
# a layer eats and those that it makes need only agree in their batch.
Images: TypeAlias = Float[Array, "batch _height _width _channels"]
FeatureMap: TypeAlias = Float[Array, "batch _rows _columns _features"]
Logits: TypeAlias = Float[Array, "batch classes"]


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line: what is wrong, where, and what to do. Commands print it and exit
    with code 2; a traceback would only hide it.
    """


@dataclass(frozen=True)
class Decision:
    """What a calibrated run advises for one B-scan.

    Attributes:
      referral: the tier of Kermany et al. 2018, or `defer` to a person where the classes of the
        set belong to several tiers, where there is none, and where the scan is an outlier.
      classes: the conformal prediction set, in the order of `CLASSES`; may be empty.
      outlier_score: distance from the training scans over its threshold; above 1 the scan is
        unlike them. None where the run has no density model.
    """

    referral: Referral
    classes: tuple[str, ...]
    outlier_score: float | None

    @property
    def is_outlier(self) -> bool:
        """Whether the scan is unlike those that the model was trained on."""
        return self.outlier_score is not None and self.outlier_score > 1


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of one B-scan.

    Attributes:
      label: the most probable name of `CLASSES`.
      probabilities: float32 of shape (4,), in the order of `CLASSES`, summing to 1; calibrated
        where there is a decision.
      logits: float32 of shape (4,), before temperature and softmax.
      decision: of the run's decision rule; None where the run has none.
    """

    label: str
    probabilities: Float32[np.ndarray, "classes"]
    logits: Float32[np.ndarray, "classes"]
    decision: Decision | None = None
