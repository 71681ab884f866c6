"""A run and some scans for every test of `explain`."""

from pathlib import Path

import pytest
from narrow_run import make_run
from PIL import Image

from oct_jax.data.phantom import phantom_scans


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "narrow")


@pytest.fixture
def scans(tmp_path) -> Path:
    """A folder with three phantoms, one of them in a subfolder."""
    folder = tmp_path / "scans"
    (folder / "more").mkdir(parents=True)
    source = phantom_scans(patients=24, seed=2)
    for index, name in enumerate(("a.png", "b.png", "more/c.png")):
        Image.fromarray(source.read(index)).save(folder / name)
    return folder
