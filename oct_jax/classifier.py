"""A trained run as pure functions."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8
from PIL import Image

from oct_jax.arrays import AnyArray
from oct_jax.data.inputs import grey_levels, list_scans
from oct_jax.data.preprocess import (
    Geometry,
    HeatmapGrid,
    Preprocess,
    geometry,
    resize_scan,
)
from oct_jax.data.scans import Scans
from oct_jax.decision.calibration import softmax
from oct_jax.decision.rule import DecisionRule
from oct_jax.explain.gradcam import (
    METHODS,
    PREDICTED,
    Method,
    explain_all,
    make_explain,
)
from oct_jax.explanation import Explanation
from oct_jax.model.fold import fold
from oct_jax.model.grid import measure_grid
from oct_jax.model.inference import (
    Outputs,
    apply_model,
    batch_slices,
    make_forward,
    predict_all,
    predict_source,
)
from oct_jax.model.mobilenet_v3 import NNXModel
from oct_jax.model.pooled import PooledModel
from oct_jax.model.protocol import Model, ModelConfig, Variables, build
from oct_jax.model_file import ModelFile, read_model, write_model
from oct_jax.paths import expand_home
from oct_jax.prediction import Prediction, to_predictions
from oct_jax.provenance import NO_PROVENANCE, Provenance
from oct_jax.task import KERMANY, Task
from oct_jax.types import UserError

if TYPE_CHECKING:
    from oct_jax.metrics.summary import Summary

# Free in its sizes: a sequence may hold scans of several, so no item may bind them for the others.
Scan: TypeAlias = str | os.PathLike[str] | Image.Image | UInt8[np.ndarray | Array, "_height _width"]


@dataclass(frozen=True)
class Classifier:
    """A trained model, BatchNorm folded, with its preprocessing; make one with `load`.

    Attributes:
      model: the folded model as pure functions.
      variables: its parameters.
      preprocess: from a scan to the model's input.
      synthetic: whether it was trained on phantoms; then it says nothing of real scans.
      stage: the stage that its parameters come from.
      rule: calibrates probabilities and refers; None where the run had no calibration scans, and
        while its stage has not ended.
      stored_grid: as it was measured when the stage ended; None until then.
      task: the classes.
      provenance: where the model comes from, for the guard against leaks and for its readers.
      eye_rule: refers eyes; see `oct_jax.eye.fit_eyes`. None where no labelled eyes were at hand.
    """

    model: Model
    variables: Variables
    preprocess: Preprocess
    synthetic: bool
    stage: str
    rule: DecisionRule | None = None
    stored_grid: HeatmapGrid | None = None
    task: Task = KERMANY
    provenance: Provenance = NO_PROVENANCE
    eye_rule: DecisionRule | None = None

    @functools.cached_property
    def grid(self) -> HeatmapGrid:
        """Where the positions of the feature map look in the model's input; measured if need be."""
        if self.stored_grid is not None:
            return self.stored_grid
        return measure_grid(self.model, self.variables, self.preprocess)

    def apply(
        self,
        variables: Variables,
        scans: UInt8[AnyArray, "*batch _rows _columns"] | Float[AnyArray, "*batch _rows _columns"],
    ) -> Outputs:
        """The model as a pure function, for `jax.jit`, `jax.vmap` and `jax.grad`.

        Args:
          variables: `self.variables`, or others of the same model.
          scans: grey scans of the model's input size, as `oct_jax.data.preprocess.resize_scan`
            makes them: uint8 or float, 0 to 255; any number of leading axes, or none.

        Returns:
          Float32 logits (..., classes), before softmax and temperature, and pooled features
          (..., channels). `oct_jax.decision.rule.apply_rule` makes decisions of them.

        Raises:
          ValueError: scans of another size.
        """
        size, leading = self.preprocess.size, scans.shape[:-2]
        if scans.shape[-2:] != (size, size):
            raise ValueError(f"scans of shape {scans.shape}: must end in ({size}, {size})")
        batch = jnp.asarray(scans).reshape(-1, size, size)
        outputs = apply_model(self.model, self.preprocess, variables, batch)
        return jax.tree.map(lambda rows: rows.reshape(*leading, rows.shape[-1]), outputs)

    def grid_of(self, method: Method, *, flip: bool = False) -> HeatmapGrid:
        """Where the positions of a method's maps look in the model's input.

        Maps that are averaged with those of the mirrored scan lie symmetrically about the centre:
        a network does not look symmetrically, but its map and the mirrored one do.

        Args:
          method: a name of `oct_jax.explain.gradcam.METHODS`.
          flip: whether maps are averaged with those of the mirrored scan.
        """
        grid, size = self.grid, self.preprocess.size
        columns = self.model.features_shape(size, size)[1]
        if method == "gradcam-dense":
            grid = replace(grid, scale_y=grid.scale_y / 2, scale_x=grid.scale_x / 2)
            columns = 2 * columns - 1
        if flip:
            grid = replace(grid, offset_x=(size - 1 - grid.scale_x * (columns - 1)) / 2)
        return grid

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> None:
        """Writes all of it to one file, which `load` reads; see `oct_jax.model_file`.

        Args:
          path: ends in `.safetensors`.
          half: store the larger variables as float16, rounded to 11 bits: about half the size.

        Raises:
          UserError: another ending, a backbone that is not the package's, or values that float16
            cannot hold.
        """
        content = ModelFile(
            config=config_of(self.model),
            variables=self.variables,
            preprocess=self.preprocess,
            task=self.task,
            rule=self.rule,
            grid=self.grid,
            stage=self.stage,
            synthetic=self.synthetic,
            provenance=self.provenance,
            eye_rule=self.eye_rule,
        )
        write_model(Path(expand_home(path)), content, half=half)

    @overload
    def predict(self, scans: Scan) -> Prediction: ...

    @overload
    def predict(self, scans: Iterable[Scan]) -> list[Prediction]: ...

    def predict(self, scans: Scan | Iterable[Scan]) -> Prediction | list[Prediction]:
        """Classifies one scan, or several.

        Args:
          scans: a path, a Pillow picture, or a grey uint8 array (of NumPy or JAX) of shape (height,
            width); or several: a sequence or an iterator of such, or an array of shape (scans,
            height, width).

        Returns:
          One `Prediction`, or a list in the order of `scans`.

        Raises:
          TypeError: `scans` is nothing of that.
          UserError: a file is not a readable scan, or an array is not a grey uint8 scan.
        """
        several, is_several = list_scans(scans)
        if not several:
            return []
        forward = make_forward(self.model, self.preprocess)
        batches = (
            np.stack([self._prepare(scan) for scan in several[rows]])
            for rows in batch_slices(len(several))
        )
        predictions = self._predictions(predict_all(forward, self.variables, batches), several)
        return predictions if is_several else predictions[0]

    def evaluate(
        self, scans: Scans, *, resamples: int = 1000, seed: int = 0, threads: int = 4
    ) -> Summary:
        """Metrics on labelled scans, with intervals over patients; see `summarise`.

        Args:
          scans: of patients that the classifier was not trained on, of its task; at least one.
          resamples: draws of patients.
          seed: of these draws.
          threads: that read and resize scans.

        Raises:
          UserError: scans of another task, without labels, or that cannot be read.
        """
        if scans.task.classes != self.task.classes:
            raise UserError(
                f"scans of task {scans.task.name} ({', '.join(scans.task.classes)}), a classifier"
                f" of {self.task.name} ({', '.join(self.task.classes)})"
            )
        from oct_jax.metrics.summary import summarise  # imports scikit-learn

        outputs = predict_source(
            self.model, self.variables, scans, self.preprocess, threads=threads
        )
        logits, heat = np.asarray(outputs.logits), self.rule.temperature if self.rule else 1.0
        return summarise(
            softmax(logits, heat),
            scans.labels,
            scans.patients,
            self.task,
            resamples=resamples,
            seed=seed,
        )

    @overload
    def explain(
        self,
        scans: Scan,
        target: str | None = None,
        method: Method = "gradcam",
        flip: bool = False,
    ) -> Explanation: ...

    @overload
    def explain(
        self,
        scans: Iterable[Scan],
        target: str | Sequence[str | None] | None = None,
        method: Method = "gradcam",
        flip: bool = False,
    ) -> list[Explanation]: ...

    def explain(
        self,
        scans: Scan | Iterable[Scan],
        target: str | Sequence[str | None] | None = None,
        method: Method = "gradcam",
        flip: bool = False,
    ) -> Explanation | list[Explanation]:
        """Shows where one scan, or each of several, looks like a class.

        Args:
          scans: as for `predict`.
          target: a class of the task; None explains each scan's own prediction. Or a sequence of
            such, one for each of several scans.
          method: a name of `oct_jax.explain.gradcam.METHODS`.
          flip: average with the map of the mirrored scan.

        Returns:
          One `Explanation`, or a list in the order of `scans`.

        Raises:
          TypeError: as for `predict`.
          UserError: as for `predict`; or an unknown target or method, or not as many targets as
            scans.
        """
        several, is_several = list_scans(scans)
        targets = self._target_indices(target, len(several))
        if method not in METHODS:
            raise UserError(f"method={method}: must be one of {', '.join(METHODS)}")
        if not several:
            return []
        placed: list[Geometry] = []

        def batches():
            for rows in batch_slices(len(several)):
                pixels = [grey_levels(scan) for scan in several[rows]]
                placed.extend(geometry(scan, self.preprocess) for scan in pixels)
                resized = np.stack([resize_scan(one, self.preprocess) for one in pixels])
                yield resized, targets[rows]

        program = make_explain(self.model, self.preprocess, method, flip=flip)
        outputs, maps = explain_all(program, self.variables, batches())
        predictions = self._predictions(outputs, several)
        explanations = []
        grid = self.grid_of(method, flip=flip)
        for prediction, cells, where, index in zip(predictions, maps, placed, targets, strict=True):
            explained = prediction.label if index == PREDICTED else self.task.classes[index]
            explanations.append(
                Explanation(prediction, explained, method, cells, where, self.preprocess, grid)
            )
        return explanations if is_several else explanations[0]

    def _target_indices(
        self, target: str | Sequence[str | None] | None, count: int
    ) -> Int32[np.ndarray, "scans"]:
        """Of each scan, the class to explain, or `PREDICTED`; UserError as `explain`."""
        targets = [target] * count if target is None or isinstance(target, str) else list(target)
        if len(targets) != count:
            raise UserError(f"{count} scans and {len(targets)} targets")
        # A single target is checked also where there is no scan.
        for name in {target} if isinstance(target, str) else set(targets) - {None}:
            if name not in self.task.classes:
                raise UserError(f"target={name}: must be one of {', '.join(self.task.classes)}")
        indices = [PREDICTED if name is None else self.task.index(name) for name in targets]
        return np.array(indices, np.int32)

    def _predictions(self, outputs: Outputs, scans: Sequence[object]) -> list[Prediction]:
        predictions = to_predictions(outputs, self.rule, self.task)
        return [
            replace(prediction, synthetic=self.synthetic, scan=scan)
            for prediction, scan in zip(predictions, scans, strict=True)
        ]

    def _prepare(self, scan: object) -> np.ndarray:
        return resize_scan(grey_levels(scan), self.preprocess)


