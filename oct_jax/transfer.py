"""First variables from a trained model file: `weights=starter`, or `weights=mine.safetensors`."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oct_jax.model.protocol import ModelConfig, Pretrained, Variables, build
from oct_jax.model_file import is_model_file, read_model
from oct_jax.paths import expand_home
from oct_jax.provenance import Provenance
from oct_jax.starter import MODEL, NAME
from oct_jax.task import Task

TRAINED_ON = "trained_on"
"""In a weight source: digests of the scans that the weights were trained on, and of patients."""


def model_file_of(spec: str) -> Path | None:
    """The model file that `weights=` names; None where it names something else."""
    if spec == NAME:
        return MODEL
    path = Path(expand_home(spec))
    return path if is_model_file(path) else None


def load_pretrained(path: Path, task: Task, *, seed: int) -> Pretrained:
    """The variables of a trained model, for another training to begin from.

    BatchNorm is folded in a model file and stays so: the convolutions' kernels and biases learn.
    Where the classes are not the same, the last layer is fresh.

    Args:
      path: of a model file.
      task: the classes to train for.
      seed: of a fresh last layer.

    Raises:
      UserError: the file is not a model file, or is damaged.
    """
    content = read_model(path)
    config: ModelConfig = dataclasses.replace(
        content.config, num_classes=len(task.classes), dtype="float32"
    )
    params = content.variables.params
    note = f"{path.name}, a trained model of task {content.task.name}"
    if content.task.classes == task.classes:
        note += "; its last layer is kept"
    else:
        fresh = jax.tree.map(np.asarray, build(config).init(seed)).params["head"]["classifier"]
        params = params | {"head": params["head"] | {"classifier": fresh}}
        note += f"; its last layer is fresh from seed {seed}"
    if content.synthetic:
        note += "; it was trained on phantoms"
    return Pretrained(
        variables=jax.tree.map(jnp.asarray, Variables(params, content.variables.stats)),
        config=config,
        mean=content.preprocess.mean,
        std=content.preprocess.std,
        source=_source(path, content.synthetic, content.provenance),
        note=note,
    )


def _source(path: Path, synthetic: bool, provenance: Provenance) -> dict[str, Any]:
    known = ("name", "licence", "weights", "initial_weights")
    return {
        "name": "model file",
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "synthetic": synthetic,
        "model": {name: provenance.facts[name] for name in known if name in provenance.facts},
        TRAINED_ON: {
            "scans": " ".join(sorted(provenance.trained.scans)),
            "patients": " ".join(sorted(provenance.trained.patients)),
        },
    }
