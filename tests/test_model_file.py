"""A model in one file: exact on the way back, and refused in one line where it is anything else."""

import dataclasses
import json
import struct

import numpy as np
import pytest
from narrow_run import make_run
from safetensors import safe_open
from safetensors.numpy import save_file

from oct_jax import UserError, load
from oct_jax.classifier import classifier_of
from oct_jax.data.manifest import Record, read_manifest
from oct_jax.data.preprocess import HeatmapGrid, Preprocess
from oct_jax.decision.outliers import fit_outliers
from oct_jax.decision.rule import fit_rule
from oct_jax.model.inference import Outputs
from oct_jax.model.protocol import build
from oct_jax.model.vit import ViT
from oct_jax.model_file import HALF_FROM, digest, is_model_file
from oct_jax.provenance import FaithfulnessResult, ScanDigests

RECORD = Record("CNV/CNV-1-1.png", "CNV", "1", "train", 8, 8, 1, "0" * 64)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    loaded = load(make_run(tmp_path_factory.mktemp("runs") / "narrow"))
    rng = np.random.default_rng(0)
    channels = loaded.variables.params["head"]["hidden"]["kernel"].shape[0]
    pooled = rng.random((60, channels), np.float32)
    outputs = Outputs(rng.normal(size=(60, 4)).astype(np.float32), pooled)
    rule = fit_rule(outputs, np.arange(60) % 4, fit_outliers(pooled), fitted_on={"data": "made up"})
    provenance = loaded.provenance.with_report(FaithfulnessResult("gradcam", False, True, 8))
    return dataclasses.replace(loaded, rule=rule, provenance=provenance)


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "narrow.safetensors"
    classifier.save(path)
    return path


@pytest.fixture(scope="module")
def scan():
    return np.random.default_rng(1).integers(0, 255, (90, 120), np.uint8)


def rewritten(saved, path, *, tensors=None, **changes):
    """The file again, with other tensors or other values in its header, and the right checksum."""
    with safe_open(saved, framework="np") as file:
        header = json.loads(file.metadata()["oct_jax"]) | changes
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = {name: value for name, value in (kept | (tensors or {})).items() if value is not None}
    if "sha256" not in changes:
        header["sha256"] = digest(header, content)
    save_file(content, path, {"oct_jax": json.dumps(header)})
    return path


def test_the_way_back_is_exact(classifier, saved, scan):
    again = load(saved)
    first, second = classifier.explain(scan), again.explain(scan)
    np.testing.assert_array_equal(first.prediction.logits, second.prediction.logits)
    np.testing.assert_array_equal(first.heatmap, second.heatmap)
    assert first.prediction.decision == second.prediction.decision
    for name in ("preprocess", "task", "grid", "stage", "synthetic", "model", "provenance"):
        assert getattr(again, name) == getattr(classifier, name)


def test_the_rule_for_eyes_comes_back(classifier, tmp_path):
    rule = fit_rule(
        Outputs(np.eye(4, dtype=np.float32), np.zeros((4, 2), np.float32)),
        np.arange(4, dtype=np.int32),
        None,
        fitted_on={"scans": {"CNV": 1}, "data": "/home/someone/eyes"},
    )
    dataclasses.replace(classifier, eye_rule=rule).save(tmp_path / "eyes.safetensors")
    again = load(tmp_path / "eyes.safetensors").eye_rule
    np.testing.assert_array_equal(again.set_thresholds, rule.set_thresholds)
    assert again.temperature == rule.temperature
    assert again.fitted_on == rule.fitted_on | {"data": "eyes"}  # no folders of the writer
    damaged = rewritten(
        tmp_path / "eyes.safetensors", tmp_path / "bad.safetensors", eye_rule={"temperature": 1}
    )
    with pytest.raises(UserError, match="eye_rule"):
        load(damaged)


