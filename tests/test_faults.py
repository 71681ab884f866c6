"""A small part of the fault campaign, `experiments/faults.py`: nothing goes wrong in it."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from narrow_run import make_run

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def part(name: str):
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXPERIMENTS))


def check(tally) -> None:
    assert tally.slips == 0, tally.examples
    assert tally.tried >= tally.refused > 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "16-bit"])
def test_mutated_pictures(kind):
    check(part("fault_parts.pictures").mutated_pictures(kind, 100, seed=0))


def test_bad_settings(monkeypatch):
    settings = part("fault_parts.settings")
    monkeypatch.setattr(settings, "VALUES", settings.VALUES[::6])
    check(settings.bad_settings())


@pytest.mark.parametrize("container", ["safetensors", "pth", "h5"])
def test_mutated_weight_files(container):
    check(part("fault_parts.files").mutated_weights(container, 100, seed=0))


def test_bad_archives():
    check(part("fault_parts.files").mutated_archives(50, seed=0))


def test_a_damaged_manifest_of_a_run(tmp_path):
    run = make_run(tmp_path / "run")
    check(part("fault_parts.runs").damaged_run(run, 0, "manifest.csv"))


def test_finished_parts_are_not_repeated(tmp_path, monkeypatch):
    faults = part("faults")
    words = [f"out={tmp_path}", "pictures=200000", "parts=pictures"]
    tried = []
    row = {"tried": 1, "refused": 1, "examples": [], "seconds": 0.1}
    row |= dict.fromkeys(("tracebacks", "half_written", "lost", "wrong"), 0)
    monkeypatch.setattr(faults, "run_part", lambda made: tried.append(made) or row)
    faults.main(words)
    assert len(tried) == 10
    faults.main(words)
    assert len(tried) == 10
    faults.main([*words[:1], "pictures=300000", "parts=pictures"])
    assert len(tried) == 15


def test_interruptions_know_every_command(tmp_path, monkeypatch):
    commands = part("fault_parts.commands")
    monkeypatch.setattr(commands, "in_child", lambda function, *arguments: function(*arguments))
    references = tmp_path / "references"
    for name in ("frozen", "narrow"):
        (references / name / "run").mkdir(parents=True)
    for name in commands.WORKS:
        folder = tmp_path / name
        commands.begin(name, folder, references)
        tally = part("fault_parts.tally").Tally()
        commands.check_left(tally, name, folder, name)
        assert tally.slips == 0
        (folder / "half.json").write_text("{")
        commands.check_left(tally, name, folder, name)
        assert tally.half_written == 1
        (folder / "mine.txt").unlink()
        commands.check_mine(tally, name, folder, name)
        assert tally.lost == 1


# In a process of its own, for commands are forked from one without threads of JAX.
INTERRUPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import faults
from fault_parts import interruptions
out = Path(sys.argv[2])
digest, seconds = faults.reference("prepare", out)
place = ("prepare", out / "work", out, digest)
killed = interruptions.killed(*place, seconds, 3, seed=0)
together = interruptions.together(*place)
for tally in (killed, together):
    print(tally.tried > 0, tally.slips, tally.examples)
"""


def test_a_killed_prepare_and_two_at_once(tmp_path):
    words = [sys.executable, "-c", INTERRUPT, str(EXPERIMENTS), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["True 0 []"] * 2
