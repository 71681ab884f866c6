"""Commands on a disk that is full or read-only: one line, exit code 2, and all as it was."""

import shutil
import sys

import pytest
from disks import FILLER, contents, fill, protect, resize

from oct_jax.commands import cli, entry
from oct_jax.export import bundle, quantize
from oct_jax.export.graph import make_graphs
from oct_jax.runs.load import load

COMMANDS = {
    "recalibrate": (cli.evaluate, ["recalibrate"]),
    "evaluate": (cli.evaluate, ["resamples=10"]),
    "explain report": (cli.explain, ["report", "scans=8", "steps=3"]),
    "export": (cli.export, ["calibration_scans=8"]),
}


@pytest.fixture(scope="module")
def graphs(run):
    return make_graphs(load(run))


@pytest.fixture
def on_disk(run, small_disk):
    resize(small_disk, "30M")
    return shutil.copytree(run, small_disk / "run")


@pytest.fixture(params=COMMANDS)
def call(request, on_disk, graphs, monkeypatch, capsys):
    """Runs a command on the run; returns its exit code and what it says on standard error."""
    command, words = COMMANDS[request.param]
    monkeypatch.setattr(quantize, "RECIPES", quantize.RECIPES[:1])
    monkeypatch.setattr(bundle, "make_graphs", lambda classifier: graphs)
    monkeypatch.setattr(sys, "argv", ["command", *words, f"run={on_disk}"])

    def call():
        code = entry.run(command)
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("free", [0, 8192], ids=["full", "two pages free"])
def test_a_full_disk_is_one_line_and_the_command_goes_on_once_there_is_room(
    call, free, on_disk, small_disk
):
    before = contents(on_disk)
    fill(small_disk, free)
    code, errors = call()
    assert (code, errors.count("\n")) == (2, 1), errors
    assert "No space left on device" in errors or "the disk is full" in errors
    assert str(on_disk) in errors
    assert contents(on_disk) == before
    if free:
        (small_disk / FILLER).unlink()
        assert call() == (0, "")
        assert contents(on_disk).keys() > before.keys()


def test_a_read_only_disk_is_one_line(call, on_disk, small_disk):
    before = contents(on_disk)
    protect(small_disk)
    code, errors = call()
    assert (code, errors.count("\n")) == (2, 1), errors
    assert f"{on_disk}" in errors
    assert "Read-only file system" in errors
    assert contents(on_disk) == before
