"""The best checkpoint of a stage, read back: what all that uses a trained model needs.

Apart from `checkpoint`, which needs the data loader to save its position.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from oct_jax.model.protocol import Variables
from oct_jax.types import UserError

# Orbax reports each save and every handler it has to guess at WARNING.
logging.getLogger("absl").setLevel(logging.ERROR)


def restore_best(stage_folder: Path, variables: Variables) -> tuple[Variables, dict[str, Any]]:
    """The best variables of a stage, and what was saved with them.

    Args:
      stage_folder: `runs/<name>/<stage>`.
      variables: arrays or `jax.ShapeDtypeStruct`s of the shapes that are expected.

    Raises:
      UserError: the stage has no best checkpoint, or one of another model.
    """
    if not has_best(stage_folder):
        raise UserError(f"{stage_folder}: no finished epoch here; train this stage first")
    with contextlib.closing(best_manager(stage_folder)) as manager:
        try:
            restored = manager.restore(
                manager.latest_step(),
                args=ocp.args.Composite(
                    variables=ocp.args.StandardRestore(jax.tree.map(abstract, variables._asdict())),
                    meta=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{stage_folder}: the checkpoint is not of the model that config.json describes"
                f" ({' '.join(str(error).split())[:200]})"
            ) from error
    return Variables(**restored["variables"]), restored["meta"]


def has_best(stage_folder: Path) -> bool:
    """Whether the stage has a whole best checkpoint."""
    return any(entry.name.isdigit() for entry in (stage_folder / "best").glob("*"))


def best_manager(stage_folder: Path) -> ocp.CheckpointManager:
    """Orbax's manager of a stage's best checkpoint."""
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    return ocp.CheckpointManager(stage_folder.absolute() / "best", options=options)


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape, type and placement of an array."""
    sharding = getattr(leaf, "sharding", None)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