def classifier_of(
    model: ModelConfig,
    variables: Variables,
    preprocess: Preprocess,
    *,
    task: Task = KERMANY,
    rule: DecisionRule | None = None,
    grid: HeatmapGrid | None = None,
    stage: str = "finetune",
    synthetic: bool = False,
    provenance: Provenance = NO_PROVENANCE,
    eye_rule: DecisionRule | None = None,
) -> Classifier:
    """A classifier from trained variables, as `oct_jax.train.loop.train` returns them.

    Args:
      model: that the variables are of.
      variables: as trained, or folded already.
      preprocess: from a scan to the model's input.
      task: the classes.
      rule: the decision rule; None leaves probabilities uncalibrated, without referral.
      grid: of these variables, where it is known.
      stage: that they were trained in.
      synthetic: whether they were trained on phantoms.
      provenance: where they come from; `Provenance(trained=ScanDigests.of(records))` names the
        training scans.
      eye_rule: the decision rule for eyes, where there is one.
    """
    folded, config = fold(variables, model)
    return Classifier(
        model=build(config),
        variables=jax.device_put(folded),
        preprocess=preprocess,
        synthetic=synthetic,
        stage=stage,
        rule=rule,
        stored_grid=grid,
        task=task,
        provenance=provenance,
        eye_rule=eye_rule,
    )


def read_classifier(path: Path) -> Classifier:
    """Reads a file that `Classifier.save` wrote; UserError in one line where it is none."""
    content = read_model(path)
    return classifier_of(
        content.config,
        content.variables,
        content.preprocess,
        task=content.task,
        rule=content.rule,
        grid=content.grid,
        stage=content.stage,
        synthetic=content.synthetic,
        provenance=content.provenance,
        eye_rule=content.eye_rule,
    )


def config_of(model: Model) -> ModelConfig:
    """The config that `build` makes a model from; UserError where nobody knows it."""
    if isinstance(model, NNXModel):
        return model.config
    if isinstance(model, PooledModel):
        return model  # which is its own config
    raise UserError(f"{type(model).__name__}: only models of a known config are saved as one file")
