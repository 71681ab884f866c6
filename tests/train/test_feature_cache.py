"""Cached features are used again only for the very model that made them."""

import contextlib
import importlib
import sys

import numpy as np
import pytest

from oct_jax.data.phantom import phantom_scans
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.strengths import Augment
from oct_jax.model.protocol import build
from oct_jax.train import feature_cache

PREPROCESS = Preprocess(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
SCANS = phantom_scans(patients=24, seed=0)
MODULE = """
from dataclasses import dataclass
from toy_model import ToyModel

@dataclass(frozen=True)
class Backbone:
    crop: int = 0

    def build(self):
        return ToyModel()

    def fold(self, variables):
        return variables, self
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Source of a backbone of one's own, importable, and scans that cost nothing."""
    images = np.zeros((len(SCANS), 16, 16), np.uint8)
    batches = [{"image": part} for part in np.split(images, range(8, len(images), 8))]
    monkeypatch.setattr(feature_cache, "augmented_views", lambda *_, **__: batches)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "backbone_of_ones_own.py"
    path.write_text(MODULE)
    yield path
    sys.modules.pop(path.stem, None)


def cached(folder, module, **config):
    sys.modules.pop(module.stem, None)
    importlib.invalidate_caches()
    model = importlib.import_module(module.stem).Backbone(**config)
    variables = build(model).init(0)
    features = feature_cache.cached_views(
        folder, model, variables, SCANS, PREPROCESS, Augment(), views=1, seed=0, threads=1
    )
    assert features.shape == (1, len(SCANS), 8)
    (path,) = folder.glob("features-*")
    return path.name


def test_another_config_or_other_code_computes_features_anew(tmp_path, module):
    folder = tmp_path / "cache"
    folder.mkdir()
    first = cached(folder, module)
    assert cached(folder, module) == first
    assert cached(folder, module, crop=3) != first
    module.write_text(MODULE.replace("ToyModel()", "ToyModel(dropout=0.5)"))
    assert cached(folder, module) != first


def test_a_full_disk_is_an_error_that_leaves_nothing(small_disk, module):
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1000))
    with pytest.raises(OSError, match="No space left on device") as error:
        cached(small_disk, module)
    assert "features-" in error.value.filename
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
