"""A run's files that were edited or damaged give one line, never an answer or a traceback."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from narrow_run import MODEL, make_run

from oct_jax.commands.parsing import flatten
from oct_jax.commands.settings import TrainConfig
from oct_jax.model.protocol import Variables, build, check_variables
from oct_jax.runs.best import restore_best
from oct_jax.runs.checkpoints import open_checkpoints
from oct_jax.runs.config import read_run_config
from oct_jax.runs.folder import check_resumable
from oct_jax.runs.load import load
from oct_jax.runs.verified import is_verified
from oct_jax.types import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "narrow")


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def edit(run, part, **changes):
    stored = json.loads((run / "config.json").read_text())
    stored[part] |= changes
    (run / "config.json").write_text(json.dumps(stored))


def refused(function, *arguments) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("model", {"width": "0.25"}),
        ("model", {"width": -1}),
        ("model", {"width": float("nan")}),
        ("model", {"width": float("inf")}),
        ("model", {"width": 1e308}),
        ("model", {"channels": 10**19}),
        ("model", {"num_classes": 0}),
        ("model", {"num_classes": 4.5}),
        ("model", {"bn_epsilon": 0}),
        ("model", {"dropout": 1}),
        ("model", {"padding": "none"}),
        ("model", {"depth": 3}),
        ("preprocess", {"size": "64"}),
        ("preprocess", {"size": -1}),
        ("preprocess", {"mean": 0.5}),
        ("preprocess", {"std": [0, 0, 0]}),
        ("preprocess", {"mean": [0.5, None, 0.5]}),
        ("preprocess", {"crop": True}),
        ("settings", {"data": 3}),
        ("settings", {"seed": -1}),
        ("settings", {"seed": True}),
        ("settings", {"phantom_patients": 10**400}),
        ("settings", {"on_bad_scan": "ignore"}),
        ("settings", {"backbone": "nosuch"}),
        ("settings", {"backbone": ["mobilenetv3"]}),
    ],
)
def test_an_edited_run_config_is_refused(run, part, changes):
    edit(run, part, **changes)
    refused(read_run_config, run)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"a":' * 5000, b'{"settings'])
def test_a_run_config_that_is_none_is_refused(run, content):
    (run / "config.json").write_bytes(content)
    assert str(run / "config.json") in refused(load, run)


@pytest.mark.parametrize("changes", [{"width": 0.5}, {"num_classes": 5}, {"variant": "large"}])
def test_a_checkpoint_of_another_model_is_refused(run, changes):
    edit(run, "model", **changes)
    assert "not of the model that config.json describes" in refused(load, run)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_damaged_settings_of_a_stage_are_refused(run, content):
    (run / "frozen" / "config.json").write_bytes(content)
    message = refused(partial(check_resumable, defaults={}), run / "frozen", {})
    assert "restart=true" in message


def test_whole_settings_of_a_stage_are_not_refused(run):
    settings = flatten(TrainConfig(stage="frozen", run=str(run)))
    (run / "frozen" / "config.json").write_text(json.dumps(settings))
    check_resumable(run / "frozen", settings, defaults=settings)


def files_of(run):
    best = run / "frozen" / "best"
    return sorted(path for path in best.rglob("*") if path.is_file())


# TensorStore leaves tasks behind where a file is damaged.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_flipped_byte_of_a_checkpoint_changes_the_weights(run):
    whole, _ = restore_best(run / "frozen", build(MODEL).shapes)
    for path in files_of(run):
        data = path.read_bytes()
        if not data:
            continue
        damaged = bytearray(data)
        damaged[2 * len(data) // 3] ^= 0x10
        path.write_bytes(bytes(damaged))
        try:
            stored, _ = restore_best(run / "frozen", build(MODEL).shapes)
        except UserError as error:
            lines = str(error).splitlines()
        else:
            lines = [""]
            jax.tree.map(np.testing.assert_array_equal, stored, whole)
        assert len(lines) == 1
        path.write_bytes(data)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_missing_parts_of_a_checkpoint_are_one_line(run):
    for path in files_of(run):
        data = path.read_bytes()
        path.unlink()
        try:
            restore_best(run / "frozen", build(MODEL).shapes)
        except UserError as error:
            lines = str(error).splitlines()
        else:
            lines = [""]
        assert len(lines) == 1
        path.write_bytes(data)


def changed(variables: Variables, value: float, *, variance: bool) -> Variables:
    if variance:
        stats = dict(variables.stats["backbone"])
        stem = stats["stem"]
        stats["stem"] = stem | {"var": jnp.full_like(stem["var"], value)}
        return Variables(variables.params, {"backbone": stats})
    head = variables.params["head"]
    bias = jnp.full_like(head["classifier"]["bias"], value)
    head = head | {"classifier": head["classifier"] | {"bias": bias}}
    return Variables(variables.params | {"head": head}, variables.stats)


@pytest.mark.parametrize(
    ("value", "variance", "reason"),
    [
        (-0.5, True, "stem/var holds negative variances"),
        (float("nan"), True, "not finite"),
        (float("inf"), False, "head/classifier/bias holds values that are not finite"),
    ],
)
def test_weights_that_no_training_makes_are_refused(tmp_path, value, variance, reason):
    variables = changed(build(MODEL).init(0), value, variance=variance)
    assert reason in refused(check_variables, variables, "weights.safetensors")
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(1, variables, {"epoch": 1})
    assert reason in refused(restore_best, tmp_path, build(MODEL).shapes)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model": 1}', '{"model": "a", "method": "gradcam", "flip": 0}']
)
def test_a_damaged_faithfulness_report_is_refused(run, content):
    (run / "explanation").mkdir()
    (run / "explanation" / "report.json").write_text(content)
    message = refused(is_verified, run, load(run), "gradcam", False)
    assert "just explain report" in message
