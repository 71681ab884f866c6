"""`evaluate report`: checklists and cards from a run's own files."""

import shutil
import sys

import pytest

from oct_jax import load
from oct_jax.commands import entry as command
from oct_jax.commands.cli import evaluate as main
from oct_jax.reports.sheet.checklists import BLANK, counts, fill
from oct_jax.reports.sheet.items import CLAIM, TRIPOD_AI
from oct_jax.runs.facts import gather

FILES = ("CLAIM.md", "TRIPOD+AI.md", "MODEL_CARD.md", "DATA_CARD.md", "index.html")


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, words)])
    return command.run(main)


@pytest.fixture
def folder(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def test_a_run_that_was_not_evaluated_leaves_its_performance_blank(folder, monkeypatch, capsys):
    assert call(monkeypatch, "report", f"run={folder}") == 0
    told = capsys.readouterr().out
    assert "44 items" in told
    assert "52 items" in told
    assert "`just evaluate` first" in told
    sheet = {name: (folder / "report" / name).read_text() for name in FILES}
    assert "SYNTHETIC" in sheet["index.html"]
    rows = {line.split(" | ")[0].strip("| "): line for line in sheet["CLAIM.md"].splitlines()}
    assert BLANK in rows["32"]
    assert BLANK in rows["44"]
    assert "no patients" not in rows["20"]
    assert "0 of 24 patients" in rows["20"]
    assert "fill in" in sheet["MODEL_CARD.md"]


def test_an_evaluation_of_this_very_model_fills_it(folder, monkeypatch):
    assert call(monkeypatch, f"run={folder}", "resamples=10") == 0
    facts = gather(folder, load(folder))
    rows = {row.item.number: row.answer for row in fill(CLAIM, facts)}
    accuracy = facts.internal["figures"]["accuracy"]["value"]
    assert f"accuracy {accuracy:.3f} (" in rows["32"].words
    assert rows["32"].place == "evaluation/report.json"
    assert rows["33"] is None
    path = folder / "evaluation" / "report.json"
    path.write_text(path.read_text().replace(facts.model, "0" * 16))
    assert gather(folder, load(folder)).internal is None


def test_the_items_are_those_of_the_lists():
    assert [item.number for item in CLAIM] == [str(number) for number in range(1, 45)]
    assert len(TRIPOD_AI) == 52
    assert len({item.number for item in TRIPOD_AI}) == 52


def test_items_are_counted_by_what_is_missing(folder):
    rows = fill(CLAIM, gather(folder, load(folder)))
    blank = sum(row.answer is None for row in rows)
    assert counts(rows).endswith(f"{blank} left blank for people to fill in")


def test_a_folder_with_other_files_is_left_alone(folder, monkeypatch, capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert call(monkeypatch, "report", f"run={folder}", f"out={tmp_path / 'mine'}") == 2
    assert "did not make" in capsys.readouterr().err
    assert len(list((tmp_path / "mine").iterdir())) == 1
