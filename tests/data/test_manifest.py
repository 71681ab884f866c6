"""A manifest survives its file, its digest knows content from order, and mistakes name a line."""

import csv
import hashlib
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.data.manifest import (
    COLUMNS,
    Record,
    column_names,
    manifest_digest,
    read_manifest,
    summarize,
    values_of,
    verify,
    write_manifest,
)
from oct_jax.task import KERMANY
from oct_jax.types import SPLITS, UserError

SHA = hashlib.sha256(b"scan").hexdigest()
RECORD = Record("CNV/CNV-1-1.jpeg", "CNV", "1", "train", 512, 496, 4, SHA)

# Names as file systems hold them: commas, quotes, blanks, any script, even bytes that are no UTF-8.
letters = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/")
lone_bytes = st.integers(0xDC80, 0xDCFF).map(chr)
names = st.text(st.one_of(letters, st.sampled_from("\"', ;"), lone_bytes), min_size=1)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
# Lone bytes that happen to spell a character come back as that character, as in file systems.
paths = paths.map(lambda p: p.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"))
plain_paths = paths.filter(lambda p: p == str(PurePosixPath(p)) and ".." not in p.split("/"))
plain_paths = plain_paths.filter(lambda p: p != ".")
positive = st.integers(1, 10**9)
# As dictionaries: making a record checks its types by chance, which Hypothesis wants to own.
record_values = st.fixed_dictionaries(
    {
        "path": plain_paths,
        "label": st.sampled_from(["", *KERMANY.classes]),
        "patient": names.map(lambda n: n.encode("utf-8", "replace").decode()),
        "split": st.sampled_from(["", *SPLITS]),
        "width": positive,
        "height": positive,
        "bytes": positive,
        "sha256": st.binary().map(lambda data: hashlib.sha256(data).hexdigest()),
    }
)
record_lists = st.lists(record_values, max_size=6, unique_by=lambda values: values["path"])


@given(values=record_lists, sex=st.sampled_from([None, "", "F", "\"a,'b"]))
def test_round_trip(values, sex, tmp_path_factory):
    more = () if sex is None else (("sex", sex),)
    records = [Record(**each, more=more) for each in values]
    path = tmp_path_factory.mktemp("manifest") / "manifest.csv"
    write_manifest(records, path)
    assert read_manifest(path) == tuple(records)
    assert path.read_bytes().count(b"\n") == len(records) + 1
    assert b"\r" not in path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["manifest.csv"]


@given(values=record_lists, random=st.randoms(use_true_random=False))
def test_digest_ignores_order(values, random):
    records = [Record(**each) for each in values]
    shuffled = list(records)
    random.shuffle(shuffled)
    assert manifest_digest(shuffled) == manifest_digest(records)


@pytest.mark.parametrize(
    "change",
    [{"label": "DME"}, {"patient": "2"}, {"split": "test"}, {"path": "b"}, {"sha256": "0" * 64}],
)
def test_digest_knows_content(change):
    assert manifest_digest([RECORD]) != manifest_digest([replace(RECORD, **change)])
    assert manifest_digest([RECORD]) != manifest_digest([RECORD, replace(RECORD, **change)])


def test_columns_of_ones_own_come_back(tmp_path):
    path = tmp_path / "manifest.csv"
    record = replace(RECORD, laterality="R", more=(("age group", "60-69"), ("sex", "F")))
    write_manifest([record, replace(RECORD, path="b")], path)
    first, second = read_manifest(path)
    assert first == record
    assert second.more == (("age group", ""), ("sex", ""))
    assert values_of([first, second], "sex") == ["F", ""]
    assert values_of([first], "shoe size") is None
    assert column_names([first])[-3:] == ("laterality", "age group", "sex")
    assert manifest_digest([record]) != manifest_digest([replace(record, more=())])


@pytest.mark.parametrize("own", ["sex,sex", "sex,", "device"])
def test_columns_of_ones_own_have_names_of_their_own(tmp_path, own):
    path = tmp_path / "manifest.csv"
    path.write_text(",".join(COLUMNS) + f",{own}\n")
    with pytest.raises(UserError, match="line 1"):
        read_manifest(path)


def test_digest_is_fixed():
    text = f'[["CNV/CNV-1-1.jpeg","CNV","1","train",512,496,4,"{SHA}"]]'
    assert manifest_digest([RECORD]) == hashlib.sha256(text.encode()).hexdigest()


def test_other_programs_can_read_and_write_it(tmp_path):
    path = tmp_path / "manifest.csv"
    write_manifest([RECORD], path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["patient"] == "1"
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # as a spreadsheet saves it
        writer = csv.DictWriter(file, COLUMNS, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    assert b"\r\n" in path.read_bytes()
    assert read_manifest(path) == (RECORD,)


LINE = ["CNV/a.png", "CNV", "1", "train", "512", "496", "4", SHA]


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("path", "", "path ''"),
        ("path", "/etc/passwd", "plain path below the data root"),
        ("path", "CNV/../../a.png", "plain path below the data root"),
        ("path", "CNV//a.png", "plain path below the data root"),
        ("path", "CNV/a\nb.png", "line break"),
        ("patient", "", "patient is empty"),
        ("split", "valid", "split is 'valid', not one of train, val, calibration, test"),
        ("width", "wide", "width is 'wide', not a whole number"),
        ("height", "-1", "height is '-1'"),
        ("height", "0", "must be positive"),
        ("bytes", "1.5", "bytes is '1.5'"),
        ("bytes", "9" * 5000, "bytes is '999"),
        ("sha256", "abc", "sha256 is 'abc'"),
        ("sha256", SHA.upper(), "not 64 lower-case hex digits"),
    ],
)
def test_a_bad_value_names_file_and_line(tmp_path, column, value, told):
    path = tmp_path / "manifest.csv"
    bad = dict(zip(COLUMNS, LINE, strict=True)) | {column: value}
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, ["other.png", *LINE[1:]], bad.values()])
    with pytest.raises(UserError) as raised:
        read_manifest(path)
    message = str(raised.value)
    assert message.startswith(f"{path} line 3: ")
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: the header must be path,label"),
        ("path,label\n", "line 1: the header must be path,label"),
        (",".join(COLUMNS) + "\na,b\n", "line 2: 2 fields instead of 8"),
        (",".join(COLUMNS) + "\n\n", "line 2: 0 fields instead of 8"),
        (",".join(COLUMNS) + '\n"a"b,c\n', "cannot read manifest"),
        ("\n".join([",".join(COLUMNS), ",".join(LINE), ",".join(LINE)]), "is on line 2 already"),
    ],
)
def test_bad_files(tmp_path, text, told):
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        read_manifest(path)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read manifest .*none\.csv"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(UserError, match="cannot write manifest"):
        write_manifest([RECORD], tmp_path / "none" / "manifest.csv")


def test_a_bad_record_leaves_the_old_file(tmp_path):
    path = tmp_path / "manifest.csv"
    write_manifest([RECORD], path)
    with pytest.raises(UserError, match="line break"):
        write_manifest([replace(RECORD, path="a\rb")], path)
    assert read_manifest(path) == (RECORD,)


def test_verify_lists_missing_and_changed(tmp_path):
    records = []
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(b"scan")
        records.append(replace(RECORD, path=f"{number}.png"))
    told = []
    verify(records, tmp_path, lambda *step: told.append(step))
    assert told[-1] == (7, 7)
    for number in range(5):
        (tmp_path / f"{number}.png").unlink()
    (tmp_path / "6.png").write_bytes(b"scaN")
    with pytest.raises(UserError) as raised:
        verify(records, tmp_path)
    message = str(raised.value)
    assert "5 missing (0.png, 1.png, 2.png and 2 more); 1 changed (6.png)" in message
    assert "\n" not in message


def test_summarize():
    assert summarize(["a", "b", "c"]) == "a, b, c"
    assert summarize(["a", "b", "c", "d"], "; ") == "a; b; c and 1 more"
