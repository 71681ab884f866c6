"""Settings of `train`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import chz

from oct_jax.commands.fields import (
    MAX_SEED,
    above,
    at_least,
    below,
    between,
    not_empty,
    settings_of,
)
from oct_jax.data.strengths import Augment
from oct_jax.types import Resize, UserError

if TYPE_CHECKING:
    AugmentSettings = Augment
else:
    AugmentSettings = settings_of(Augment)


# Settings that belong to the run, not to one stage: the frozen stage fixes them, the finetune
# stage takes them over, and a word that contradicts them is refused.
RUN_WIDE = (
    "data",
    "manifest",
    "on_bad_scan",
    "task",
    "phantom_patients",
    "backbone",
    "weights",
    "variant",
    "width",
    "image_size",
    "resize",
    "seed",
    "protocol",
)
# What protocol=reference fixes, by stage, whatever the defaults become: ten frozen epochs, then
# 1e-5; squash; warm-up of one epoch, however few its steps; no clipping; and in place of the
# package's augmentation the reference's (`oct_jax.data.augment.reference`). What the reference does
# not state keeps its setting.
_REFERENCE = {
    "resize": "squash",
    "warmup_epochs": 1.0,
    "clip_norm": 0.0,
    "average_weights": "off",
    "schedule": "cosine",
    **{f"augment.{field.name}": 0.0 for field in dataclasses.fields(Augment)},
}
REFERENCE: dict[str, dict[str, Any]] = {
    "frozen": _REFERENCE | {"epochs": 10, "learning_rate": 3e-3},
    "finetune": _REFERENCE | {"learning_rate": 1e-5},
}
# Settings that do not change what is computed: a resumed stage may be given others.
FREE_ON_RESUME = ("checkpoint_steps", "threads", "restart", "distributed")


@chz.chz
class TrainConfig:
    """Train one of the two stages of transfer learning."""

    stage: Literal["frozen", "finetune"] = chz.field(
        doc="frozen: the head alone learns; finetune: end to end, from the frozen stage's best"
    )
    run: str = chz.field(default="runs/default", validator=not_empty, doc="the run folder")
    data: str = chz.field(
        default="phantom",
        validator=not_empty,
        doc="a folder of scans, or phantom: synthetic scans made by the package",
    )
    task: str = chz.field(
        default="kermany",
        validator=not_empty,
        doc="the classes: kermany, octdl, srinivasan, neh, octid, oct_c8, folders (the names of the"
        " class folders), or a TOML file of your own",
    )
    manifest: str | None = chz.field(
        default=None,
        validator=not_empty,
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
        validator=not_empty,
        doc="mobilenetv3, resnet50, resnet152, efficientnetb0, efficientnetb3, vit, or MODULE:CLASS"
        " of your own (docs/backbones.md)",
    )
    weights: str = chz.field(
        default="auto",
        validator=not_empty,
        doc="timm, torchvision, torchvision_v1, keras, minimalistic, starter (the model in the"
        " package; offline), random, or a file of weights or of a model; of other backbones keras,"
        " random or a file; auto: timm or keras for scans, random for the phantom",
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
        default="retina", doc="squash, letterbox (pad), crop (centre) or retina (window around it)"
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
    protocol: Literal["default", "reference"] = chz.field(
        default="default",
        doc="reference: the reference project's settings (finetune at 1e-5, its augmentation, no"
        " clipping, squash); a setting that contradicts them is refused",
    )
    learning_rate: float | Literal["auto"] = chz.field(
        default="auto",
        validator=above(0),
        doc="peak learning rate; auto: 3e-3 for the head, and for finetune 3e-4 up to 280 steps,"
        " falling to 1e-5 at 39,000 (docs/training.md)",
    )
    clip_norm: float = chz.field(
        default=1.0,
        validator=at_least(0),
        doc="largest norm of the gradient of all trained parameters; 0: no clipping",
    )
    schedule: Literal["cosine", "constant"] = chz.field(
        default="cosine", doc="learning rate after warm-up: cosine to 0, or constant"
    )
    warmup_epochs: float = chz.field(
        default=1.0,
        validator=between(0, 100_000),
        doc="epochs of linear warm-up from 0, at least 30 steps of a long enough stage; 0: none",
    )
    average_weights: Literal["auto", "on", "off"] = chz.field(
        default="auto",
        doc="end a stage with the mean of its weights over the steps, late ones weighing more;"
        " auto: on for finetune with batchnorm=frozen",
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
        default=False,
        doc="train this stage from its start; what it already has is kept in replaced/ in the run",
    )
    distributed: str | None = chz.field(
        default=None,
        validator=not_empty,
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
