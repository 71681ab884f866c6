"""The protocol of backbones is what docs/backbones.md says, and all that a backbone needs."""

import re
from pathlib import Path

import pytest
from toy_model import ToyConfig, ToyModel

from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.pooled import PooledModel
from oct_jax.model.protocol import LoadableConfig, Model, ModelConfig

PAGE = Path(__file__).parent.parent.parent / "docs/backbones.md"


def members(protocol):
    return {name for name in vars(protocol) if not name.startswith("_")}


def documented(title):
    table = PAGE.read_text().split(f"| `{title}` | from | to |\n")[1].split("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))


def test_the_page_names_every_member():
    assert documented("Model") == members(Model)
    assert documented("ModelConfig") == members(ModelConfig) | members(LoadableConfig)


@pytest.mark.parametrize("model", [ToyModel(), MobileNetV3Config(width=0.25).build()])
def test_models_keep_the_protocol(model):
    assert isinstance(model, Model)
    assert hash(model) == hash(model)


@pytest.mark.parametrize("config", [ToyConfig(), MobileNetV3Config(), PooledModel()])
def test_configs_keep_the_protocol(config):
    assert isinstance(config, ModelConfig)


def test_a_model_of_the_protocol_alone_is_trained_by_other_tests():
    """`tests/train/test_stages.py` trains it in both stages; it has nothing beyond the protocol."""
    assert members(ToyModel) - {"features_out", "dropout", "dtype"} == members(Model)
    assert members(ToyConfig) - {"dropout", "dtype", "remat", "load"} == members(ModelConfig)
