"""Strict `key=value` configuration: one frozen dataclass for each command.

chz turns `key=value` words into typed, immutable values; this module adds what a person at a
terminal needs of it: one line for each mistake, that names the key, the value and the choices.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import chz
from chz.blueprint import (
    ConstructionException,
    ExtraneousBlueprintArg,
    InvalidBlueprintArg,
    MissingBlueprintArg,
)
from chz.util import MISSING

from oct_jax.data.strengths import Augment
from oct_jax.types import Resize, UserError

Config = TypeVar("Config")
MAX_SEED = 2**32 - 1
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf|nan")
_CHZ_ERRORS = (
    ConstructionException,
    ExtraneousBlueprintArg,
    InvalidBlueprintArg,
    MissingBlueprintArg,
)


def at_least(low: float) -> Callable[[Any, str], None]:
    """A validator: the value, where there is one, is finite and not below `low`."""
    return _check(lambda value: low <= value, f"at least {low:g}")


def above(low: float) -> Callable[[Any, str], None]:
    """A validator: the value, where there is one, is finite and above `low`."""
    return _check(lambda value: low < value, f"above {low:g}")


def between(low: float, high: float) -> Callable[[Any, str], None]:
    """A validator: the value lies in the closed interval from `low` to `high`."""
    return _check(lambda value: low <= value <= high, f"from {low:.10g} to {high:.10g}")


def below(low: float, high: float) -> Callable[[Any, str], None]:
    """A validator: the value is at least `low` and below `high`."""
    return _check(lambda value: low <= value < high, f"at least {low:g} and below {high:g}")


def inside(low: float, high: float) -> Callable[[Any, str], None]:
    """A validator: the value is above `low` and below `high`."""
    return _check(lambda value: low < value < high, f"above {low:g} and below {high:g}")


def _check(holds: Callable[[float], bool], words: str) -> Callable[[Any, str], None]:
    def validate(config: Any, name: str) -> None:
        value = getattr(config, name)
        if value is not None and not (-math.inf < value < math.inf and holds(value)):
            raise UserError(f"{name.removeprefix('X_')}={value}: must be {words}")

    return validate


def _not_empty(config: Any, name: str) -> None:
    if getattr(config, name) == "":
        raise UserError(f"{name.removeprefix('X_')}=: must not be empty")


def _settings_of(values: Any) -> Any:
    """A chz class with the fields of a plain dataclass, which also checks them when it is made."""
    fields = {
        field.name: chz.field(default=field.default, doc=field.metadata["doc"])
        for field in dataclasses.fields(values)
    }

    @chz.validate
    def check(self: Any) -> None:
        values(**chz.asdict(self))

    annotations = dict.fromkeys(fields, float)
    body = {"__annotations__": annotations, "__doc__": values.__doc__, "_check": check, **fields}
    return chz.chz(type(f"{values.__name__}Settings", (), {"__module__": __name__, **body}))


if TYPE_CHECKING:
    AugmentSettings = Augment
else:
    AugmentSettings = _settings_of(Augment)


# Settings that belong to the run, not to one stage: the frozen stage fixes them, the finetune
# stage takes them over, and a word that contradicts them is refused.
RUN_WIDE = (
    "data",
    "manifest",
    "on_bad_scan",
    "phantom_patients",
    "backbone",
    "weights",
    "variant",
    "width",
    "image_size",
    "resize",
    "seed",
)
# Settings that do not change what is computed: a resumed stage may be given others.
FREE_ON_RESUME = ("checkpoint_steps", "threads", "restart", "distributed")


@chz.chz
class TrainConfig:
    """Train one of the two stages of transfer learning."""

    stage: Literal["frozen", "finetune"] = chz.field(
        doc="frozen: the head alone learns; finetune: end to end, from the frozen stage's best"
    )
    run: str = chz.field(default="runs/default", validator=_not_empty, doc="the run folder")
    data: str = chz.field(
        default="phantom",
        validator=_not_empty,
        doc="a folder of scans, or phantom: synthetic scans made by the package",
    )
    manifest: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="a manifest.csv of an earlier run, to use its scans and splits exactly",
    )
    on_bad_scan: Literal["refuse", "skip"] = chz.field(
        default="refuse", doc="what to do with unreadable or wrongly filed scans"
    )
    phantom_patients: int = chz.field(
        default=240, validator=between(24, 100_000), doc="synthetic patients, where data=phantom"
    )
    backbone: str = chz.field(
        default="mobilenetv3",
        validator=_not_empty,
        doc="mobilenetv3, resnet50, resnet152, efficientnetb0, efficientnetb3, vit, or MODULE:CLASS"
        " of your own (docs/backbones.md)",
    )
    weights: str = chz.field(
        default="auto",
        validator=_not_empty,
        doc="timm, torchvision, torchvision_v1, keras, minimalistic, random or a file; of other"
        " backbones keras, random or a file; auto: timm or keras for scans, random for the phantom",
    )
    variant: Literal["large", "large_minimalistic"] = chz.field(
        default="large", doc="architecture, where weights=random; a weight file brings its own"
    )
    width: float = chz.field(
        default=1.0,
        validator=between(0.01, 10),
        doc="width multiplier, where weights=random; a weight file brings its own",
    )
    image_size: int = chz.field(
        default=224, validator=between(32, 2048), doc="side to which scans are resized, pixels"
    )
    resize: Resize = chz.field(
        default="squash", doc="squash, letterbox (pad), crop (centre) or retina (window around it)"
    )
    seed: int = chz.field(
        default=0,
        validator=between(0, MAX_SEED),
        doc="seed of split, order, augmentation, dropout, head",
    )
    epochs: int | None = chz.field(
        default=None,
        validator=between(1, 100_000),
        doc="passes over the training scans (10; finetune 15)",
    )
    batch_size: int = chz.field(
        default=32,
        validator=between(1, 65_536),
        doc="scans in a step, over all devices and processes",
    )
    accumulate: int = chz.field(
        default=1,
        validator=at_least(1),
        doc="micro-batches that one step adds up, for small devices; divides batch_size",
    )
    learning_rate: float | None = chz.field(
        default=None,
        validator=above(0),
        doc="peak learning rate (3e-3; finetune 1e-5, which was measured to be too low on real"
        " scans: give 3e-4)",
    )
    schedule: Literal["cosine", "constant"] = chz.field(
        default="cosine", doc="learning rate after warm-up: cosine to 0, or constant"
    )
    warmup_epochs: float = chz.field(
        default=1.0, validator=between(0, 100_000), doc="epochs of linear warm-up from 0"
    )
    weight_decay: float = chz.field(
        default=1e-4, validator=at_least(0), doc="AdamW's decay of kernels (not of norms, biases)"
    )
    class_weights: Literal["balanced", "none"] = chz.field(
        default="balanced", doc="balanced: each class weighs N/(K n_c) in the loss"
    )
    label_smoothing: float = chz.field(
        default=0.1, validator=below(0, 1), doc="share of the target spread over all classes"
    )
    dropout: float = chz.field(
        default=0.2, validator=below(0, 1), doc="dropout rate before the last layer"
    )
    batchnorm: Literal["auto", "frozen", "update"] = chz.field(
        default="auto",
        doc="finetune: keep the pretrained BatchNorm statistics, or update them;"
        " auto: frozen for pretrained weights, update for random ones",
    )
    cache_features: Literal["auto", "on", "off"] = chz.field(
        default="auto",
        doc="frozen: run the backbone once over the scans and train the head on its features;"
        " auto: on, unless several processes share the work",
    )
    views: int = chz.field(
        default=5,
        validator=between(1, 1000),
        doc="augmented versions of every scan in the feature cache",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = chz.field(
        default="auto", doc="compute type; auto: bfloat16 on TPU and GPU, float32 on CPU"
    )
    remat: Literal["none", "blocks"] = chz.field(
        default="none", doc="blocks: recompute the first blocks in the backward pass to save memory"
    )
    augment: AugmentSettings = chz.field(
        default_factory=AugmentSettings, doc="strengths of augmentation"
    )
    threads: int = chz.field(
        default=4, validator=between(1, 256), doc="threads that read and prepare scans"
    )
    checkpoint_steps: int = chz.field(
        default=500, validator=at_least(1), doc="steps between checkpoints inside an epoch"
    )
    restart: bool = chz.field(
        default=False, doc="drop what this stage already has and train it from its start"
    )
    distributed: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="auto: train with the processes that JAX finds (TPU pod, Slurm, Open MPI, Kubernetes);"
        " HOST:PORT/INDEX/COUNT: with those that are started with the same address and count;"
        " all share the run folder",
    )

    @chz.validate
    def _accumulate_divides(self) -> None:
        if self.batch_size % self.accumulate:
            raise UserError(
                f"accumulate={self.accumulate}: must divide batch_size={self.batch_size}"
            )

    @chz.validate
    def _variants_are_of_mobilenet(self) -> None:
        for name, default in (("variant", "large"), ("width", 1.0)):
            value = getattr(self, name)
            if self.backbone != "mobilenetv3" and value != default:
                raise UserError(
                    f"{name}={value}: is of backbone=mobilenetv3 alone, not of {self.backbone}"
                )

    @chz.validate
    def _cache_needs_a_frozen_backbone(self) -> None:
        if self.cache_features == "on" and self.stage == "finetune":
            raise UserError(
                "cache_features=on: must be auto or off where stage=finetune, whose features change"
            )

    @property
    def augmentation(self) -> Augment:
        """Strengths of augmentation as the library takes them."""
        return Augment(**chz.asdict(self.augment))

    @property
    def total_epochs(self) -> int:
        """Epochs, with the stage's default where none were given."""
        return self.epochs or {"frozen": 10, "finetune": 15}[self.stage]

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate, with the stage's default where none was given."""
        return self.learning_rate or {"frozen": 3e-3, "finetune": 1e-5}[self.stage]


