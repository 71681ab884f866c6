"""Where a run comes from: versions, the state of the checkout, command, data, weights."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax


def provenance(data: Mapping[str, Any], weights: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Where a run comes from: command, versions, machine, git state, data and weights."""
    packages = ("oct-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    device = jax.devices()[0]
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} x {device.platform} {device.device_kind}",
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "git": _git_state(),
        "seed": seed,
        "data": dict(data),
        "weights": dict(weights),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the package's checkout and whether it was changed; None outside of one."""

    def git(*words: str) -> str:
        package = Path(__file__).resolve().parent
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