def test_half_precision_halves_the_large_variables_and_is_near(classifier, saved, scan, tmp_path):
    classifier.save(tmp_path / "half.safetensors", half=True)
    with safe_open(tmp_path / "half.safetensors", framework="np") as file:
        for name in file.keys():  # noqa: SIM118
            if name.startswith("params/"):
                values = file.get_tensor(name)
                assert (values.dtype == np.float16) == (values.size >= HALF_FROM), name
    assert (tmp_path / "half.safetensors").stat().st_size < saved.stat().st_size
    half = load(tmp_path / "half.safetensors").predict(scan)
    np.testing.assert_allclose(
        half.probabilities, classifier.predict(scan).probabilities, atol=0.005
    )


def test_it_is_written_whole_or_not_at_all(classifier, tmp_path):
    with pytest.raises(UserError, match="ends in"):
        classifier.save(tmp_path / "model.bin")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"format": 2}, "update it"),
        ({"format": "x"}, "update it"),
        ({"sha256": "0" * 64}, "SHA-256 differs"),
        ({"stage": "other"}, "stage"),
        ({"config": {"variant": "huge"}}, "config"),
        ({"task": {"name": "x", "classes": []}}, "classes"),
        ({"grid": {}}, "grid"),
        ({"surprise": 1}, "surprise"),
        ({"backbone": "os:system"}, "unknown backbone"),
        ({"facts": []}, "facts"),
        ({"facts": {"data": "x"}}, "facts"),
        ({"facts": {"measured": [{"data": "x"}]}}, "facts"),
        ({"preprocess": {"size": 10**6, "mean": [0.5], "std": [0.5]}}, "size=1000000"),
        ({"tested": [{"passed": "yes"}]}, "tested"),
    ],
)
def test_other_headers_are_one_line(saved, tmp_path, changes, line):
    path = rewritten(saved, tmp_path / "other.safetensors", **changes)
    with pytest.raises(UserError, match=line) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_damaged_and_foreign_files_are_one_line(saved, tmp_path):
    data = saved.read_bytes()
    contents = {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
        "flipped": data[:-1000] + bytes([data[-1000] ^ 64]) + data[-999:],
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(UserError, match=name) as error:
            load(path)
        assert "\n" not in str(error.value)
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="not saved by oct_jax"):
        load(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "missing.safetensors")
    (tmp_path / "renamed.bin").write_bytes(data)
    with pytest.raises(UserError, match=r"renamed\.bin: not a run folder, and not a model file"):
        load(tmp_path / "renamed.bin")


