"""Where downloads and compiled programs are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "OCT_JAX_CACHE"
"""Environment variable that names another cache folder."""


def cache_folder() -> Path:
    """The folder `$OCT_JAX_CACHE`, else the user's cache folder; need not exist yet."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else platformdirs.user_cache_path("oct_jax", False)


def keep_compiled_programs() -> None:
    """Has JAX keep what XLA compiles on disk, so that the second run of a command starts at once.

    Sets environment variables, which JAX reads when it is imported: call it before that. A folder
    that the environment names already stays.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache_folder() / "compiled")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
