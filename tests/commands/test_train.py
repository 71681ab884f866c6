"""Training as a person runs it: both stages, interrupted, repeated, with other settings."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import disks
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax import KERMANY, load
from oct_jax.commands import cli, entry
from oct_jax.model.protocol import build
from oct_jax.runs.best import restore_best
from oct_jax.runs.config import read_run_config
from oct_jax.train.scoring import is_best

SMALL = (
    "phantom_patients=24",
    "image_size=32",
    "width=0.25",
    "variant=large_minimalistic",
    "batch_size=8",
    "threads=2",
)
FINETUNE = ("stage=finetune", "epochs=3", "learning_rate=1e-3", "batch_size=8")
# Resuming and several processes do not hang on the network: one that compiles in a second.
TOY = ("stage=frozen", "epochs=3", "backbone=toy_model:ToyConfig", *SMALL[:2], *SMALL[4:])


def run(*words, cwd, code=0):
    """Trains in this process; returns what is printed, of a mistake its error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["train", *words])
        assert entry.run(cli.train) == code, out.getvalue() + err.getvalue()
    return (err if code else out).getvalue()


def start(*words, cwd):
    """Trains in a process that may be killed."""
    tests = Path(__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, "-m", "oct_jax.train", *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tests)},
    )


def finish(process):
    out, _ = process.communicate()
    assert process.returncode == 0, out


def bits(run_folder: Path, stage: str):
    """Every array of the last checkpoint, and the position in the data."""
    import orbax.checkpoint as ocp

    folder = run_folder / stage / "last"
    step = max(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
    tree = ocp.StandardCheckpointer().restore(folder.absolute() / str(step) / "state")
    position = [path.read_text() for path in sorted((folder / str(step) / "batches").glob("*"))]
    return step, jax.tree.map(np.asarray, tree), position


def assert_same_bits(a, b):
    assert a[0] == b[0]
    assert a[2] == b[2]
    jax.tree.map(np.testing.assert_array_equal, a[1], b[1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run whose two stages were never interrupted."""
    cwd = tmp_path_factory.mktemp("unbroken")
    run("stage=frozen", "epochs=3", *SMALL, cwd=cwd)
    run(*FINETUNE, cwd=cwd)
    return cwd


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The same of a toy."""
    cwd = tmp_path_factory.mktemp("toy")
    run(*TOY, cwd=cwd)
    run(*FINETUNE, cwd=cwd)
    return cwd


def test_a_run_folder_says_what_was_trained_on_what(trained):
    folder = trained / "runs" / "default"
    config = json.loads((folder / "config.json").read_text())
    provenance = json.loads((folder / "provenance.json").read_text())
    assert config["synthetic"] is True
    assert provenance["versions"]["jax"] == jax.__version__
    for stage in ("frozen", "finetune"):
        rows = [json.loads(row) for row in (folder / stage / "metrics.jsonl").open()]
        assert [row["epoch"] for row in rows] == [1, 2, 3]
        summary = json.loads((folder / stage / "summary.json").read_text())
        assert summary["synthetic"] is True
        assert (folder / stage / "curves.png").stat().st_size > 5_000
        assert list((folder / stage).glob("events.out.tfevents.*"))


def test_the_frozen_stage_leaves_the_backbone_and_finetune_moves_it(trained):
    folder = trained / "runs" / "default"
    model = build(read_run_config(folder).model)
    shapes = jax.eval_shape(lambda: model.init(0))
    frozen, _ = restore_best(folder / "frozen", shapes)
    finetuned, _ = restore_best(folder / "finetune", shapes)
    kernel = [v.params["backbone"]["last"]["kernel"] for v in (frozen, finetuned)]
    assert not np.array_equal(*kernel)
    _, last, _ = bits(folder, "frozen")
    jax.tree.map(
        np.testing.assert_array_equal, last["params"]["backbone"], frozen.params["backbone"]
    )


def test_a_finished_stage_is_not_trained_again(trained):
    folder = trained / "runs" / "default"
    before = bits(folder, "frozen")
    run("stage=frozen", "epochs=3", *SMALL, cwd=trained)
    assert_same_bits(bits(folder, "frozen"), before)


def kill_during(process, folder: Path, pattern: str):
    """Kills a training process as soon as something new that matches lies in its folder."""
    before = set(folder.glob(pattern))
    while process.poll() is None and set(folder.glob(pattern)) <= before:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def rows_of(run_folder: Path, stage: str) -> list[dict]:
    return [json.loads(row) for row in (run_folder / stage / "metrics.jsonl").open()]


def test_killed_again_and_again_it_resumes_to_the_same_bits(toy, tmp_path):
    unbroken, killed = (folder / "runs" / "default" for folder in (toy, tmp_path))
    for words in (TOY, FINETUNE):
        words = (*words, "checkpoint_steps=2")
        stage = killed / words[0].removeprefix("stage=")
        # While a checkpoint is being written, when one is whole, when an epoch's best is.
        for pattern in ("last/*tmp*", "last/*", "best/*"):
            kill_during(start(*words, cwd=tmp_path), stage, pattern)
        finish(start(*words, cwd=tmp_path))
    for stage in ("frozen", "finetune"):
        assert_same_bits(*(bits(folder, stage) for folder in (killed, unbroken)))
        for mine, other in zip(rows_of(killed, stage), rows_of(unbroken, stage), strict=True):
            del mine["images_per_second"], other["images_per_second"]
            assert mine == other


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("localhost", 0))
        return bound.getsockname()[1]


def weights_of(variables) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables.params)])


