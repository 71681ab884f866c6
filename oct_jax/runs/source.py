"""Which trained model a command works on: a run, a model file, or the starter; no JAX yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oct_jax.paths import expand_home
from oct_jax.runs.hub import PREFIX
from oct_jax.runs.paths import find_run, has_trained_run
from oct_jax.starter import NAME
from oct_jax.types import UserError

if TYPE_CHECKING:
    from oct_jax.classifier import Classifier

SUFFIX = ".safetensors"
STARTER_NOTE = (
    "no trained run under runs/: by the starter model, which is for a first look"
    " (its card: docs/starter.md)"
)


@dataclass(frozen=True)
class ModelSource:
    """A trained model that is there, and is not loaded yet.

    Attributes:
      name: as reports and lines call it.
      run: its run folder; None for a model file.
      note: a line that the user should see first; mostly empty.
    """

    name: str
    run: Path | None
    note: str = ""

    @property
    def folder(self) -> Path:
        """Where a command's files go by default: the run, or a folder with the model's name."""
        if self.run is not None:
            return self.run
        address = self.name.removeprefix(PREFIX).partition("@")[0]
        return Path(Path(address).name.removesuffix(SUFFIX))

    def load(self) -> Classifier:
        """The classifier; errors as of `oct_jax.runs.load.load`."""
        from oct_jax.runs.load import load, load_run

        return load(self.name) if self.run is None else load_run(self.run)

    def is_verified(self, classifier: Classifier, method: str, flip: bool) -> bool:
        """Whether heatmaps of this kind have passed a faithfulness report of this very model."""
        if self.run is None and classifier.provenance.is_verified(method, flip):
            return True
        from oct_jax.runs.verified import is_verified

        return is_verified(self.folder, classifier, method, flip)


def find_source(run: str | None, model: str | None) -> ModelSource:
    """The model that `run=` or `model=` names; without either the latest run, else the starter.

    Args:
      run: a run folder.
      model: a model file, `starter`, or `hf://owner/name`.

    Raises:
      UserError: both are given, or there is no such run or file.
    """
    if run is not None and model is not None:
        raise UserError(f"run={run} model={model}: give one of the two")
    if model is not None:
        return ModelSource(_checked(model), None)
    if run is None and not has_trained_run():
        return ModelSource(NAME, None, STARTER_NOTE)
    if run is not None and run.endswith(SUFFIX):
        raise UserError(f"run={run}: a model file is named by model=")
    folder = find_run(run)
    return ModelSource(str(folder), folder)


def _checked(model: str) -> str:
    if model == NAME or model.startswith(PREFIX):
        return model
    path = Path(expand_home(model))
    if path.is_dir():
        raise UserError(f"model={model}: is a folder; a run is named by run=")
    if path.suffix != SUFFIX or not path.is_file():
        raise UserError(
            f"model={model}: no such model file; give FILE{SUFFIX}, {NAME} or {PREFIX}owner/name"
        )
    return str(path)
