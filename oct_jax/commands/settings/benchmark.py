"""Settings of `benchmark`; those of its stages are words of their own, see `stage_words`."""

from __future__ import annotations

from typing import Literal

import chz

from oct_jax.commands.fields import MAX_SEED, above, between, not_empty
from oct_jax.types import Resize


@chz.chz
class BenchmarkConfig:
    """Train both stages, calibrate and test by a named protocol: figures to line up with others'.

    Settings of the stages are written frozen.NAME=VALUE and finetune.NAME=VALUE (epochs,
    learning_rate, batch_size, augment.grain, ...). Rerun the same command to resume.
    """

    protocol: Literal[
        "by_patient", "official_clean", "octmnist", "octdl", "neh", "srinivasan", "octid"
    ] = chz.field(doc="which data and which splits; see docs/how-to/benchmark.md")
    data: str = chz.field(validator=not_empty, doc="the folder (octmnist: or file) of the release")
    weights: str = chz.field(
        default="timm",
        validator=not_empty,
        doc="first weights: a file, a publisher's name as for train, or random",
    )
    backbone: str = chz.field(
        default="mobilenetv3", validator=not_empty, doc="the network, as for train"
    )
    variant: Literal["large", "large_minimalistic"] = chz.field(
        default="large", doc="of random MobileNetV3 weights"
    )
    width: float = chz.field(
        default=1.0, validator=above(0), doc="of random MobileNetV3 weights: channels, times this"
    )
    image_size: int = chz.field(
        default=224, validator=between(32, 1024), doc="side of the model's square input, pixels"
    )
    resize: Resize = chz.field(default="retina", doc="how a scan is made square, as for train")
    seed: int = chz.field(
        default=0,
        validator=between(0, MAX_SEED),
        doc="of training; the splits are the protocol's",
    )
    resamples: int = chz.field(
        default=1000,
        validator=between(10, 1_000_000),
        doc="draws of patients for the 95 % intervals",
    )
    out: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="folder for checkpoints and results; none: runs/benchmark-PROTOCOL",
    )
