"""What a stage trains on and is validated by: batches of scans, or of cached features."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grain
import jax
import numpy as np

from oct_jax.data.augment import Augmentation
from oct_jax.data.loader import feature_stream, prefetch, training_stream
from oct_jax.data.preprocess import Preprocess, normalise
from oct_jax.data.scans import Scans
from oct_jax.data.strengths import Augment
from oct_jax.model.fold import fold
from oct_jax.model.inference import predict_source
from oct_jax.model.protocol import ModelConfig, Variables, build
from oct_jax.train.feature_cache import cached_views
from oct_jax.train.scoring import score, scores_of
from oct_jax.train.settings import StageSettings

Validate: TypeAlias = Callable[[Variables], dict[str, float]]
"""From variables to `loss`, `accuracy` and `balanced_accuracy` of the validation scans."""

SETTLING_BATCHES = 40


@dataclass(frozen=True)
class Feed:
    """Batches of the endless training stream, and the validation scores.

    Attributes:
      batches: an iterator whose position can be saved and restored.
      validate: scores variables on the validation scans.
    """

    batches: grain.DatasetIterator
    validate: Validate


def image_feed(
    model: ModelConfig,
    preprocess: Preprocess,
    settings: StageSettings,
    *,
    train: Scans,
    val: Scans,
    augmentation: Augment | Augmentation,
) -> Feed:
    """Batches of augmented scans; this process's part of each, where several train."""
    stream = training_stream(
        train,
        preprocess,
        augmentation,
        batch_size=settings.batch_size,
        seed=settings.seed,
        shard=jax.process_index(),
        shards=jax.process_count(),
    )

    def validate(variables: Variables) -> dict[str, float]:
        return score(model, variables, val, preprocess, threads=settings.threads)

    return Feed(prefetch(stream, threads=settings.threads), validate)


def feature_feed(
    model: ModelConfig,
    variables: Variables,
    preprocess: Preprocess,
    settings: StageSettings,
    *,
    train: Scans,
    val: Scans,
    augmentation: Augment | Augmentation,
    folder: Path,
) -> Feed:
    """The same over pooled features of a frozen backbone, computed once and kept in a folder.

    Args:
      model: of the variables.
      variables: whose backbone stays as it is.
      preprocess: how scans are resized and normalised.
      settings: of the stage.
      train: the training scans.
      val: the validation scans.
      augmentation: how training scans are augmented.
      folder: where the features are kept.
    """
    folded, folded_config = fold(variables, model)
    inference = build(folded_config)
    features = cached_views(
        folder,
        folded_config,
        folded,
        train,
        preprocess,
        augmentation,
        views=settings.views,
        seed=settings.seed,
        threads=settings.threads,
    )
    val_features = predict_source(inference, folded, val, preprocess, threads=settings.threads)
    pooled = val_features.pooled
    head = jax.jit(lambda variables, pooled: inference.head(variables, pooled[:, None, None]))

    def validate(variables: Variables) -> dict[str, float]:
        return scores_of(np.asarray(head(variables, pooled)), val.labels)

    stream = feature_stream(
        features, train.labels, batch_size=settings.batch_size, seed=settings.seed
    )
    return Feed(prefetch(stream, threads=1), validate)


def settle_statistics(
    model: ModelConfig,
    variables: Variables,
    preprocess: Preprocess,
    settings: StageSettings,
    train: Scans,
) -> Variables:
    """BatchNorm statistics of a fresh network, from its own activations on some training scans.

    They start as mean 0 and variance 1, which the activations of fresh layers are far from: in
    evaluation form, the form of a frozen backbone, every layer would shrink the signal until the
    features of all scans were the same.
    """
    if not jax.tree.leaves(variables.stats):
        return variables
    network = build(model)
    stream = training_stream(
        train, preprocess, settings.augment, batch_size=settings.batch_size, seed=settings.seed
    )

    @jax.jit
    def settle(stats, scans):
        images = normalise(scans, preprocess)
        return network.features(Variables(variables.params, stats), images, train=True)[1]

    stats = variables.stats
    # Each keeps the momentum's share of the old: after 40 batches at 0.9, 1.5 % of the start.
    for batch in itertools.islice(prefetch(stream, threads=settings.threads), SETTLING_BATCHES):
        stats = settle(stats, batch["image"])
    return Variables(variables.params, stats)
