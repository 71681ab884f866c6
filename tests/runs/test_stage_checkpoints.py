"""Checkpoints that are damaged, cut or too large for the disk."""

import subprocess
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oct_jax.model.protocol import Variables
from oct_jax.runs.best import restore_best
from oct_jax.runs.checkpoints import open_checkpoints
from oct_jax.train.step import TrainState, initial_state
from oct_jax.types import UserError


def batches():
    return iter(grain.MapDataset.range(100).to_iter_dataset())


def state_of(weights: np.ndarray, step: int) -> TrainState:
    variables = Variables({"backbone": {"kernel": jnp.asarray(weights)}, "head": {}}, {})
    state = initial_state(variables, optax.sgd(0.1), "float32")
    return state._replace(step=jnp.asarray(step, jnp.int32))


def state_at(step: int) -> TrainState:
    return state_of(np.full((64, 64), step, np.float32), step)


def save(stage: Path, steps: range) -> None:
    with open_checkpoints(stage) as checkpoints:
        iterator = batches()
        for step in steps:
            next(iterator)
            checkpoints.save_last(step, state_at(step), iterator, {"epoch": step})


def restore(stage: Path):
    with open_checkpoints(stage) as checkpoints:
        iterator = batches()
        return checkpoints.restore_last(state_at(0), iterator), iterator


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def parts(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.glob("*/**/*") if path.is_file())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    stage = tmp_path_factory.mktemp("stage")
    save(stage, range(1, 4))
    return stage


def copy(saved: Path, stage: Path) -> Path:
    subprocess.run(["cp", "-r", saved, stage], check=True)
    return stage


@pytest.mark.parametrize("damage", [remove, empty, flip])
def test_the_older_checkpoint_stands_in_for_a_damaged_one(saved, tmp_path, damage):
    for number, part in enumerate(parts(saved / "last" / "3")):
        stage = copy(saved, tmp_path / str(number))
        damage(stage / part.relative_to(saved))
        restored, iterator = restore(stage)
        assert restored is not None
        assert int(restored.state.step) == 2
        assert restored.meta == {"epoch": 2}
        assert next(iterator) == 2
        assert part.relative_to(saved / "last" / "3").as_posix() in restored.damaged[0]
        assert (stage / "damaged" / "3").is_dir()


def test_training_goes_on_past_a_damaged_checkpoint(saved, tmp_path):
    stage = copy(saved, tmp_path / "stage")
    flip(parts(stage / "last" / "3")[0])
    restore(stage)
    save(stage, range(3, 5))
    restored, _ = restore(stage)
    assert restored is not None
    assert (int(restored.state.step), restored.damaged) == (4, [])


def test_an_empty_checkpoint_folder_is_passed_over(saved, tmp_path):
    stage = copy(saved, tmp_path / "stage")
    (stage / "last" / "9").mkdir()
    restored, _ = restore(stage)
    assert restored is not None
    assert int(restored.state.step) == 3


def test_without_a_whole_checkpoint_nothing_is_removed(saved, tmp_path):
    stage = copy(saved, tmp_path / "stage")
    for step in ("2", "3"):
        flip(parts(stage / "last" / step)[-1])
    with pytest.raises(
        UserError, match=r"no checkpoint can be restored.*has changed.*restart=true"
    ):
        restore(stage)
    assert {entry.name for entry in (stage / "last").iterdir()} == {"2", "3"}


def test_another_number_of_processes_is_refused_in_words(saved, tmp_path):
    stage = copy(saved, tmp_path / "stage")
    for step in ("2", "3"):
        folder = stage / "last" / step / "batches"
        for path in list(folder.glob("*-of-1*")):
            path.rename(folder / path.name.replace("-of-1", "-of-2"))
    with pytest.raises(UserError, match="saved by 2 processes, not 1; resume with as many"):
        restore(stage)


def test_a_damaged_best_checkpoint_is_named(tmp_path):
    variables = Variables({"kernel": jnp.ones((8, 8))}, {})
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(1, variables, {"epoch": 1})
    read, meta = restore_best(tmp_path, variables)
    jax.tree.map(np.testing.assert_array_equal, read.params, variables.params)
    assert meta == {"epoch": 1}
    flip(parts(tmp_path / "best" / "1")[-1])
    with pytest.raises(UserError, match=r"damaged.*has changed"):
        restore_best(tmp_path, variables)


def random_state(step: int) -> TrainState:
    """160 KB that no compression makes smaller: the small disk holds two of them."""
    return state_of(np.random.default_rng(step).standard_normal((200, 200), np.float32), step)


def test_a_full_disk_keeps_the_checkpoints_before_it(small_disk):
    def train(first: int) -> None:
        with open_checkpoints(small_disk) as checkpoints:
            iterator = batches()
            for step in range(first, 5):
                next(iterator)
                checkpoints.save_last(step, random_state(step), iterator, {"epoch": step})

    with pytest.raises(OSError, match="No space left on device") as error:
        train(1)
    assert error.value.filename == str(small_disk)
    kept = sorted(entry.name for entry in (small_disk / "last").iterdir())
    assert kept == ["1", "2"]
    subprocess.run(["mount", "-o", "remount,size=2M", str(small_disk)], check=True)
    assert step_restored(small_disk) == 2
    train(3)
    assert step_restored(small_disk) == 4


def step_restored(stage: Path) -> int:
    with open_checkpoints(stage) as checkpoints:
        restored = checkpoints.restore_last(random_state(0), batches())
    assert restored is not None
    return int(restored.state.step)
