"""Words to scans and to the names of their pages."""

import shutil
from pathlib import Path

import pytest

from oct_jax.commands.scan_files import find_jobs
from oct_jax.types import UserError


def names(jobs, root):
    return [(str(job.scan.relative_to(root)), str(job.output.relative_to(root))) for job in jobs]


def test_a_folder_is_searched_and_its_pages_are_no_scans(scans):
    (scans / "a.explained.png").write_bytes(b"")
    (scans / ".hidden.png").write_bytes(b"")
    (scans / "notes.txt").write_text("")
    (scans / "a.explained.json").write_text("{}")
    jobs = find_jobs([str(scans)], None)
    assert names(jobs.scans, scans) == [("a.png", "a"), ("b.png", "b"), ("more/c.png", "more/c")]
    assert jobs.folders == (scans,)
    assert jobs.skipped == (scans / "notes.txt",)
    (line,) = jobs.lines()
    assert line.startswith("1 files skipped, whose endings are not .jpeg, ")
    assert line.endswith("notes.txt")


def test_out_keeps_the_subfolders_of_a_searched_folder(scans, tmp_path):
    jobs = find_jobs([str(scans)], tmp_path / "out").scans
    pages = [str(job.output.relative_to(tmp_path)) for job in jobs]
    assert pages == [
        "out/a",
        "out/b",
        "out/more/c",
    ]


def test_files_and_patterns_are_taken_once(scans):
    jobs = find_jobs([str(scans / "a.png"), str(scans / "*.png")], None)
    assert names(jobs.scans, scans) == [("a.png", "a"), ("b.png", "b")]
    assert jobs.folders == ()
    assert jobs.lines() == []


def test_same_stems_keep_their_endings(scans):
    shutil.copy(scans / "a.png", scans / "a.tif")
    jobs = find_jobs([str(scans)], None).scans
    assert {job.output.name for job in jobs} == {"a.png", "a.tif", "b", "c"}


def test_two_scans_never_write_the_same_page(scans, tmp_path):
    shutil.copy(scans / "a.png", scans / "more" / "a.png")
    words = [str(scans / "a.png"), str(scans / "more" / "a.png")]
    with pytest.raises(UserError, match="the same page"):
        find_jobs(words, tmp_path / "out")


@pytest.mark.parametrize(
    ("word", "message"),
    [("none.png", "no such file"), ("*.bmp", "matches no"), ("empty", "holds no scans")],
)
def test_words_that_name_nothing(word, message, scans):
    (scans / "empty").mkdir()
    with pytest.raises(UserError, match=message) as error:
        find_jobs([str(Path(scans) / word)], None)
    assert "\n" not in str(error.value)


def test_an_empty_word_does_not_mean_this_folder(scans, monkeypatch):
    monkeypatch.chdir(scans)
    with pytest.raises(UserError, match="empty argument"):
        find_jobs([""], None)
