"""The bundle as a folder: whole, checked, deterministic, and usable from its README alone."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from rich.console import Console

from oct_jax.commands import cli
from oct_jax.commands.export import export_bundle
from oct_jax.commands.settings import ExportConfig
from oct_jax.data.datasets import open_data
from oct_jax.data.phantom import phantom_scans
from oct_jax.export import bundle as bundle_module
from oct_jax.export import quantize, verify
from oct_jax.export.bundle import export, metadata
from oct_jax.export.documents import model_card, readme
from oct_jax.export.golden import encode_pgm
from oct_jax.export.graph import make_graphs
from oct_jax.files import read_json, write_json
from oct_jax.provenance import Provenance, ScanDigests
from oct_jax.runs.load import load
from oct_jax.runs.source import find_source
from oct_jax.task import KERMANY
from oct_jax.types import UserError


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def graphs(classifier):
    return make_graphs(classifier)


@pytest.fixture
def traced(graphs, monkeypatch):
    """An export of the run finds its network traced, and tries one recipe of int8."""
    monkeypatch.setattr(bundle_module, "make_graphs", lambda classifier: graphs)
    monkeypatch.setattr(quantize, "RECIPES", quantize.RECIPES[:1])


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_it_holds_what_it_should(bundle):
    names = set(contents(bundle))
    for model in ("classifier", "classifier_mobile", "classifier_int8"):
        assert f"{model}.onnx" in names
    assert {"bundle.json", "README.md", "MODEL_CARD.md", "verify.py", "SHA256SUMS"} <= names
    assert {f"golden/{name.lower()}.pgm" for name in KERMANY.classes} <= names


def test_it_verifies_and_needs_neither_jax_nor_this_package(bundle):
    """As on a machine that has numpy and onnxruntime alone."""
    barred = "; ".join(
        f"sys.modules[{name!r}] = None" for name in ("jax", "flax", "oct_jax", "onnx", "cv2", "PIL")
    )
    program = f"import sys, runpy; {barred}; sys.argv = ['verify.py']; " + (
        "runpy.run_path('verify.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=bundle, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "verified with onnxruntime" in done.stdout
    assert "classifier_int8.onnx" in done.stdout


def test_the_command_verifies_too(bundle, copy):
    command = [sys.executable, "-m", "oct_jax.export", "verify"]
    done = subprocess.run([*command, str(bundle)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "NNAPI takes" in done.stdout
    (copy / "SHA256SUMS").unlink()
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no bundle here" in done.stderr


def seal(folder: Path) -> None:
    """Makes checksums anew, as somebody would who swaps models."""
    about = read_json(folder / "bundle.json")
    for name, file in about["files"].items():
        file["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    write_json(folder / "bundle.json", about)
    (folder / "SHA256SUMS").write_text(bundle_module.sums_of(folder))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize(
    "name",
    ["classifier.onnx", "classifier_int8.onnx", "golden/dme.pgm", "bundle.json", "README.md"],
)
def test_what_was_changed_is_named(copy, name, harm, capsys):
    harm(copy / name)
    assert verify.main([str(copy)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {name}: ")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("constant", "told"),
    [
        ("float64__2.5", "resized of golden/cnv.pgm is off"),
        ("head/classifier/bias", "probabilities of golden/cnv.pgm is off"),
        ("outliers/mean", "outlier_score of golden/cnv.pgm is off"),
        ("int64_1_[1]", "onnxruntime does not load it"),
    ],
)
def test_a_wrong_model_is_caught_even_where_the_sums_are_right(copy, capsys, constant, told):
    model = onnx.load(copy / "classifier.onnx")
    changed = next(tensor for tensor in model.graph.initializer if tensor.name == constant)
    value = onnx.numpy_helper.to_array(changed).copy()
    value.flat[0] += 1
    changed.CopyFrom(onnx.numpy_helper.from_array(value, constant))
    onnx.save(model, copy / "classifier.onnx")
    seal(copy)
    assert verify.main([str(copy)]) == 1
    assert f"error: classifier.onnx: {told}" in capsys.readouterr().err


def test_two_exports_are_the_same_bytes(bundle, run, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "LARGEST_DROP", 1.0)
    monkeypatch.setattr(quantize, "LEAST_AGREEMENT", 0.0)
    monkeypatch.setattr(quantize, "RECIPES", quantize.RECIPES[:2])
    export(find_source(str(run), None), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(bundle)


def test_metadata_and_bundle_json_say_the_same(bundle):
    about = read_json(bundle / "bundle.json")
    for name in ("classifier", "classifier_mobile", "classifier_int8"):
        told = {
            entry.key: entry.value for entry in onnx.load(bundle / f"{name}.onnx").metadata_props
        }
        assert told.items() <= metadata(about).items()
        assert json.loads(told["oct_jax.labels"]) == list(KERMANY.classes)
        assert json.loads(told["oct_jax.decision"])["temperature"] > 0
        assert "SYNTHETIC" in told["oct_jax.research_use"]
    assert str(Path.home()) not in json.dumps(about)


def test_golden_answers_are_the_runs_own(bundle, classifier):
    golden = read_json(bundle / "golden" / "golden.json")
    for case in golden["scans"]:
        scan = verify.read_pgm(bundle / "golden" / case["scan"])
        said = classifier.explain(scan)
        assert case["label"] == said.prediction.label
        assert case["referral"] == said.prediction.decision.referral
        np.testing.assert_allclose(case["probabilities"], said.prediction.probabilities, atol=1e-6)
        cells = case["heatmaps"][KERMANY.classes.index(case["label"])]
        np.testing.assert_allclose(cells, said.cells, atol=1e-4)


def snippet(bundle: Path, language: str) -> str:
    text = (bundle / "README.md").read_text()
    return text.split(f"```{language}\n", 1)[1].split("```", 1)[0]


def check_printed(bundle: Path, printed: str) -> None:
    told = json.loads(printed.strip().splitlines()[-1])
    golden = read_json(bundle / "golden" / "golden.json")["scans"][0]
    assert golden["scan"] == "cnv.pgm"
    assert told["label"] == golden["label"]
    assert told.get("referral") == golden["referral"]
    np.testing.assert_allclose(told["probabilities"], golden["probabilities"], atol=1e-3)


def test_the_python_program_of_the_readme_gives_the_golden_answer(bundle):
    done = subprocess.run(
        [sys.executable, "-I", "-c", snippet(bundle, "python")],
        cwd=bundle,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    check_printed(bundle, done.stdout)


def test_the_javascript_program_of_the_readme_gives_the_golden_answer(bundle):
    node, modules = shutil.which("node"), os.environ.get("OCT_NODE_MODULES")
    if node is None:
        pytest.skip("node is not installed")
    if modules is None:
        pytest.skip(
            "OCT_NODE_MODULES is not set; it names a node_modules folder with onnxruntime-node"
        )
    done = subprocess.run(
        [node, "-e", snippet(bundle, "javascript")],
        cwd=bundle,
        capture_output=True,
        text=True,
        env=os.environ | {"NODE_PATH": modules},
    )
    assert done.returncode == 0, done.stderr
    check_printed(bundle, done.stdout)


@pytest.mark.parametrize("language", ["kotlin", "swift", "python", "javascript"])
def test_programs_name_tensors_that_exist(bundle, language):
    about = read_json(bundle / "bundle.json")
    tensors = about["files"]["classifier.onnx"]
    text = snippet(bundle, language)
    assert "scans" in tensors["inputs"]
    assert "scans" in text
    for name in ("probabilities", "heatmap"):
        assert name in tensors["outputs"]
        assert name in text


def test_the_readme_of_an_uncalibrated_run_says_so(bundle):
    about = read_json(bundle / "bundle.json")
    about["decision"]["calibrated"] = False
    text = readme(about)
    assert "NOT calibrated" in text
    assert "no referral is given" in text


def test_the_python_program_gives_no_referral_without_a_rule(copy):
    about = read_json(copy / "bundle.json")
    about["decision"] = {"calibrated": False}
    write_json(copy / "bundle.json", about)
    done = subprocess.run(
        [sys.executable, "-I", "-c", snippet(copy, "python")],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "referral" not in json.loads(done.stdout)


def test_documents_name_the_tasks_own_classes_and_the_grids_own_size(bundle):
    about = read_json(bundle / "bundle.json")
    about["labels"] = ["AMD", "ERM", "NO"]
    about["run"]["scans"] = about["test"] = None
    about["decision"]["set_thresholds"] = [0.1, 0.2, 0.3]
    about["decision"]["fitted_on"] = {"scans": {"AMD": 9}}
    text = readme(about) + model_card(about, {})
    assert "which of AMD, ERM or NO a scan looks like" in text
    assert "Only its 3 classes" in text
    assert "2 by 2 cells" in text
    assert not any(name in text for name in ("DRUSEN", "NORMAL", "a seventh"))


def test_a_failed_export_leaves_the_old_bundle_whole(traced, copy, run, monkeypatch):
    before = contents(copy)

    def fails(*_):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(bundle_module, "sums_of", fails)
    with pytest.raises(RuntimeError):
        export(find_source(str(run), None), copy, viewer=False)
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_an_old_bundle_is_replaced_and_another_folder_is_not(traced, copy, run, tmp_path):
    (copy / "README.md").write_text("old")
    export(find_source(str(run), None), copy, viewer=False)
    assert (copy / "README.md").read_text() != "old"
    other = tmp_path / "photographs"
    other.mkdir()
    (other / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="not a bundle"):
        export(find_source(str(run), None), other)
    assert (other / "mine.txt").read_text() == "keep me"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"model": ', b"\xff\x00"])
@pytest.mark.parametrize("name", ["provenance.json", "evaluation/report.json"])
def test_a_damaged_file_of_the_run_is_one_line_and_no_bundle(run, tmp_path, name, content):
    damaged = Path(shutil.copytree(run, tmp_path / "run"))
    (damaged / name).parent.mkdir(exist_ok=True)
    (damaged / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as raised:
        export_bundle(ExportConfig(), find_source(str(damaged), None), Console(quiet=True))
    assert "\n" not in str(raised.value)
    assert not (damaged / "export").exists()


def test_a_run_without_its_origin_is_not_loaded(run, tmp_path):
    torn = Path(shutil.copytree(run, tmp_path / "run"))
    (torn / "provenance.json").unlink()
    with pytest.raises(UserError, match=r"provenance.json: missing; copy it"):
        load(torn)


def test_without_the_scans_the_bundle_has_no_int8_and_says_why(traced, run, tmp_path):
    moved = Path(shutil.copytree(run, tmp_path / "run"))
    config = read_json(moved / "config.json")
    config["settings"]["data"] = str(tmp_path / "gone")
    write_json(moved / "config.json", config)
    export_bundle(ExportConfig(), find_source(str(moved), None), Console(quiet=True))
    out = moved / "export"
    about = read_json(out / "bundle.json")
    assert not (out / "classifier_int8.onnx").exists()
    assert not about["int8"]["shipped"]
    assert "gone" in about["int8"]["reason"]
    assert about["int8"]["reason"] in (out / "README.md").read_text()
    assert verify.main([str(out)]) == 0


@pytest.fixture(scope="module")
def clinic(tmp_path_factory) -> Path:
    """Phantoms of 24 patients as another clinic's folder."""
    root = tmp_path_factory.mktemp("clinic")
    scans = phantom_scans(patients=24, seed=8)
    for row, record in enumerate(scans.records):
        path = root / record.label / f"{record.label}-{row + 9000}-1.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(scans.read(row)).save(path)
    return root


