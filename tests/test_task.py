"""A task is a value: it survives JSON, and what is not a task is refused in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.task import (
    BUILT_IN,
    KERMANY,
    TIERS,
    ClassInfo,
    Task,
    from_json,
    named_task,
    of_folders,
    to_json,
)
from oct_jax.types import UserError

NAMES = st.lists(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 .+_-]{0,39}", fullmatch=True),
    min_size=2,
    max_size=12,
    unique_by=str.casefold,
)


@given(NAMES, st.data())
def test_json_round_trip(names, data):
    infos = tuple(
        ClassInfo(name, data.draw(st.sampled_from((None, *TIERS))), "a meaning", "#0072b2")
        for name in names
    )
    task = Task("mine", infos, "a source", (("urgent", "observe", data.draw(st.floats(0.1, 9))),))
    assert from_json(json.loads(json.dumps(to_json(task)))) == task
    assert hash(task) == hash(from_json(to_json(task)))


def test_built_in_tasks_refer_and_say_where_they_come_from():
    for task in BUILT_IN.values():
        assert task.refers
        assert all(task.tiers)
        assert task.source
        assert len(set(task.colours)) == len(task.colours)
    assert KERMANY.classes == ("CNV", "DME", "DRUSEN", "NORMAL")
    assert KERMANY.tiers == ("urgent", "urgent", "routine", "observe")
    assert len(BUILT_IN["octdl"].classes) == 7
    assert len(BUILT_IN["oct_c8"].classes) == 8


def test_folder_names_are_sorted_and_refer_nothing():
    task = of_folders(["b", "A", "c"])
    assert task.classes == ("A", "b", "c")
    assert not task.refers


def test_a_toml_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\n[[classes]]\nname = "ERM"\ntier = "routine"\n'
        '[[classes]]\nname = "ungradable"\n[penalties]\n"routine>observe" = 3\n'
    )
    task = named_task(str(path))
    assert task.tiers == ("routine", None)
    assert task.penalty("routine", "observe") == 3
    assert task.penalty("routine", "routine") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "`classes` must be"),
        ('name = "x"\nclasses = []', "must be 2 to"),
        ('name = "x"\n[[classes]]\nname = "A"\n[[classes]]\nname = "a"', "named twice"),
        ('name = "x"\n[[classes]]\nname = "A\\nB"\n[[classes]]\nname = "b"', "letters"),
        ('name = "x"\n[[classes]]\nname = "A"\ntier = "now"\n[[classes]]\nname = "b"', "tier"),
        ('name = "x"\n[[classes]]\nname = "A"\nrank = 1\n[[classes]]\nname = "b"', "unknown key"),
        ('name = "x"\n[[classes]]\nname = "A"\ncolour = "red"\n[[classes]]\nname = "b"', "#rrggbb"),
        ("name = [", "not a TOML file"),
    ],
)
def test_what_is_no_task_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        named_task(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["", "nosuch", "missing.toml", "folders"])
def test_unknown_tasks_are_refused(spec):
    with pytest.raises(UserError, match=f"task={spec}"):
        named_task(spec)
