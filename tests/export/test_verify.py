"""A bundle is closed: whatever is added, taken away, renamed, swapped or damaged is named."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from test_bundle import seal

from oct_jax.export import verify
from oct_jax.export.bundle import sums_of
from oct_jax.files import read_json, write_json


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def problems_of(folder: Path, capsys) -> list[str]:
    assert verify.main([str(folder)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


@pytest.mark.parametrize(
    "name", ["numpy.py", "other.onnx", "golden/extra.pgm", ".hidden", "deep/er/file", "é\n.txt"]
)
def test_an_added_file_is_named(copy, name, capsys):
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_text("x")
    shown = name.replace("\n", "?")
    assert problems_of(copy, capsys) == [
        f"{shown}: not part of the bundle (not in SHA256SUMS)",
    ]


@pytest.mark.parametrize("name", ["numpy.py", "other.onnx", "classifier.ort"])
def test_an_added_file_is_named_even_where_the_sums_list_it(copy, name, capsys):
    (copy / name).write_text("x")
    (copy / "SHA256SUMS").write_text(sums_of(copy))
    assert problems_of(copy, capsys) == [f"{name}: not part of a bundle"]


def test_a_renamed_file_is_named_with_its_former_name(copy, capsys):
    (copy / "classifier_mobile.onnx").rename(copy / "phone.onnx")
    (problem,) = problems_of(copy, capsys)
    assert problem == "phone.onnx: renamed, was classifier_mobile.onnx"


def test_a_link_is_no_part_of_a_bundle(copy, capsys):
    (copy / "README.md").unlink()
    (copy / "README.md").symlink_to("/etc/passwd")
    assert problems_of(copy, capsys) == ["README.md: not a regular file"]


@pytest.mark.parametrize("name", ["README.md", "classifier.onnx", "golden/cnv.pgm", "verify.py"])
def test_a_line_removed_from_the_sums_is_noticed(copy, name, capsys):
    lines = (copy / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copy / "SHA256SUMS").write_text("".join(line for line in lines if f"  {name}\n" not in line))
    assert problems_of(copy, capsys) == [f"{name}: not part of the bundle (not in SHA256SUMS)"]
    (copy / name).unlink()
    assert problems_of(copy, capsys) == [f"{name}: not in SHA256SUMS"]


@pytest.mark.parametrize(
    "line",
    [
        "0" * 64 + "  /etc/passwd\n",
        "0" * 64 + "  ../outside\n",
        "0" * 64 + "  golden/../README.md\n",
        "0" * 64 + "  C:\\file\n",
        "0" * 64 + "  \n",
        "0" * 63 + "  README.md\n",
        "nonsense\n",
        "\n",
    ],
)
def test_a_line_that_is_no_checksum_is_refused(copy, line, capsys):
    with (copy / "SHA256SUMS").open("a") as sums:
        sums.write(line)
    (problem,) = problems_of(copy, capsys)
    assert problem.startswith("SHA256SUMS: line ")


def edit(folder: Path, name: str, change) -> None:
    value = read_json(folder / name)
    change(value)
    write_json(folder / name, value)
    seal(folder)


def swap_models(folder: Path) -> None:
    first, second = folder / "classifier_mobile.onnx", folder / "classifier_int8.onnx"
    data = first.read_bytes(), second.read_bytes()
    first.write_bytes(data[1])
    second.write_bytes(data[0])
    (folder / "SHA256SUMS").write_text(sums_of(folder))


def relabel(folder: Path) -> None:
    def change(about):
        about["labels"] = about["labels"][::-1]

    edit(folder, "bundle.json", change)


def edit_metadata(folder: Path) -> None:
    model = onnx.load(folder / "classifier.onnx")
    entry = next(entry for entry in model.metadata_props if entry.key == "oct_jax.decision")
    entry.value = json.dumps(json.loads(entry.value) | {"temperature": 9})
    onnx.save(model, folder / "classifier.onnx")
    seal(folder)


def strip_metadata(folder: Path) -> None:
    model = onnx.load(folder / "classifier.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "classifier.onnx")
    seal(folder)


def answers_of_another_model(folder: Path) -> None:
    edit(folder, "golden/golden.json", lambda golden: golden.update(model_sha256="0" * 64))


def no_answers(folder: Path) -> None:
    for path in (folder / "golden").glob("*.pgm"):
        path.unlink()
    edit(folder, "golden/golden.json", lambda golden: golden.update(scans=[]))


@pytest.mark.parametrize(
    ("harm", "part"),
    [
        (swap_models, "another file than bundle.json describes"),
        (relabel, "its metadata and bundle.json disagree (labels)"),
        (edit_metadata, "its metadata and bundle.json disagree (decision)"),
        (strip_metadata, "its metadata and bundle.json disagree"),
        (answers_of_another_model, "answers of another model"),
        (no_answers, "no golden scans"),
    ],
)
def test_parts_that_disagree_are_named_where_the_sums_were_made_anew(copy, harm, part, capsys):
    harm(copy)
    assert any(part in problem for problem in problems_of(copy, capsys))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"files": 3}', b'{"scans": [1]}', b"null"],
)
@pytest.mark.parametrize("name", ["bundle.json", "golden/golden.json"])
def test_json_of_another_form_is_one_line(copy, name, content, capsys):
    (copy / name).write_bytes(content)
    (copy / "SHA256SUMS").write_text(sums_of(copy))
    assert len(problems_of(copy, capsys)) == 1


@pytest.mark.parametrize(
    "content", [b"", b"P5\n", b"P6\n1 1\n255\n0", b"P5\n9 9\n255\n0", b"P5\n-1 -1\n255\n0"]
)
def test_a_picture_that_is_none_is_one_line(copy, content, capsys):
    (copy / "golden" / "cnv.pgm").write_bytes(content)
    (copy / "SHA256SUMS").write_text(sums_of(copy))
    assert problems_of(copy, capsys) == ["cnv.pgm: not a binary 8-bit PGM file"]


def test_sums_that_are_no_text_are_one_line(copy, capsys):
    (copy / "SHA256SUMS").write_bytes(b"\xff\xfe\n")
    assert len(problems_of(copy, capsys)) == 1


@pytest.mark.parametrize("module", ["numpy", "json", "hashlib", "onnxruntime", "pathlib"])
def test_it_does_not_import_from_its_own_folder(copy, module):
    (copy / f"{module}.py").write_text("raise SystemExit('imported from the bundle')")
    done = subprocess.run(
        [sys.executable, "verify.py"],
        cwd=copy,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 1
    assert done.stderr == f"error: {module}.py: not part of the bundle (not in SHA256SUMS)\n"
