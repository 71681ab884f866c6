"""What every command does before its work."""

import os
import platform
import subprocess
import sys

import pytest

TOUCH_TWICE = """
import resource
from oct_jax.command import keep_freed_memory

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
