"""Words to scans and to the names of their pages."""

import shutil
from pathlib import Path

import pytest

from oct_jax.commands.scan_files import find_tasks
from oct_jax.types import UserError


def names(tasks, root):
    return [(str(t.scan.relative_to(root)), str(t.output.relative_to(root))) for t in tasks]


def test_a_folder_is_searched_and_its_pages_are_no_scans(scans):
    (scans / "a.explained.png").write_bytes(b"")
    (scans / ".hidden.png").write_bytes(b"")
    (scans / "notes.txt").write_text("")
    (scans / "a.explained.json").write_text("{}")
    found = find_tasks([str(scans)], None)
    assert names(found.tasks, scans) == [("a.png", "a"), ("b.png", "b"), ("more/c.png", "more/c")]
    assert found.folders == (scans,)
    assert found.skipped == (scans / "notes.txt",)
    (line,) = found.lines()
    assert line.startswith("1 files skipped, whose endings are not .jpeg, ")
    assert line.endswith("notes.txt")


def test_out_keeps_the_subfolders_of_a_searched_folder(scans, tmp_path):
    tasks = find_tasks([str(scans)], tmp_path / "out").tasks
    assert [str(t.output.relative_to(tmp_path)) for t in tasks] == ["out/a", "out/b", "out/more/c"]


def test_files_and_patterns_are_taken_once(scans):
    found = find_tasks([str(scans / "a.png"), str(scans / "*.png")], None)
    assert names(found.tasks, scans) == [("a.png", "a"), ("b.png", "b")]
    assert found.folders == ()
    assert found.lines() == []


def test_same_stems_keep_their_endings(scans):
    shutil.copy(scans / "a.png", scans / "a.tif")
    tasks = find_tasks([str(scans)], None).tasks
    assert {t.output.name for t in tasks} == {"a.png", "a.tif", "b", "c"}


def test_two_scans_never_write_one_page(scans, tmp_path):
    shutil.copy(scans / "a.png", scans / "more" / "a.png")
    words = [str(scans / "a.png"), str(scans / "more" / "a.png")]
    with pytest.raises(UserError, match="one page"):
        find_tasks(words, tmp_path / "out")


@pytest.mark.parametrize(
    ("word", "said"),
    [("none.png", "no such file"), ("*.bmp", "matches no"), ("empty", "holds no scans")],
)
def test_words_that_name_nothing(word, said, scans):
    (scans / "empty").mkdir()
    with pytest.raises(UserError, match=said) as error:
        find_tasks([str(Path(scans) / word)], None)
    assert "\n" not in str(error.value)


def test_an_empty_word_does_not_mean_this_folder(scans, monkeypatch):
    monkeypatch.chdir(scans)
    with pytest.raises(UserError, match="empty argument"):
        find_tasks([""], None)