@chz.chz
class AuditConfig:
    """Look for leaks, duplicates, damaged files and shortcuts in a folder of scans."""

    root: str = chz.field(validator=_not_empty, doc="the folder of scans; may be the first word")
    out: str = chz.field(
        default="audit", validator=_not_empty, doc="folder for audit.json and audit.html"
    )
    write_manifest: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="write a manifest here whose splits share no patient and no picture",
    )
    seed: int = chz.field(default=0, validator=between(0, MAX_SEED), doc="seed of the clean splits")


@chz.chz
class PrepareConfig:
    """Build the records of a data set once, to be read fast ever after."""

    root: str = chz.field(
        validator=_not_empty, doc="a folder of scans or a zip of one; may be the first word"
    )
    out: str = chz.field(validator=_not_empty, doc="the folder to make; must not exist")
    manifest: str | None = chz.field(
        default=None, validator=_not_empty, doc="a manifest.csv whose scans and splits to use"
    )
    on_bad_scan: Literal["refuse", "skip"] = chz.field(
        default="refuse", doc="what to do with unreadable or wrongly filed scans"
    )
    seed: int = chz.field(
        default=0,
        validator=between(0, MAX_SEED),
        doc="seed of the splits, where the folder has none",
    )
    cache: bool = chz.field(
        default=False, doc="make a training cache of resized scans instead of records"
    )
    size: int = chz.field(
        default=224, validator=between(32, 2048), doc="side of the cached scans, pixels"
    )
    resize: Resize = chz.field(default="squash", doc="how the cached scans are made square")


