"""A model in one file: exact on the way back, and refused in one line where it is anything else."""

import dataclasses
import json

import numpy as np
import pytest
from narrow_run import make_run
from safetensors import safe_open
from safetensors.numpy import save_file

from oct_jax import UserError, load
from oct_jax.decision.outliers import fit_outliers
from oct_jax.decision.rule import fit_rule
from oct_jax.model.inference import Outputs

pytestmark = pytest.mark.xdist_group("model_file")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    loaded = load(make_run(tmp_path_factory.mktemp("runs") / "narrow"))
    rng = np.random.default_rng(0)
    channels = loaded.variables.params["head"]["hidden"]["kernel"].shape[0]
    pooled = rng.random((60, channels), np.float32)
    outputs = Outputs(rng.normal(size=(60, 4)).astype(np.float32), pooled)
    rule = fit_rule(outputs, np.arange(60) % 4, fit_outliers(pooled), fitted_on={"data": "made up"})
    return dataclasses.replace(loaded, rule=rule)


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "narrow.safetensors"
    classifier.save(path)
    return path


@pytest.fixture(scope="module")
def scan():
    return np.random.default_rng(1).integers(0, 255, (90, 120), np.uint8)


def rewritten(saved, path, *, tensors=None, **changes):
    """The file again, with other tensors or other values in its header."""
    with safe_open(saved, framework="np") as file:
        header = json.loads(file.metadata()["oct_jax"])
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(kept | (tensors or {}), path, {"oct_jax": json.dumps(header | changes)})
    return path


def test_the_way_back_is_exact(classifier, saved, scan):
    again = load(saved)
    first, second = classifier.explain(scan), again.explain(scan)
    np.testing.assert_array_equal(first.prediction.logits, second.prediction.logits)
    np.testing.assert_array_equal(first.heatmap, second.heatmap)
    assert first.prediction.decision == second.prediction.decision
    for name in ("preprocess", "task", "grid", "stage", "synthetic", "model"):
        assert getattr(again, name) == getattr(classifier, name)


def test_half_precision_is_half_the_size_and_near(classifier, saved, scan, tmp_path):
    classifier.save(tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * saved.stat().st_size
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
