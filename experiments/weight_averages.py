"""Which mean of a stage's weights is right on scans of other origin: many means of one training.

    python experiments/weight_averages.py data=OCT2017_SUBSET weights=FILE \
        foreign=../shared/data seed=0 train=0.65

Both stages are trained once, as `just train` does; the weights are kept every four steps of the
second stage, and each mean of them is evaluated on the sets of `elsewhere.py`. `train` is the share
of the scans that train; the rest is shared between the other splits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from elsewhere import Scans, figures_of, foreign_scans, predict
from jaxtyping import PyTree

from oct_jax import UserError
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.data.folder import open_folder
from oct_jax.data.preprocess import Preprocess
from oct_jax.data.split import DEFAULT_FRACTIONS, Fractions
from oct_jax.model.protocol import Variables
from oct_jax.model.weights import load_weights
from oct_jax.task import KERMANY
from oct_jax.train.checkpointing import InMemory
from oct_jax.train.loop import train
from oct_jax.train.settings import finetune, frozen
from oct_jax.train.step import TrainState

EVERY = 4
SHOWN = ("noor", "noor AMD", "noor DME", "noor NORMAL", "uncurated", "duke", "home")


class Kept(InMemory):
    """Keeps the weights whenever a checkpoint is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.params: list[PyTree] = []
        self.stats: PyTree = None

    def save_last(
        self, step: int, state: TrainState, batches: grain.DatasetIterator, meta: dict[str, Any]
    ) -> None:
        """See `Checkpoints`."""
        self.steps.append(step)
        self.params.append(jax.tree.map(np.array, state.params))
        self.stats = jax.tree.map(np.array, state.stats)


def main(words: list[str]) -> None:
    """Trains once and prints a row for each mean."""
    given = {"seed": "0", "train": "0.65", "epochs": "8"} | split_words(words)
    if set(given) != {"seed", "train", "epochs", "data", "weights", "foreign"}:
        raise UserError("needs data=, weights= and foreign=; may have seed=, train= and epochs=")
    seed, root = int(given["seed"]), Path(given["data"]).expanduser()
    pretrained = load_weights(given["weights"], num_classes=len(KERMANY.classes), seed=seed)
    preprocess = Preprocess(resize="retina", mean=pretrained.mean, std=pretrained.std)
    scans = open_folder(root, seed=seed, fractions=fractions_of(float(given["train"])))
    head = train(pretrained.config, pretrained.variables, scans, preprocess, frozen(seed=seed))
    settings = finetune(
        epochs=int(given["epochs"]), seed=seed, average_weights=False, checkpoint_steps=EVERY
    )
    kept = Kept()
    began = jax.tree.map(jax.numpy.asarray, head.variables)
    train(pretrained.config, began, scans, preprocess, settings, checkpoints=kept)

    sets = foreign_scans(Path(given["foreign"]).expanduser())
    test = scans.select("test").records
    paths = [root / record.path for record in test]
    sets["home"] = Scans(paths, [r.label for r in test], [r.patient for r in test])
    print(f"| mean | {' | '.join(SHOWN)} |\n{'|---' * (len(SHOWN) + 1)}|")
    for name, shares in means_of(np.array(kept.steps) / kept.steps[-1]).items():
        params = mean_of(kept.params, shares)
        figures: dict[str, float | None] = {}
        for part, those in sets.items():
            variables = Variables(params, kept.stats)
            logits = predict(pretrained.config, variables, those.paths, preprocess)
            figures |= figures_of(part, logits, those.labels)(np.arange(len(those.paths)))
        print(row_of(name, figures), flush=True)


def fractions_of(train_share: float) -> Fractions:
    """The default shares, or those with more for training."""
    if train_share == DEFAULT_FRACTIONS.train:
        return DEFAULT_FRACTIONS
    rest = 1 - train_share
    return Fractions(train_share, rest / 4, rest / 4, rest / 2)


def means_of(times: np.ndarray) -> dict[str, np.ndarray]:
    """Share of the weights at each time, in (0, 1], by the name of the mean."""
    weights = {"last weights": (times == 1).astype(float)}
    weights |= {f"by step to the power {power}": times**power for power in range(4)}
    weights["last half, evenly"] = (times > 0.5).astype(float)
    return {name: values / values.sum() for name, values in weights.items()}


def mean_of(params: list[PyTree], shares: np.ndarray) -> PyTree:
    """The weighted mean of trees."""
    return jax.tree.map(
        lambda *leaves: sum(share * leaf for share, leaf in zip(shares, leaves, strict=True)),
        *params,
    )


def row_of(name: str, figures: Mapping[str, float | None]) -> str:
    """A line of the table."""
    return f"| {name} | {' | '.join(f'{figures[part]:.3f}' for part in SHOWN)} |"


if __name__ == "__main__":
    sys.exit(command.run(main))
