"""How one stage of transfer learning trains: a value, made in a script or from a command line."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from oct_jax.data.strengths import Augment
from oct_jax.train.precision import Precision
from oct_jax.types import UserError

StageName: TypeAlias = Literal["frozen", "finetune"]
LEAST_WARMUP_STEPS = 30
STAGES: tuple[StageName, ...] = ("frozen", "finetune")


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Settings of one stage; the defaults are those of `just train`. See `frozen`, `finetune`.

    Attributes:
      stage: `frozen`, the head alone learns; `finetune`, all of the network does.
      epochs: passes over the training scans.
      learning_rate: the highest, after warm-up; None: by the number of steps, see
        `oct_jax.train.optimizer.automatic_learning_rate`.
      batch_size: scans in a step, over all devices and processes.
      accumulate: micro-batches whose gradients one step averages; divides `batch_size`.
      schedule: after warm-up: cosine to 0, or constant.
      warmup_epochs: epochs of linear warm-up from 0; 0: none.
      least_warmup_steps: of a warm-up, but no more than a quarter of the stage: an epoch of few
        steps is too short to warm up in.
      clip_norm: largest global norm of the gradient of the trained parameters, to which a larger
        one is scaled down; 0: no clipping.
      average_weights: whether a stage ends with the mean of its weights over the steps, the later
        ones weighing more, in place of the last ones; `oct_jax.train.averaging`.
      weight_decay: AdamW's decay of kernels.
      class_weights: `balanced`, each class weighs N / (K n_c) in the loss; or `none`.
      label_smoothing: share of the target that is spread over all classes, in [0, 1).
      dropout: rate before the last layer, in [0, 1).
      update_statistics: whether BatchNorm uses and updates the batches' statistics; for weights
        that are not pretrained. Of the finetune stage alone.
      cache_features: frozen stage: run the backbone once over the scans and train the head on its
        pooled features.
      views: augmented versions of every scan in that cache.
      precision: compute type.
      remat: `blocks` recomputes the first blocks in the backward pass, to save memory.
      augment: strengths of the random changes to training scans.
      threads: that read and prepare scans.
      checkpoint_steps: steps between checkpoints inside an epoch.
      seed: of order, augmentation and dropout.

    Raises:
      UserError: settings that contradict each other.
    """

    stage: StageName
    epochs: int
    learning_rate: float | None = None
    batch_size: int = 32
    accumulate: int = 1
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    least_warmup_steps: int = LEAST_WARMUP_STEPS
    clip_norm: float = 1.0
    average_weights: bool = False
    weight_decay: float = 1e-4
    class_weights: Literal["balanced", "none"] = "balanced"
    label_smoothing: float = 0.1
    dropout: float = 0.2
    update_statistics: bool = False
    cache_features: bool = False
    views: int = 5
    precision: Precision = "float32"
    remat: Literal["none", "blocks"] = "none"
    augment: Augment = field(default_factory=Augment)
    threads: int = 4
    checkpoint_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise UserError(f"epochs={self.epochs} batch_size={self.batch_size}: at least 1 each")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise UserError(
                f"accumulate={self.accumulate}: must divide batch_size={self.batch_size}"
            )
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate={self.learning_rate}: must be above 0, or None")
        if not 0 <= self.clip_norm < math.inf:
            raise UserError(f"clip_norm={self.clip_norm}: must be at least 0")
        if self.stage == "finetune" and self.cache_features:
            raise UserError("cache_features: features change while the backbone is trained")
        if self.stage == "frozen" and self.update_statistics:
            raise UserError("update_statistics: a frozen backbone keeps its statistics")

    def replace(self, **changes: Any) -> StageSettings:
        """These settings with some `changes`, by name.

        Raises:
          UserError: settings that contradict each other.
        """
        return dataclasses.replace(self, **changes)


def frozen(*, epochs: int = 10, **settings: Any) -> StageSettings:
    """The first stage: the head learns on features that are computed once.

    Args:
      epochs: passes over the training scans.
      settings: other fields of `StageSettings`, by name.
    """
    settings = {"cache_features": True} | settings
    return StageSettings(stage="frozen", epochs=epochs, **settings)


def finetune(*, epochs: int = 15, **settings: Any) -> StageSettings:
    """The second stage: end to end, at a learning rate that suits the number of steps.

    Args:
      epochs: passes over the training scans.
      settings: other fields of `StageSettings`, by name.
    """
    # BatchNorm's updated statistics are of the last weights, not of their mean.
    settings = {"average_weights": not settings.get("update_statistics", False)} | settings
    return StageSettings(stage="finetune", epochs=epochs, **settings)
