"""A stored rule comes back the same, and no damage or edit of it gives an answer."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_rule import fitted, outputs_of

from oct_jax.data.phantom import phantom_scans
from oct_jax.decision.fit import describe
from oct_jax.decision.rule import decide
from oct_jax.decision.storage import read_rule, write_rule
from oct_jax.task import BUILT_IN, to_json
from oct_jax.types import UserError


def test_a_rule_survives_its_files_to_the_same_decisions(tmp_path):
    rule, (outputs, _) = fitted(), outputs_of(5)
    write_rule(tmp_path, rule)
    again = read_rule(tmp_path)
    before, after = decide(rule, outputs), decide(again, outputs)
    assert before.referrals == after.referrals
    np.testing.assert_array_equal(before.sets, after.sets)
    np.testing.assert_array_equal(before.outlier_scores, after.outlier_scores)
    assert again.fitted_on == rule.fitted_on
    for before, after in zip(rule.reference, again.reference, strict=True):
        np.testing.assert_array_equal(before, after)
    mine = tmp_path / "decision" / "scans_of_mine.csv"
    mine.write_text("mine")
    write_rule(tmp_path, fitted(seed=9))
    assert mine.exists()
    assert len(list((tmp_path / "decision").glob("outliers-*"))) == 1
    write_rule(tmp_path, dataclasses.replace(rule, outliers=None))
    assert read_rule(tmp_path).outliers is None
    assert not list((tmp_path / "decision").glob("outliers-*"))
    assert len(list((tmp_path / "decision").glob("scans-*"))) == 1


def test_a_stage_without_a_rule_has_none(tmp_path):
    assert read_rule(tmp_path) is None


def one_line(stage) -> str:
    with pytest.raises(UserError) as error:
        read_rule(stage)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def edit(stage, **changes):
    path = stage / "decision" / "rule.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def stage(tmp_path):
    records = phantom_scans(patients=24, seed=0).records[:5]
    write_rule(tmp_path, dataclasses.replace(fitted(), records=records))
    return tmp_path


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 1e-9},
        {"temperature": "1"},
        {"temperature": True},
        {"temperature": None},
        {"reference": {"scores": [1.0], "patients": [0], "labels": [0], "sizes": [1], "tiers": []}},
        {"reference": {"scores": [1], "patients": [0], "labels": [4], "sizes": [1], "tiers": [0]}},
        {"set_thresholds": [0.5, float("nan"), 0.5, 0.5]},
        {"set_thresholds": [0.5, 0.5, 0.5]},
        {"set_thresholds": [0.5] * 5},
        {"set_thresholds": [0.5, 0.5, 0.5, 1.5]},
        {"set_thresholds": [0.5, 0.5, 0.5, -0.1]},
        {"set_thresholds": 0.5},
        {"urgent_threshold": 2},
        {"urgent_threshold": float("nan")},
        {"coverage": 1},
        {"coverage": 0},
        {"sensitivity": 0},
        {"outlier_rate": -0.1},
        {"model": "../../etc"},
        {"model": 3},
        {"task": to_json(BUILT_IN["octdl"])},
        {"task": {"name": "x", "source": "", "classes": []}},
        {"task": []},
        {"fitted_on": []},
        {"fitted_on": {"scans": 3}},
        {"fitted_on": {"scans": {"CNV": -1}}},
        {"outliers": {}},
        {"outliers": {"file": "../outside.safetensors", "rest_precision": 1, "threshold": 1}},
        {"outliers": {"file": "outliers-000000000000.safetensors"}},
        {"scans": "../scans.csv"},
        {"scans": "scans-000000000000.csv"},
        {"threshold": 0.5},
    ],
)
def test_an_edited_rule_is_refused(stage, changes):
    edit(stage, **changes)
    assert str(stage / "decision") in one_line(stage)


@pytest.mark.parametrize("key", ["rest_precision", "threshold"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "1"])
def test_an_edited_outlier_threshold_is_refused(stage, key, value):
    outliers = json.loads((stage / "decision" / "rule.json").read_text())["outliers"]
    edit(stage, outliers=outliers | {key: value})
    one_line(stage)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"{", b"\xff", b'{"a":' * 5000])
def test_a_file_that_is_no_rule_is_refused(stage, content):
    (stage / "decision" / "rule.json").write_bytes(content)
    one_line(stage)


@pytest.mark.parametrize("pattern", ["outliers-*.safetensors", "scans-*.csv"])
@pytest.mark.parametrize("harm", ["missing", "empty", "cut", "changed"])
def test_damaged_parts_are_refused(stage, pattern, harm):
    (path,) = (stage / "decision").glob(pattern)
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        last = data.rstrip()[-1:]
        changed = data.rstrip()[:-1] + (b"0" if last != b"0" else b"1") + b"\n"
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "changed": changed}[harm])
    one_line(stage)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_gives_a_whole_rule_or_one_line(tmp_path_factory, place, value):
    stage = tmp_path_factory.mktemp("stage")
    write_rule(stage, fitted())
    path = stage / "decision" / "rule.json"
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(bytes(data))
    try:
        rule = read_rule(stage)
    except UserError as error:
        rule, lines = None, str(error).splitlines()
    else:
        lines = [""]
    assert len(lines) == 1
    if rule is not None:
        decisions = decide(rule, outputs_of(5)[0])
        assert np.isfinite(decisions.probabilities).all()
        assert np.isfinite(decisions.outlier_scores).all()


def test_a_rule_of_version_0_1_is_still_read(stage):
    (scans,) = (stage / "decision").glob("scans-*.csv")
    scans.rename(stage / "decision" / "scans.csv")
    stored = json.loads((stage / "decision" / "rule.json").read_text())
    stored.pop("scans")
    (stage / "decision" / "rule.json").write_text(json.dumps(stored))
    assert len(read_rule(stage).records) == 5


def test_what_is_written_of_calibration_scans_has_one_order():
    scans = phantom_scans(patients=60, seed=0).select("calibration")
    described = describe(scans, "phantom")
    assert list(described["patients_of"]) == sorted(described["patients_of"])
