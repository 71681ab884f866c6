"""What every command does before its work."""

import errno
import io
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from oct_jax.commands.entry import make_console, run
from oct_jax.files import write_atomic
from oct_jax.types import UserError

TOUCH_TWICE = """
import resource
from oct_jax.commands.entry import keep_freed_memory

keep_freed_memory()
size = 2**27
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes_of_one = b"1" * size
    del bytes_of_one
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> list[int]:
    """Page faults of touching 128 MiB, and of touching as much again after they were freed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", TOUCH_TWICE],
        env=clean | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_page_faults():
    first, again = faults()
    assert again < first / 50


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_malloc_settings_in_the_environment_are_left_alone():
    first, again = faults(MALLOC_ARENA_MAX="2")
    assert again > first / 2


def failing(error: BaseException):
    def command(words: list[str]) -> None:
        print("a line before")
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("seed=x: must be a whole number"), "seed=x: must be a whole number"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "/a"), "/a: Read-only file system; choose"),
        (PermissionError(errno.EACCES, "Permission denied", b"/a"), "/a: Permission denied; check"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; allow more"),
        (OSError("two\nlines"), "two lines"),
        (MemoryError("Unable to allocate 1 TiB"), "out of memory: Unable to allocate 1 TiB; lower"),
        (MemoryError(), "out of memory: no more is free"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "standard output was closed"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_exit_code_2(error, line, capsys):
    assert run(failing(error)) == 2
    printed = capsys.readouterr()
    assert printed.out == "a line before\n"
    assert printed.err.startswith(f"error: {line}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [TypeError("x"), ValueError("x"), io.UnsupportedOperation("read")]
)
def test_a_defect_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run(failing(error))


def test_the_exit_code_of_a_command_is_kept():
    assert run(failing(SystemExit(1))) == 1


def test_too_large_an_array_is_one_line(capsys):
    import numpy as np

    assert run(lambda words: print(np.zeros((2**30, 2**20)))) == 2
    assert "out of memory: Unable to allocate" in capsys.readouterr().err


HELP = [sys.executable, "-m", "oct_jax.train", "--help"]


def test_help_may_be_read_in_part():
    with subprocess.Popen(HELP, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_standard_output_is_one_line():
    with FULL.open("w") as full:
        done = subprocess.run(HELP, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output: No space left on device")
    assert done.stderr.count("\n") == 1


PRINTS = """
from oct_jax.commands.entry import make_console, run

def command(words):
    for number in range(100_000):
        make_console().print("file", "\\udcff", number)

raise SystemExit(run(command))
"""


def test_a_closed_pipe_stops_a_command_with_one_line():
    words = [sys.executable, "-c", PRINTS]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"file \\udcff 0\n"
        process.stdout.close()
        lines = process.stderr.read().decode().splitlines()
    assert process.returncode == 2
    assert lines == ["error: standard output was closed before the command had finished"]


def test_a_failed_write_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / f"{'n' * 250}.json"
    write_atomic(path, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*nnn.json"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path(os.devnull)):
        with pytest.raises(OSError, match="not a regular file"):
            write_atomic(path, "content")
        assert not path.is_file()


def test_what_looks_like_markup_in_a_path_is_printed_as_it_is(capsys):
    console = make_console()
    console.print("runs/[x]/[red]:smile:")
    assert capsys.readouterr().out == "runs/[x]/[red]:smile:\n"
