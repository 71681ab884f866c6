"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "OCT_JAX_CACHE"
"""Environment variable that names another cache folder."""


def cache_folder() -> Path:
    """Where downloads and compiled programs are kept: `$OCT_JAX_CACHE`, else the user's cache."""
    import pooch  # half a second that reading and writing a file should not cost

    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path(pooch.os_cache("oct_jax"))


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes beside `path` and renames: a reader sees the old file or the new one, never half."""
    data = content.encode() if isinstance(content, str) else content
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON value atomically, indented for people."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file."""
    return json.loads(path.read_text())