def test_a_model_file_has_a_whole_bundle_without_int8(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load(run).save("mine.safetensors")
    cli.export(["model=mine.safetensors", "viewer=false"])
    out = tmp_path / "mine" / "export"
    about = read_json(out / "bundle.json")
    assert about["run"]["kind"] == "model file"
    assert about["run"]["name"] == "mine"
    assert "give data=FOLDER" in about["int8"]["reason"]
    assert about["int8"]["reason"] in capsys.readouterr().out
    assert about["test"] is None
    assert verify.main([str(out)]) == 0


def test_scans_of_ones_own_calibrate_int8_of_a_model_file(run, clinic, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "LARGEST_DROP", 1.0)
    monkeypatch.setattr(quantize, "LEAST_AGREEMENT", 0.0)
    monkeypatch.setattr(quantize, "RECIPES", quantize.RECIPES[:1])
    load(run).save(tmp_path / "mine.safetensors")
    source = find_source(None, str(tmp_path / "mine.safetensors"))
    export(source, tmp_path / "out", data=str(clinic), viewer=False)
    about = read_json(tmp_path / "out" / "bundle.json")
    assert about["int8"]["shipped"]
    assert about["test"]["of"] == clinic.name
    assert f"of {clinic.name}, of " in (tmp_path / "out" / "MODEL_CARD.md").read_text()


def test_scans_that_a_model_was_trained_on_do_not_test_int8(run, clinic, tmp_path):
    scans = open_data(str(clinic))
    known = Provenance(trained=ScanDigests.of(scans.records[:3]))
    dataclasses.replace(load(run), provenance=known).save(tmp_path / "mine.safetensors")
    source = find_source(None, str(tmp_path / "mine.safetensors"))
    with pytest.raises(UserError, match="scans are of patients that the model was trained on"):
        export(source, tmp_path / "out", data=str(clinic))
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_is_told_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "oct_jax.export", f"run={tmp_path / 'none'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 10), (256, 256)])
def test_pgm_files_are_read_back(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels.flat[0] = ord("\n")
    (tmp_path / "scan.pgm").write_bytes(encode_pgm(pixels))
    np.testing.assert_array_equal(verify.read_pgm(tmp_path / "scan.pgm"), pixels)
