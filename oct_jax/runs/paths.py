"""Which runs there are, without reading them and without JAX, so that errors come at once."""

from __future__ import annotations

from pathlib import Path

from oct_jax.paths import expand_home
from oct_jax.types import UserError

STAGES = ("frozen", "finetune")


def has_best(stage_folder: Path) -> bool:
    """Whether the stage has a whole best checkpoint."""
    return any(is_step(entry) for entry in (stage_folder / "best").glob("*"))


def is_step(entry: Path) -> bool:
    """Whether a folder has the name of a whole checkpoint: the number of its step."""
    return entry.name.isdecimal()


def latest_stage(run: Path) -> str:
    """The last stage of a run that has a trained model.

    Raises:
      UserError: there is no run in the folder, or none of its stages has finished an epoch.
    """
    if not (run / "config.json").is_file():
        raise UserError(f"{run}: no run here; make one with `just train stage=frozen run={run}`")
    for stage in reversed(STAGES):
        if has_best(run / stage):
            return stage
    raise UserError(f"{run}: no trained model yet; `just train stage=frozen run={run}`")


def has_trained_run(root: Path = Path("runs")) -> bool:
    """Whether a run below `root` has a trained model."""
    return any(has_best(run / stage) for run in root.glob("*") for stage in STAGES)


def latest_run(root: Path = Path("runs")) -> Path:
    """The run below `root` whose best checkpoint is the newest.

    Raises:
      UserError: none has a trained model.
    """
    trained = [
        (best.stat().st_mtime, run)
        for run in root.glob("*")
        for stage in STAGES
        if has_best(run / stage)
        for best in (run / stage / "best").iterdir()
    ]
    if not trained:
        raise UserError(f"{root}: no trained run; `just demo` makes one, or say run=FOLDER")
    return max(trained)[1]


def find_run(name: str | None) -> Path:
    """The folder of the run of that name, which has a trained model; None: of the latest run.

    Raises:
      UserError: there is no such run, or it has no trained model yet.
    """
    run = latest_run() if name is None else Path(expand_home(name))
    latest_stage(run)
    return run
