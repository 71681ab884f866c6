"""What every command does around its work: read settings, tell mistakes in one line, exit."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

from oct_jax.cache import keep_compiled_programs
from oct_jax.config import HelpRequested
from oct_jax.types import UserError


def run(command: Callable[[list[str]], None]) -> int:
    """Runs a command on the words of the command line.

    Returns:
      The exit code: 0; 2 after a mistake of the user's, told in one line; 130 after Ctrl-C.
    """
    keep_freed_memory()
    try:
        keep_compiled_programs()
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


def keep_freed_memory() -> None:
    """Has glibc keep freed memory for the next request, before any thread is started.

    XLA asks for a program's temporaries anew at every call: 1 GB for a training step on a CPU. By
    default glibc maps memory of that size freshly and unmaps it afterwards, and every page of it
    is zeroed by the kernel at its first touch. Kept in one heap, it is paid for once.
    Settings of one's own, in the environment, are left alone; elsewhere than on glibc nothing is
    done.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for name, value in _MALLOC.items():
            mallopt(name, value)


# Of <malloc.h>: one heap for all threads (M_ARENA_MAX), nothing mapped apart from it (M_MMAP_MAX),
# and nothing of it given back (M_TRIM_THRESHOLD).
_MALLOC = {-8: 1, -4: 0, -1: -1}
