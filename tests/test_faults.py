"""A small part of the fault campaign, `experiments/faults.py`: nothing goes wrong in it."""

import importlib
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


def test_interruptions_know_every_command(tmp_path):
    commands = part("fault_parts.commands")
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


def test_a_killed_prepare_and_two_at_once(tmp_path):
    faults, interruptions = part("faults"), part("fault_parts.interruptions")
    references, work = tmp_path / "references", tmp_path / "work"
    digest, seconds = faults.reference("prepare", references)
    check_sound(interruptions.killed("prepare", work, references, digest, seconds, 2, seed=0))
    check_sound(interruptions.together("prepare", work, references, digest, seed=0))


def check_sound(tally) -> None:
    assert tally.slips == 0, tally.examples
    assert tally.tried > 0