@chz.chz
class ExplainConfig:
    """Show where scans look like a class: `explain SCAN [FOLDER GLOB ...] [key=value ...]`."""

    run: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="the run folder; none: the newest trained run under runs/",
    )
    target: Literal["CNV", "DME", "DRUSEN", "NORMAL"] | None = chz.field(
        default=None, doc="the class to explain; none: each scan's own prediction"
    )
    out: str | None = chz.field(
        default=None, validator=_not_empty, doc="folder for what is written; none: beside each scan"
    )
    method: Literal["gradcam", "gradcam++", "hirescam", "eigencam"] = chz.field(
        default="gradcam", doc="the class activation map; the run's report tests gradcam"
    )
    flip: bool = chz.field(
        default=False, doc="average the map with that of the mirrored scan, mirrored back"
    )


@chz.chz
class ExplainReportConfig:
    """Test a run's explanations: deletion, insertion, ROAD, randomised weights, lesions, noise."""

    run: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="the run folder; none: the newest trained run under runs/",
    )
    method: Literal["gradcam", "gradcam++", "hirescam", "eigencam"] = chz.field(
        default="gradcam", doc="the class activation map to test"
    )
    flip: bool = chz.field(
        default=False, doc="average the map with that of the mirrored scan, mirrored back"
    )
    scans: int = chz.field(
        default=60, validator=at_least(8), doc="test scans, spread evenly over the classes"
    )
    steps: int = chz.field(
        default=8,
        validator=between(2, 1000),
        doc="shares of the scan removed, in the deletion curve",
    )
    seed: int = chz.field(
        default=0, validator=between(0, MAX_SEED), doc="seed of random maps, noise and resampling"
    )


