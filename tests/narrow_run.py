"""A run of a narrow network on phantoms, its weights random: enough for every path of `explain`."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from oct_jax.data.manifest import write_manifest
from oct_jax.data.phantom import phantom_scans
from oct_jax.data.preprocess import HeatmapGrid, Preprocess
from oct_jax.files import write_json
from oct_jax.model.fold import fold
from oct_jax.model.grid import write_grid
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Variables, build
from oct_jax.runs.checkpoints import open_checkpoints
from oct_jax.runs.config import RunConfig, write_run_config

MODEL = MobileNetV3Config("large_minimalistic", width=0.25)
PREPROCESS = Preprocess(size=64, mean=(0.5,) * 3, std=(0.5,) * 3)


def make_run(folder: Path, seed: int = 0, preprocess: Preprocess = PREPROCESS) -> Path:
    """A run folder with a frozen stage whose head is random, but not near 0."""
    return Path(shutil.copytree(_made_once(seed, preprocess), folder))


@functools.cache
def _made_once(seed: int, preprocess: Preprocess) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="oct_jax_narrow_run"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    variables = build(MODEL).init(seed)
    rng = np.random.default_rng(seed)
    kernel = variables.params["head"]["classifier"]["kernel"]
    spread = jnp.asarray(rng.standard_normal(kernel.shape, np.float32))
    head = variables.params["head"] | {
        "classifier": {"kernel": spread, "bias": variables.params["head"]["classifier"]["bias"]}
    }
    stage = folder / "frozen"
    stage.mkdir(parents=True)
    settings = {"data": "phantom", "on_bad_scan": "refuse", "seed": 1, "phantom_patients": 24}
    write_run_config(folder, RunConfig(settings, MODEL, preprocess, synthetic=True))
    write_json(folder / "provenance.json", {})
    write_manifest(phantom_scans(patients=24, seed=1).records, folder / "manifest.csv")
    with open_checkpoints(stage) as checkpoints:
        trained = Variables({**variables.params, "head": head}, variables.stats)
        checkpoints.save_best(1, trained, {"epoch": 1})
    folded, _ = fold(trained, MODEL)
    write_grid(stage, HeatmapGrid(32.0, 32.0, 21.0, 19.0), folded)
    return folder
