"""Settings: what is understood, what is refused, and in which words."""

import dataclasses

import chz
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.commands import settings
from oct_jax.commands.parsing import PATHS, HelpRequested, flatten, keys_of, parse, unflatten
from oct_jax.commands.settings import RUN_WIDE, TrainConfig
from oct_jax.commands.train_settings import augmentation_of, read_settings, stage_settings
from oct_jax.data.augment.reference import ReferenceAugmentation
from oct_jax.data.preprocess import Preprocess
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.runs.config import RunConfig, write_run_config
from oct_jax.types import UserError

STAGE = st.sampled_from(["frozen", "finetune"])
SOUND = {
    "data": st.text(
        st.characters(exclude_categories=["C", "Z"], exclude_characters="~"), min_size=1
    ),
    "epochs": st.integers(1, 1000),
    "learning_rate": st.floats(1e-9, 10),
    "precision": st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
    "restart": st.booleans(),
    "augment.flip": st.floats(0, 1),
    "augment.rotation": st.floats(0, 180),
    "label_smoothing": st.floats(0, 0.99),
}


def read(*words):
    return parse(TrainConfig, words, {})


@given(st.fixed_dictionaries({"stage": STAGE}, optional=SOUND))
def test_words_to_settings_and_back(values):
    config = read(*(f"{name}={value}" for name, value in values.items()))
    flat = flatten(config)
    assert {name: flat[name] for name in values} == values
    assert unflatten(TrainConfig, flat) == config


def test_defaults_stand_in_for_absent_words_alone():
    config = parse(TrainConfig, ["stage=frozen", "seed=3"], {"seed": 7, "batch_size": 5})
    assert (config.seed, config.batch_size) == (3, 5)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["stage=thaw"], "stage=thaw: must be frozen or finetune"),
        ([], "stage: must be given, as stage=frozen or finetune"),
        (["stage=frozen", "epoch=3"], "epoch=3: unknown key epoch; did you mean epochs?"),
        (["stage=frozen", "epochs=1.5"], "epochs=1.5: must be a whole number"),
        (["stage=frozen", "epochs=0"], "epochs=0: must be from 1 to 100000"),
        (["stage=frozen", "learning_rate=fast"], "learning_rate=fast: must be a number"),
        (["stage=frozen", "learning_rate=nan"], "learning_rate=nan: must be above 0"),
        (["stage=frozen", "learning_rate=inf"], "learning_rate=inf: must be above 0"),
        (["stage=frozen", "restart=yes"], "restart=yes: must be true or false"),
        (["stage=frozen", "augment.flip=2"], "augment.flip=2.0: must be from 0 to 1"),
        (["stage=frozen", "augment.spin=2"], "augment.spin=2: unknown key augment.spin"),
        (["stage=frozen", "data="], "data=: must not be empty"),
        (["stage=frozen", "stage=frozen"], "stage: given twice"),
        (["frozen"], "'frozen': settings are written key=value"),
        (["stage=frozen", "batch_size=32", "accumulate=5"], "accumulate=5: must divide"),
        (["stage=frozen", "...flip=1"], "...flip=1: unknown key"),
        (["stage=frozen", "precision=bf16"], "precision=bf16: must be auto or float32 or"),
        (["stage=frozen", "epochs=1_000"], "epochs=1_000: must be a whole number, in plain digits"),
        (["stage=frozen", "epochs=٣"], "epochs=٣: must be a whole number, in plain digits"),
        (["stage=frozen", "epochs= 3"], "epochs= 3: must be a whole number, in plain digits"),
        (["stage=frozen", "width=1_0"], "width=1_0: must be a number, in plain digits"),
        (["stage=frozen", "epochs=" + "9" * 18], "epochs=999999999999999999: must be from 1 to"),
        (["stage=frozen", "epochs=" + "9" * 5000], "epochs=9999999999"),
        (["stage=frozen", "seed=4294967296"], "seed=4294967296: must be from 0 to 4294967295"),
        (["stage=frozen", "image_size=100000"], "image_size=100000: must be from 32 to 2048"),
        (["stage=frozen", "phantom_patients=1000000000"], "phantom_patients=1000000000: must be"),
        (["stage=frozen", "learning_rate=1e9999"], "learning_rate=inf: must be above 0"),
        (["stage=frozen", "manifest="], "manifest=: must not be empty"),
        (["stage=frozen", "data=a\nb"], "'data=a\\nb': holds a line break or another control"),
        (["stage=frozen", "data=a\0b"], "'data=a\\x00b': holds a line break or another control"),
        (["stage=frozen", "data=a\u2028b"], "'data=a\\u2028b': holds a line break or another"),
        (
            ["stage=frozen", "run=~no-such-user/x"],
            "run=~no-such-user/x: ~no-such-user is no user's home",
        ),
        (["stage=frozen", "x" * 300 + "=1"], "x" * 77 + "...=1: unknown key"),
    ],
)
def test_a_mistake_is_one_line_that_names_key_value_and_choices(words, line):
    with pytest.raises(UserError) as error:
        read(*words)
    assert str(error.value).startswith(line)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("key", ["run", "data", "manifest", "weights"])