@chz.chz
class EvaluateConfig:
    """Evaluate a run on scans that it was not trained on."""

    run: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="the run folder; none: the newest trained run under runs/",
    )
    data: str | None = chz.field(
        default=None, validator=_not_empty, doc="another folder of scans; none: the run's own data"
    )
    manifest: str | None = chz.field(
        default=None, validator=_not_empty, doc="a manifest.csv whose scans and splits to use"
    )
    split: Literal["test", "val", "calibration", "all"] | None = chz.field(
        default=None, doc="which scans; none: test of the run's own data, all of another folder"
    )
    labels: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="for folders of other labels, what classes they hold: AMD:CNV+DRUSEN,HEALTHY:NORMAL",
    )
    prevalence: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="how common classes are, for precision there: CNV:0.05,DME:0.05,DRUSEN:0.1;"
        " NORMAL is the rest",
    )
    allow_overlap: bool = chz.field(
        default=False,
        doc="evaluate although the run was trained on some of the scans or patients; every figure"
        " is then marked contaminated",
    )
    on_bad_scan: Literal["refuse", "skip"] = chz.field(
        default="refuse", doc="what to do with unreadable or wrongly filed scans"
    )
    resamples: int = chz.field(
        default=1000,
        validator=between(10, 1_000_000),
        doc="draws of patients for the 95 % intervals",
    )
    seed: int = chz.field(default=0, validator=between(0, MAX_SEED), doc="seed of these draws")
    threads: int = chz.field(
        default=4, validator=between(1, 256), doc="threads that read and prepare scans"
    )
    out: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="folder for the report; none: evaluation/ in the run, with a folder for other data",
    )


@chz.chz
class RecalibrateConfig:
    """Fit a run's probabilities, prediction sets and thresholds to scans of your own."""

    data: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="a folder of labelled scans; none: the run's own calibration scans",
    )
    run: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="the run folder; none: the newest trained run under runs/",
    )
    coverage: float = chz.field(
        default=0.9,
        validator=inside(0, 1),
        doc="share of scans of every class whose prediction set is to hold the class",
    )
    sensitivity: float = chz.field(
        default=0.99, validator=inside(0, 1), doc="share of urgent scans to be found urgent"
    )
    outlier_rate: float = chz.field(
        default=0.01,
        validator=inside(0, 1),
        doc="share of scans like these that may be called outliers",
    )
    allow_overlap: bool = chz.field(
        default=False, doc="use scans or patients that the run was trained on all the same"
    )
    on_bad_scan: Literal["refuse", "skip"] = chz.field(
        default="refuse", doc="what to do with unreadable or wrongly filed scans"
    )
    threads: int = chz.field(
        default=4, validator=between(1, 256), doc="threads that read and prepare scans"
    )


@chz.chz
class ExportConfig:
    """Write a run as a bundle of ONNX files, or check one: `export verify FOLDER`."""

    run: str | None = chz.field(
        default=None,
        validator=_not_empty,
        doc="the run folder; none: the newest trained run under runs/",
    )
    out: str | None = chz.field(
        default=None, validator=_not_empty, doc="the bundle's folder; none: export/ in the run"
    )
    calibration_scans: int = chz.field(
        default=200,
        validator=at_least(8),
        doc="scans at most to calibrate int8 with, and to choose among its recipes by",
    )


class HelpRequested(Exception):
    """`--help` was among the words; the message is the text to print."""


@dataclass(frozen=True)
class Key:
    """One line of `--help`: a key with its type, default and meaning."""

    name: str
    type: Any
    default: str
    doc: str

    @property
    def choices(self) -> str:
        """What the value may be, in words."""
        return _words_of(self.type)


def parse(config: type[Config], words: Sequence[str], defaults: Mapping[str, Any]) -> Config:
    """Reads `key=value` words into a frozen configuration.

    Args:
      config: a chz class.
      words: the command line after the program's name.
      defaults: values that stand in where a key is not among the words; they take precedence over
        the defaults of the class.

    Raises:
      UserError: for an unknown key, a key given twice, a wrong type, an impossible value or a
        missing key; one line that names the key, the value and the choices.
      HelpRequested: where `--help` or `-h` is among the words.
    """
    keys = {key.name: key for key in keys_of(config)}
    if {"--help", "-h"} & set(words):
        raise HelpRequested(help_text(config))
    given = split_words(words)
    for name, value in given.items():
        _refuse_unknown(name, value, keys)
        _refuse_odd_number(name, value, keys[name])
    blueprint = chz.Blueprint(config).apply(dict(defaults))
    try:
        return blueprint.make_from_argv([f"{name}={value}" for name, value in given.items()])
    except _CHZ_ERRORS as error:
        raise UserError(_one_line(error, given, keys)) from error
    except UserError as error:
        raise UserError(_with_whole_key(str(error), given)) from error


