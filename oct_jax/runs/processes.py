"""Several processes that train together, by `jax.distributed`: who joins, and who writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from oct_jax.types import UserError

_PLACE = re.compile(r"(?P<coordinator>.+:\d+)/(?P<index>\d+)/(?P<count>\d+)")


def join_processes(distributed: str | None) -> None:
    """Joins the other processes; must come before anything that asks JAX for its devices.

    Args:
      distributed: None for a process alone; `auto` where JAX itself finds the others (TPU pod,
        Slurm, Open MPI, Kubernetes); `HOST:PORT/INDEX/COUNT` names the coordinator's address
        (process 0 opens it), this process's index and how many there are.

    Raises:
      UserError: the word is none of these, or the others were not found.
    """
    if distributed is None:
        return
    place: dict[str, Any] = {}
    if distributed != "auto":
        match = _PLACE.fullmatch(distributed)
        if match is None or int(match["index"]) >= int(match["count"]):
            raise UserError(
                f"distributed={distributed}: must be auto, or HOST:PORT/INDEX/COUNT with INDEX"
                " from 0 to COUNT - 1"
            )
        place = {
            "coordinator_address": match["coordinator"],
            "process_id": int(match["index"]),
            "num_processes": int(match["count"]),
        }
    try:
        jax.distributed.initialize(**place)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"distributed={distributed}: cannot join the others ({reason})") from error


def is_writer() -> bool:
    """Whether this process writes the run folder and speaks: the first one does."""
    return jax.process_index() == 0


def write_once(write: Callable[[], None]) -> None:
    """Has the first process write; all go on when it has.

    It begins when all have come here, so that none still reads what was there before.

    Raises:
      UserError: in the other processes, where the first one failed.
    """
    if jax.process_count() == 1:
        write()
        return
    multihost_utils.sync_global_devices("before writing")
    failure: Exception | None = None
    if is_writer():
        try:
            write()
        except Exception as error:
            failure = error
    # The others must not wait for ever for a process that has failed.
    failed = multihost_utils.broadcast_one_to_all(np.asarray(failure is not None))
    if failure is not None:
        raise failure
    if failed:
        raise UserError("the first process could not write the run folder; its line says why")