def crafted(path, header, length=None):
    """A safetensors file with a header of one's own and no tensors."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", length or len(text)) + text)
    return path


def test_hostile_containers_are_one_line_and_take_no_memory(tmp_path):
    terabytes = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    headers = {
        "tensor": crafted(tmp_path / "tensor.safetensors", {"a": terabytes}),
        "length": crafted(tmp_path / "length.safetensors", {}, length=2**60),
        "deep": crafted(
            tmp_path / "deep.safetensors", {"__metadata__": {"oct_jax": "[" * 9**5 + "]" * 9**5}}
        ),
        "number": crafted(tmp_path / "number.safetensors", {"__metadata__": {"oct_jax": "1"}}),
    }
    for name, path in headers.items():
        with pytest.raises(UserError, match=name) as error:
            load(path)
        assert "\n" not in str(error.value)


def test_a_rule_with_a_false_description_is_one_line(saved, tmp_path):
    with safe_open(saved, framework="np") as file:
        rule = json.loads(file.metadata()["oct_jax"])["rule"]
    for entry in ({"patients_of": "all"}, {"adapted": 3}, {"views": -1}):
        changed = rule | {"fitted_on": entry}
        path = rewritten(saved, tmp_path / "other.safetensors", rule=changed)
        with pytest.raises(UserError, match="fitted_on"):
            load(path)


def test_facts_of_another_form_are_not_saved(classifier, tmp_path):
    facts = replace_facts(classifier, {"measured": "well"})
    with pytest.raises(UserError, match=r"provenance\.facts"):
        facts.save(tmp_path / "mine.safetensors")
    assert not list(tmp_path.iterdir())


def replace_facts(classifier, facts):
    provenance = dataclasses.replace(classifier.provenance, facts=facts)
    return dataclasses.replace(classifier, provenance=provenance)


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ({"surprise": np.zeros(3, np.float32)}, "surprise"),
        ({"params/head/hidden/bias": np.zeros(3, np.float32)}, "another shape"),
        ({"params/head/hidden/bias": None}, "missing"),
        ({"outliers/mean": np.zeros(3, np.float32)}, "outliers/directions"),
        ({"outliers/precisions": None}, "damaged"),
        ({"trained/scans": np.zeros((2, 31), np.uint8)}, "trained/scans"),
        ({"chosen/patients": None}, "chosen/patients"),
    ],
)
def test_other_tensors_are_one_line(saved, tmp_path, tensors, line):
    path = rewritten(saved, tmp_path / "other.safetensors", tensors=tensors)
    with pytest.raises(UserError, match=line) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_header_that_was_changed_is_noticed(saved, tmp_path):
    changed = saved.read_bytes().replace(b'\\"synthetic\\": true', b'\\"synthetic\\": null', 1)
    assert changed != saved.read_bytes()
    (tmp_path / "changed.safetensors").write_bytes(changed)
    with pytest.raises(UserError, match="synthetic"):
        load(tmp_path / "changed.safetensors")
    path = rewritten(saved, tmp_path / "other.safetensors", synthetic=False, sha256="0" * 64)
    with pytest.raises(UserError, match="SHA-256 differs"):
        load(path)


def test_it_knows_the_scans_of_its_run_without_naming_a_patient(classifier, saved, tmp_path):
    records = read_manifest(make_run(tmp_path / "run") / "manifest.csv")
    provenance = load(saved).provenance
    for record in records:
        assert provenance.trained.holds(record) == (record.split == "train")
        assert provenance.chosen.holds(record) == (record.split == "val")
    assert not provenance.trained.patients & {record.patient for record in records}
    assert provenance.is_verified("gradcam", False)
    assert not provenance.is_verified("gradcam", True)
    elsewhere = dataclasses.replace(records[0], patient="another", sha256="f" * 64)
    assert not provenance.trained.holds(elsewhere)


def test_a_scan_without_a_patient_is_known_by_its_content_alone():
    record = dataclasses.replace(RECORD, patient="file:CNV/a")
    digests = ScanDigests.of([record])
    assert digests.holds(record)
    assert not digests.patients
    assert not digests.holds(dataclasses.replace(record, sha256="1" * 64))


def test_another_backbone_of_the_package_can_be_saved(tmp_path):
    config = ViT(width=16, depth=1, heads=2)
    preprocess = Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    grid = HeatmapGrid(16.0, 16.0, 7.5, 7.5)
    vit = classifier_of(config, build(config).init(0), preprocess, grid=grid)
    vit.save(tmp_path / "vit.safetensors")
    scan = np.zeros((32, 32), np.uint8)
    again = load(tmp_path / "vit.safetensors")
    np.testing.assert_array_equal(again.predict(scan).logits, vit.predict(scan).logits)


def test_what_float16_cannot_hold_is_not_saved_so(classifier, tmp_path):
    head = classifier.variables.params["head"]
    large = head | {
        "hidden": {"kernel": head["hidden"]["kernel"] * 1e9, "bias": head["hidden"]["bias"]}
    }
    params = classifier.variables.params | {"head": large}
    other = dataclasses.replace(classifier, variables=classifier.variables._replace(params=params))
    with pytest.raises(UserError, match="float16"):
        other.save(tmp_path / "half.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_weights_alone_are_no_model_file(saved, tmp_path):
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "weights.safetensors")
    assert is_model_file(saved)
    assert not is_model_file(tmp_path / "weights.safetensors")
    assert not is_model_file(tmp_path)
