"""What every command does around its work: read settings, turn errors into one line, exit.

A mistake of the user's (`UserError`) and what the operating system refuses (`OSError`: a full disk,
a missing permission; `MemoryError`) end in one line and exit code 2. Any other exception is a
defect of the program and keeps its traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import gc
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from oct_jax.cache import keep_compiled_programs
from oct_jax.commands.parsing import HelpRequested
from oct_jax.types import UserError

if TYPE_CHECKING:
    from rich.console import Console

# What to do about an error of the operating system, by its number.
_REMEDIES = {
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "free some space, then run the same command again",
    errno.EROFS: "choose a folder on a file system that can be written to",
    errno.EACCES: "check its permissions, or choose another folder",
    errno.EPERM: "check its permissions, or choose another folder",
    errno.EMFILE: "allow more open files with `ulimit -n`",
    errno.ENFILE: "close other programs: the system has no file handles left",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def run(command: Callable[[list[str]], None]) -> int:
    """Runs a command on the arguments of the command line.

    Returns:
      The exit code: 0; 2 after an error that the user can mend, printed as one line; 130 after
      Ctrl-C; or the command's own, where it raises `SystemExit`.
    """
    keep_freed_memory()
    keep_libraries_quiet()
    collect_garbage_seldom()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names need not be valid text; printing one must not fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(command)
        _print("")
    except HelpRequested as help_text:
        return _print_help(str(help_text))
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:
        return _fail("standard output was closed before the command had finished")
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except Exception as error:
        line = environment_error(error)
        if line is None:
            raise
        return _fail(line)
    return code


def environment_error(error: BaseException) -> str | None:
    """One line about an error of the operating system or of memory; None for any other error."""
    if isinstance(error, MemoryError) or _is_device_memory_error(error):
        reason = " ".join(str(error).split())[:200] or "no more is free"
        return f"out of memory: {reason}; lower sizes or counts, or use a machine with more"
    # A file object used the wrong way is a defect, although Python files it under OSError.
    if not isinstance(error, OSError) or isinstance(error, io.UnsupportedOperation):
        return None
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    remedy = f"; {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
    return f"{place}{reason}{remedy}"


def make_console(*, quiet: bool = False) -> Console:
    """The console of a command; a closed pipe is an error.

    Text is printed as it is: paths stay on one line, and `[x]` or `:x:` in one is no markup.
    """
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            raise  # Rich would exit without a word; `run` reports it

    return PipeConsole(soft_wrap=True, highlight=False, markup=False, emoji=False, quiet=quiet)


def _run(command: Callable[[list[str]], None]) -> int:
    keep_compiled_programs()
    try:
        command(sys.argv[1:])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _print(text: str) -> None:
    """Prints text, all of it; an error names standard output."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def _print_help(text: str) -> int:
    try:
        _print(f"{text}\n")
    except BrokenPipeError:  # `--help | head -1` has read what it wanted
        _flush_output()
    except OSError as error:
        return _fail(str(environment_error(error)))
    return 0


def _fail(line: str) -> int:
    _flush_output()
    with contextlib.suppress(OSError):
        print("error:", *line.splitlines(), file=sys.stderr, flush=True)
    return 2


def _flush_output() -> None:
    """Prints what is buffered; where that fails, drops it, for Python would fail on it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_device_memory_error(error: Any) -> bool:
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(error, jax.errors.JaxRuntimeError):
        return False
    return "RESOURCE_EXHAUSTED" in str(error)


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


def collect_garbage_seldom() -> None:
    """Has Python look for reference cycles after 100,000 new objects instead of 700.

    Imports and tracing make hundreds of thousands of objects that stay. At exit Python would look
    through all of them once more; it need not (`gc.freeze`). The two took `explain` of one scan
    from 2.6 to 1.9 s of CPU time. Arrays are freed by their reference counts all the same.
    """
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)


def keep_libraries_quiet() -> None:
    """Settings of other libraries, made before they are imported; one's own environment wins."""
    # The loader runs a scan per thread: OpenCV's own threads would only get in the way.
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    # Pillow warns of odd metadata; here a scan is either readable or refused with a reason.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # Orbax reports each save, and TFDS every configuration but its own; errors are raised as well.
    logging.getLogger("absl").setLevel(logging.CRITICAL)


# Of <malloc.h>: one heap for all threads (M_ARENA_MAX), nothing mapped apart from it (M_MMAP_MAX),
# and nothing of it given back (M_TRIM_THRESHOLD).
_MALLOC = {-8: 1, -4: 0, -1: -1}