def test_a_home_folder_is_expanded_in_paths_and_in_nothing_else(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = read("stage=frozen", f"{key}=~/x", "distributed=~/x")
    assert getattr(config, key) == "/home/me/x"
    assert config.distributed == "~/x"
    with pytest.raises(UserError, match="~no-such-user is no user's home"):
        read("stage=frozen", f"{key}=~no-such-user/x")


def test_every_setting_that_is_a_path_is_expanded():
    configs = [
        value for value in vars(settings).values() if isinstance(value, type) and chz.is_chz(value)
    ]
    paths = {
        key.name
        for config in configs
        for key in keys_of(config)
        if any(word in f" {key.doc}" for word in (" folder", " file", "manifest.csv", " zip"))
        and "str" in str(key.type)
    }
    assert paths <= PATHS | {"labels", "unseen", "distributed"}
    assert {"run", "data", "root", "out", "manifest", "write_manifest"} <= paths | {
        "write_manifest"
    }


def test_help_names_every_key_with_default_and_meaning():
    with pytest.raises(HelpRequested) as text:
        read("--help")
    for key in keys_of(TrainConfig):
        assert key.doc
        assert f"  {key.name} " in str(text.value)
        assert f"default: {key.default}" in str(text.value)


def test_settings_do_not_change():
    config = read("stage=frozen")
    with pytest.raises(Exception, match="Cannot modify"):
        config.seed = 1
    assert config.learning_rate == "auto"


@pytest.fixture
def reference_run(tmp_path):
    """A run folder whose frozen stage was begun with protocol=reference."""
    frozen = read_settings(["stage=frozen", "protocol=reference", f"run={tmp_path}"])
    fixed = {name: getattr(frozen, name) for name in RUN_WIDE}
    preprocess = Preprocess(size=224, mean=(0.5,) * 3, std=(0.5,) * 3, resize=frozen.resize)
    write_run_config(tmp_path, RunConfig(fixed, MobileNetV3Config(), preprocess, synthetic=True))
    return tmp_path


def test_the_reference_protocol_is_the_references_whatever_the_defaults_are(reference_run):
    words = ["protocol=reference", f"run={reference_run}"]
    frozen = stage_settings(read_settings(["stage=frozen", *words]))
    finetune = stage_settings(read_settings(["stage=finetune", *words]))
    assert (frozen.epochs, frozen.learning_rate, finetune.learning_rate) == (10, 3e-3, 1e-5)
    assert read_settings(["stage=finetune", *words]).resize == "squash"
    for stage in (frozen, finetune):
        assert (stage.clip_norm, stage.warmup_epochs, stage.schedule) == (0.0, 1.0, "cosine")
        assert stage.least_warmup_steps == 0
        assert not any(dataclasses.asdict(stage.augment).values())  # another takes its place
    assert augmentation_of(read_settings(["stage=finetune", *words])) == ReferenceAugmentation()
    assert augmentation_of(read("stage=frozen")) is None
    assert stage_settings(read("stage=frozen")).least_warmup_steps == 30


def test_the_second_stage_takes_the_protocol_over(reference_run):
    finetune = read_settings(["stage=finetune", f"run={reference_run}"])
    assert (finetune.protocol, finetune.learning_rate) == ("reference", 1e-5)
    with pytest.raises(UserError, match=r"protocol=default: the frozen stage of .* fixed protocol"):
        read_settings(["stage=finetune", f"run={reference_run}", "protocol=default"])


@pytest.mark.parametrize(
    ("word", "fixed"),
    [
        ("learning_rate=1e-3", "learning_rate=0.003"),
        ("epochs=30", "epochs=10"),
        ("augment.grain=0.5", "augment.grain=0.0"),
        ("augment.flip=0.5", "augment.flip=0.0"),
        ("clip_norm=1", "clip_norm=0.0"),
        ("resize=crop", "resize=squash"),
    ],
)
def test_what_contradicts_the_reference_protocol_is_refused(tmp_path, word, fixed):
    words = ["stage=frozen", "protocol=reference", f"run={tmp_path}", word]
    with pytest.raises(UserError, match=f"protocol=reference fixes {fixed}; leave out one"):
        read_settings(words)


def test_auto_leaves_the_rate_to_the_number_of_steps():
    assert stage_settings(read("stage=finetune")).learning_rate is None
    assert stage_settings(read("stage=finetune", "learning_rate=1e-3")).learning_rate == 1e-3