def test_two_processes_train_to_the_result_of_one(toy, tmp_path):
    alone, together = toy / "runs" / "default", tmp_path / "runs" / "default"
    shutil.copytree(alone, together)
    shutil.rmtree(together / "finetune")
    place = f"distributed=localhost:{free_port()}"
    for process in [start(*FINETUNE, f"{place}/{index}/2", cwd=tmp_path) for index in (0, 1)]:
        finish(process)
    rows = [rows_of(folder, "finetune") for folder in (alone, together)]
    for mine, other in zip(*rows, strict=True):
        for name in ("epoch", "step", "learning_rate"):
            assert mine[name] == other[name]
    # Sums over two devices round differently; Adam, whose first steps have the length of the
    # learning rate for the smallest gradient too, makes that grow with every epoch.
    losses = np.array([[row["loss"] for row in each] for each in rows])
    np.testing.assert_allclose(losses[1, 0], losses[0, 0], rtol=1e-5)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2)
    shapes = build(read_run_config(alone).model).shapes
    begun = weights_of(restore_best(alone / "frozen", shapes)[0])
    first, second = (
        weights_of(restore_best(folder / "finetune", shapes)[0]) - begun
        for folder in (alone, together)
    )
    assert first @ second > 0.95 * np.linalg.norm(first) * np.linalg.norm(second)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("stage=frozen", "seed=9", *SMALL), "was begun with epochs=3 seed=0, not epochs=None"),
        (("stage=finetune", "data=elsewhere"), "the frozen stage of runs/default fixed data"),
        (("stage=finetune", "run=runs/none"), "no run here"),
        (("stage=frozen", "run=new", "data=no/such/folder"), "no/such/folder"),
        (("stage=frozen", "run=new", "weights=no.safetensors"), "no.safetensors"),
        (("stage=frozen", "run=new", "manifest=no.csv", "data=."), "no.csv"),
        (("stage=frozen", "run=new", "epochs=many"), "epochs=many"),
        (("stage=frozen", "run=new", "distributed=here/2/2"), "must be auto, or HOST:PORT/INDEX"),
        (("stage=frozen", *SMALL, "run=runs/default/config.json/new"), "cannot make this folder"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(trained, words, line):
    error = run(*words, cwd=trained, code=2)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert line in error
    assert not (trained / "new").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    words = ("stage=frozen", "learning_rate=1e30", "cache_features=off", *SMALL)
    error = run(*words, cwd=tmp_path, code=2)
    assert "the loss is not finite" in error
    assert "lower the learning rate" in error


def test_the_trained_run_predicts_paths_arrays_and_lists(trained, tmp_path):
    from PIL import Image

    classifier = load(trained / "runs" / "default")
    assert classifier.synthetic
    scan = np.random.default_rng(0).integers(0, 256, (60, 90), np.uint8)
    Image.fromarray(scan).save(tmp_path / "scan.png")
    one = classifier.predict(tmp_path / "scan.png")
    assert one.label in KERMANY.classes
    assert one.probabilities.shape == one.logits.shape == (4,)
    assert one.probabilities.dtype == np.float32
    np.testing.assert_allclose(one.probabilities.sum(), 1, rtol=1e-6)
    many = classifier.predict([scan] * 11)
    assert len(many) == 11
    for prediction in (classifier.predict(scan), *many):
        np.testing.assert_allclose(prediction.logits, one.logits, rtol=1e-4, atol=1e-5)
    assert classifier.predict([]) == []


@given(accuracy=st.floats(0, 1), highest=st.floats(0, 1), scans=st.integers(1, 10_000))
def test_the_best_epoch_is_the_latest_within_a_standard_error(accuracy, highest, scans):
    highest = max(accuracy, highest)
    assert is_best(highest, highest, scans)
    error = np.sqrt(highest * (1 - highest) / scans)
    if is_best(accuracy, highest, scans):
        assert highest - accuracy < 0.5 / np.sqrt(scans) + 1e-9
    else:
        assert highest - accuracy > 0.5 * error


def test_one_miss_in_a_hundred_does_not_make_an_earlier_perfect_epoch_better():
    assert is_best(0.99, 1.0, 100)
    assert not is_best(0.95, 1.0, 100)
    assert not is_best(0.99, 1.0, 10_000)


def disk_error(*words, cwd):
    error = run(*words, cwd=cwd, code=2)
    assert (error.count("error: "), error.count("\n")) == (1, 1), error
    return error


def test_a_full_disk_keeps_the_last_checkpoint_and_training_goes_on_once_there_is_room(
    trained, small_disk
):
    disks.resize(small_disk, "100M")
    shutil.copytree(trained / "runs", small_disk / "runs")
    unbroken = small_disk / "runs" / "default" / "finetune"
    shutil.rmtree(unbroken)
    before = disks.contents(small_disk)
    size = sum(path.stat().st_size for path in trained.glob("runs/default/finetune/last/*/**/*"))
    disks.fill(small_disk, free=size)
    error = disk_error(*FINETUNE, "checkpoint_steps=4", cwd=small_disk)
    assert "No space left on device" in error
    assert "runs/default/finetune" in error
    after = disks.contents(small_disk)
    assert before.items() <= after.items()
    assert any(name.startswith("runs/default/finetune/last/") for name in after)
    (small_disk / disks.FILLER).unlink()
    run(*FINETUNE, cwd=small_disk)
    assert_same_bits(
        bits(small_disk / "runs" / "default", "finetune"),
        bits(trained / "runs" / "default", "finetune"),
    )


@pytest.mark.parametrize("word", ["epochs=3", "restart=true"])
def test_a_read_only_disk_is_one_line_and_nothing_is_lost(trained, small_disk, word):
    disks.resize(small_disk, "100M")
    shutil.copytree(trained / "runs", small_disk / "runs")
    before = disks.contents(small_disk)
    disks.protect(small_disk)
    words = ("stage=frozen", *SMALL, "epochs=3", "run=runs/default")
    error = disk_error(*words, *([word] * (word not in words)), cwd=small_disk)
    assert "Read-only file system" in error
    assert disks.contents(small_disk) == before
