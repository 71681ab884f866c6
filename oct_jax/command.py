"""What every command does around its work: read settings, tell mistakes in one line, exit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from oct_jax.config import HelpRequested
from oct_jax.files import cache_folder
from oct_jax.types import UserError


def run(command: Callable[[list[str]], None]) -> int:
    """Runs a command on the words of the command line.

    Returns:
      The exit code: 0; 2 after a mistake of the user's, told in one line; 130 after Ctrl-C.
    """
    try:
        _keep_compiled_programs()
        command(sys.argv[1:])
    except HelpRequested as help_text:
        print(help_text)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command takes up the work again", file=sys.stderr)
        return 130
    return 0


def _keep_compiled_programs() -> None:
    """Keeps what XLA compiles on disk, so that the second run of a command starts at once."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
