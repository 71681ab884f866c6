"""Whose folder it is: nothing that the package did not make is moved or written over."""

from pathlib import Path

import chz
import pytest

from oct_jax.commands.parsing import flatten
from oct_jax.commands.settings import TrainConfig
from oct_jax.commands.train_settings import check_run_wide
from oct_jax.data.preprocess import Preprocess
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.runs.config import RunConfig
from oct_jax.runs.folder import begin_run, begin_stage, check_startable, exclusive, has_run
from oct_jax.runs.ownership import MARKER, claim_folder, put_aside
from oct_jax.types import UserError

FROZEN = TrainConfig(stage="frozen")
RUN = RunConfig(
    {"backbone": "mobilenetv3"},
    MobileNetV3Config(),
    Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3),
    synthetic=True,
)


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def begin(folder: Path, config: TrainConfig = FROZEN) -> Path | None:
    check_startable(folder, restart=config.restart)
    aside = begin_run(folder, RUN, [], {})
    begin_stage(folder, config.stage, flatten(config))
    return aside


@pytest.mark.parametrize("name", ["export/mine.txt", "evaluation/report.json", "config.json"])
def test_a_folder_of_the_users_is_refused_and_left_as_it_was(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    for start in (begin, claim_folder, lambda folder: begin_run(folder, RUN, [], {})):
        with pytest.raises(UserError, match="holds files that oct_jax did not make"):
            start(tmp_path)
    assert contents(tmp_path) == before


def test_a_restart_keeps_all_that_it_replaces(tmp_path):
    folder = tmp_path / "run"
    assert begin(folder) is None
    for name in ("finetune", "export", "notes"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(name)
    before = contents(folder)
    aside = begin(folder, chz.replace(FROZEN, restart=True))
    assert aside == folder / "replaced" / "1"
    after = contents(folder)
    for name, content in before.items():
        kept = name if name in (MARKER, "notes/file") else f"replaced/1/{name}"
        assert after[kept] == content
    assert begin(folder, chz.replace(FROZEN, restart=True)) == folder / "replaced" / "2"


def test_a_trained_stage_without_the_runs_settings_is_kept(tmp_path):
    folder = tmp_path / "run"
    begin(folder)
    (folder / "finetune" / "best" / "7").mkdir(parents=True)
    (folder / "frozen" / "config.json").unlink()
    assert not has_run(folder)
    with pytest.raises(UserError, match=r"frozen/config.json is missing, but finetune is trained"):
        begin(folder)
    assert (folder / "finetune" / "best" / "7").is_dir()


def test_nothing_is_put_aside_where_there_is_nothing(tmp_path):
    assert put_aside(tmp_path, ["frozen"]) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make this folder"):
        claim_folder(tmp_path / "file" / "run")


def test_settings_that_the_run_has_fixed_cannot_be_changed_from_python():
    config = TrainConfig(stage="finetune", seed=3)
    check_run_wide(config, {"seed": 3})
    with pytest.raises(UserError, match=r"seed=3: the frozen stage of runs/default fixed seed=0"):
        check_run_wide(config, {"seed": 0})


def test_one_process_at_a_time_changes_a_run(tmp_path):
    refusal = pytest.raises(UserError, match="another process is changing this run")
    with exclusive(tmp_path / "run"), refusal, exclusive(tmp_path / "run"):
        pass
    with exclusive(tmp_path / "run"):
        pass


def test_a_run_that_did_not_begin_leaves_no_folder(tmp_path):
    def fails(folder, name=None):
        with exclusive(folder):
            if name:
                (folder / name).write_text("mine")
            raise UserError("no such data")

    (tmp_path / "empty").mkdir()
    for folder in ("new/run", "empty", "used"):
        with pytest.raises(UserError, match="no such data"):
            fails(tmp_path / folder, "notes.txt" if folder == "used" else None)
    assert contents(tmp_path).keys() == {"used/.oct_jax", "used/notes.txt"}
    assert not (tmp_path / "new").exists()
