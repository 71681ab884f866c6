"""A trained run as pure functions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import jax
import numpy as np

from oct_jax.data.preprocess import Preprocess, resize_scan
from oct_jax.data.readers import read_scan
from oct_jax.model.fold import fold
from oct_jax.model.inference import BATCH_SIZES, make_logits, predict_all
from oct_jax.model.protocol import Model, Variables, build
from oct_jax.train.checkpoint import has_best, restore_best
from oct_jax.train.run_folder import STAGES, read_run_config
from oct_jax.types import CLASSES, Prediction, ScanArray, UserError

Scan = str | os.PathLike[str] | ScanArray


@dataclass(frozen=True)
class Classifier:
    """A trained model, BatchNorm folded, with its preprocessing; make one with `load`.

    Attributes:
      model: the folded model as pure functions.
      variables: its parameters.
      preprocess: from a scan to the model's input.
      synthetic: whether it was trained on phantoms; then it says nothing of real scans.
      stage: the stage that its parameters come from.
    """

    model: Model
    variables: Variables
    preprocess: Preprocess
    synthetic: bool
    stage: str

    @overload
    def predict(self, scans: Scan) -> Prediction: ...

    @overload
    def predict(self, scans: Sequence[Scan]) -> list[Prediction]: ...

    def predict(self, scans: Scan | Sequence[Scan]) -> Prediction | list[Prediction]:
        """Classifies one scan, or several.

        Args:
          scans: a path, a grey uint8 array of shape (height, width), or a sequence of such.

        Returns:
          One `Prediction`, or a list in the order of `scans`.

        Raises:
          UserError: a file is not a readable scan, or an array is not a grey uint8 scan.
        """
        if isinstance(scans, str | os.PathLike | np.ndarray):
            return self.predict([scans])[0]
        if not scans:
            return []
        forward = make_logits(self.model, self.preprocess)
        size = BATCH_SIZES[-1]
        chunks = (scans[start : start + size] for start in range(0, len(scans), size))
        batches = (np.stack([self._prepare(scan) for scan in chunk]) for chunk in chunks)
        return [to_prediction(row) for row in predict_all(forward, self.variables, batches)]

    def _prepare(self, scan: Scan) -> np.ndarray:
        pixels = scan if isinstance(scan, np.ndarray) else read_scan(scan)
        if pixels.ndim != 2 or pixels.dtype != np.uint8 or not pixels.size:
            raise UserError(
                f"array of shape {pixels.shape}, {pixels.dtype}: a scan is grey uint8 of shape"
                " (height, width); files of other kinds are converted when given as paths"
            )
        return resize_scan(pixels, self.preprocess)


def load(run: str | os.PathLike[str] = "runs/default") -> Classifier:
    """Loads the best checkpoint of a run's latest stage.

    Raises:
      UserError: there is no run, or none of its stages has finished an epoch.
    """
    folder = Path(run).expanduser()
    config = read_run_config(folder)
    stage = next((stage for stage in reversed(STAGES) if has_best(folder / stage)), None)
    if stage is None:
        raise UserError(f"{folder}: no trained model yet; `just train stage=frozen run={folder}`")
    shapes = jax.eval_shape(lambda: build(config.model).init(0))
    variables, _ = restore_best(folder / stage, shapes)
    folded, folded_config = fold(variables, config.model)
    return Classifier(
        model=build(folded_config),
        variables=folded,
        preprocess=config.preprocess,
        synthetic=config.synthetic,
        stage=stage,
    )


def to_prediction(logits: np.ndarray) -> Prediction:
    """The prediction of one row of logits: softmax, and the name of its largest entry."""
    shifted = np.exp(logits - logits.max())
    probabilities = (shifted / shifted.sum()).astype(np.float32)
    return Prediction(CLASSES[int(logits.argmax())], probabilities, logits.astype(np.float32))