def split_words(words: Sequence[str]) -> dict[str, str]:
    """`key=value` words as a dictionary; UserError for any other word or a repeated key."""
    given: dict[str, str] = {}
    for word in words:
        refuse_control_characters(word)
        name, equals, value = word.lstrip("-").partition("=")
        if not equals or not name:
            raise UserError(f"{word!r}: settings are written key=value; --help lists the keys")
        if name in given:
            raise UserError(f"{name}: given twice ({given[name]!r} and {value!r}); keep one")
        given[name] = value
    return given


def refuse_control_characters(word: str) -> None:
    """UserError for an argument with a line break, NUL or another control character.

    No setting needs one, and a file whose name has one would break the line that names it.
    """
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in word):
        raise UserError(
            f"{word!r}: holds a line break or another control character; write it without,"
            " and rename a file that is called so"
        )


def keys_of(config: type) -> list[Key]:
    """Every settable key, nested ones as `outer.inner`, in the order of declaration."""
    keys = []
    for name, field in chz.chz_fields(config).items():
        if chz.is_chz(field.final_type):
            keys += [
                Key(f"{name}.{inner.name}", inner.type, inner.default, inner.doc)
                for inner in keys_of(cast(type, field.final_type))
            ]
        else:
            keys.append(Key(name, field.final_type, _default_of(field), field._doc))
    return keys


def help_text(config: type) -> str:
    """The text of `--help`: every key with its default, its choices and its meaning."""
    keys = keys_of(config)
    width = max(len(key.name) for key in keys)
    lines = [(config.__doc__ or "").strip(), "", "Settings, each as key=value:"]
    for key in keys:
        lines.append(f"  {key.name:<{width}}  {key.doc}")
        lines.append(f"  {'':<{width}}    {key.choices}; default: {key.default}")
    return "\n".join(lines)


def flatten(config: Any) -> dict[str, Any]:
    """A configuration as a flat dictionary of JSON values, nested keys as `outer.inner`."""
    flat: dict[str, Any] = {}
    for name, value in chz.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": leaf for inner, leaf in value.items()}
        else:
            flat[name] = value
    return flat


def unflatten(config: type[Config], flat: Mapping[str, Any]) -> Config:
    """The inverse of `flatten`."""
    return chz.Blueprint(config).apply(dict(flat)).make()


def _default_of(field: Any) -> str:
    if field._default is MISSING:
        return "none, it must be given"
    return "none" if field._default is None else str(field._default)


def _refuse_unknown(name: str, value: str, keys: Mapping[str, Key]) -> None:
    if name in keys:
        return
    inner = [key for key in keys if key.startswith(f"{name}.")]
    near = inner or difflib.get_close_matches(name, keys, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"the keys are {', '.join(keys)}"
    raise UserError(f"{_short(name)}={_short(value)}: unknown key {_short(name)}; {hint}")


def _refuse_odd_number(name: str, value: str, key: Key) -> None:
    # Python would also read `1_000`, ` 7` and the digits of other scripts.
    kinds = {key.type, *typing.get_args(key.type)}
    pattern = _FLOAT if float in kinds else _INTEGER if int in kinds else None
    none = value == "None" and type(None) in kinds
    if pattern is not None and not none and not pattern.fullmatch(value):
        raise UserError(f"{name}={_short(value)}: must be {key.choices}, in plain digits")


def _one_line(error: Exception, given: Mapping[str, str], keys: Mapping[str, Key]) -> str:
    for name, value in given.items():
        if f"param '{name}'" in str(error):
            return f"{name}={_short(value)}: must be {keys[name].choices}"
    missing = [name for name in keys if name not in given and name in str(error).partition(":")[2]]
    if missing:
        return f"{missing[0]}: must be given, as {missing[0]}={keys[missing[0]].choices}"
    return " ".join(str(error).split())


def _short(text: str) -> str:
    """The text as an error quotes it: a line stays readable whatever was typed."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def _with_whole_key(line: str, given: Mapping[str, str]) -> str:
    # A validator knows the name of its field, not of the configuration that holds it.
    for name in given:
        outer, _, inner = name.rpartition(".")
        if outer and line.startswith(f"{inner}="):
            return f"{outer}.{line}"
    return line


def _words_of(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(typing.get_args(kind))
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    if members:
        return " or ".join(_words_of(member) for member in members)
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
