"""The best checkpoint of a stage, read back: what all that uses a trained model needs.

Apart from `checkpoint`, which needs the data loader to save its position.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from oct_jax.files import convert
from oct_jax.model.protocol import Variables, check_variables, path_name
from oct_jax.runs.checksums import ChecksummedPath, damage_of
from oct_jax.runs.paths import has_best, is_step
from oct_jax.types import UserError

_REMEDY = "restore it from a copy, or train this stage anew"


def restore_best(stage_folder: Path, variables: Variables) -> tuple[Variables, dict[str, Any]]:
    """The best variables of a stage, as NumPy arrays, and what was saved with them.

    Args:
      stage_folder: `runs/<name>/<stage>`.
      variables: arrays or `jax.ShapeDtypeStruct`s of the shapes that are expected.

    Raises:
      UserError: the stage has no best checkpoint, a damaged one, or one of another model.
    """
    if not has_best(stage_folder):
        raise UserError(f"{stage_folder}: no finished epoch here; train this stage first")
    step = max(int(entry.name) for entry in (stage_folder / "best").glob("*") if is_step(entry))
    folder = stage_folder / "best" / str(step)
    damage = damage_of(folder)
    if damage is not None:
        raise UserError(f"{folder}: damaged ({damage}); {_REMEDY}")
    with contextlib.closing(best_manager(stage_folder, read_only=True)) as manager:
        try:
            restored = manager.restore(
                step,
                args=ocp.args.Composite(
                    variables=ocp.args.StandardRestore(jax.tree.map(_on_host, variables._asdict())),
                    meta=ocp.args.JsonRestore(),
                ),
            )
        except (MemoryError, UserError):
            raise
        except Exception as error:  # Orbax and TensorStore raise types of their own
            raise UserError(
                f"{folder}: damaged, or not of the model that config.json describes"
                f" ({' '.join(str(error).split())[:200]}); {_REMEDY}"
            ) from error
    stored = Variables(**restored["variables"])
    _check_shapes(stored, variables, folder)
    check_variables(stored, str(folder))
    meta = convert(restored["meta"], dict[str, int | float], f"{folder}/meta", remedy=_REMEDY)
    return stored, meta


def best_manager(stage_folder: Path, *, read_only: bool = False) -> ocp.CheckpointManager:
    """Orbax's manager of a stage's best checkpoint."""
    options = manager_options(keep=1, read_only=read_only)
    return ocp.CheckpointManager(stage_folder.absolute() / "best", options=options)


def manager_options(*, keep: int, read_only: bool = False) -> ocp.CheckpointManagerOptions:
    """Options of all managers: checkpoints get checksums, and what a kill left half is removed."""
    return ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else keep,
        read_only=read_only,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        temporary_path_class=ChecksummedPath,
        lightweight_initialize=True,
    )


def _check_shapes(stored: Variables, expected: Variables, folder: Path) -> None:
    # Orbax takes the shapes of the file, whatever it is asked for.
    wanted, _ = jax.tree_util.tree_flatten_with_path(expected._asdict())
    actual = jax.tree.leaves(stored._asdict())
    for (path, leaf), array in zip(wanted, actual, strict=True):
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise UserError(
                f"{folder}: not of the model that config.json describes: {path_name(path[1:])} is"
                f" {array.dtype} of shape {array.shape} instead of {leaf.shape}; restore"
                " config.json"
            )


def _on_host(leaf: Any) -> np.ndarray:
    """Asks Orbax for a NumPy array: where it was on devices, they may be of another machine."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
