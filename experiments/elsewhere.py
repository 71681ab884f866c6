"""Which training is right on scans of other hospitals: one setting changed at a time.

    python experiments/elsewhere.py data=OCT2017_SUBSET weights=FILE foreign=../shared/data \
        out=runs/elsewhere arms=default,no-grain seeds=0,1

Every arm trains both stages on the training scans of `data` alone; the folders in `foreign`
(`noor_dev`, `uncurated_dev`, `duke_dev`) are only predicted. An arm and seed that is in
`out/results.jsonl` is not trained again. Without `arms=`, all of `ARMS`. Intervals draw blocks of
ten neighbouring file numbers, which are probably of one eye; of `data`, patients.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from domain_methods import (
    Change,
    amplitude_mix,
    augmix,
    random_convolution,
    with_phantoms,
    with_variants,
)
from optax.contrib import sam

from oct_jax import UserError
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.data.folder import open_folder
from oct_jax.data.preprocess import Preprocess, resize_scan
from oct_jax.data.readers import read_scan
from oct_jax.data.split import DEFAULT_FRACTIONS, Fractions
from oct_jax.metrics.classification import bootstrap
from oct_jax.model.fold import fold
from oct_jax.model.inference import BATCH_SIZES, make_forward, predict_all
from oct_jax.model.protocol import ModelConfig, Variables, build
from oct_jax.model.weights import load_weights
from oct_jax.task import KERMANY
from oct_jax.train.loop import train
from oct_jax.train.optimizer import learning_rate_schedule, make_optimizer
from oct_jax.train.settings import StageSettings, finetune, frozen

BLOCK = 10
COPIES = 4
"""Fixed variants of every scan, for methods that change scans beforehand."""
# What counts as right: an eye with age-related macular degeneration may be CNV or DRUSEN.
RIGHT = {"AMD": ("CNV", "DRUSEN"), "scans": ("DME",)} | {name: (name,) for name in KERMANY.classes}


@dataclass(frozen=True)
class Arm:
    """What differs from the default training.

    Attributes:
      resize: from a scan to the square.
      augment: changed strengths.
      settings: changed settings of the second stage.
      change: of training scans beforehand, `COPIES` times each.
      sharpness: radius of sharpness-aware steps (Foret et al. 2021); 0 for plain ones.
      phantoms: synthetic patients mixed into the training scans.
      fractions: shares of the splits.
    """

    resize: str = "retina"
    augment: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    change: Change | None = None
    sharpness: float = 0.0
    phantoms: int = 0
    fractions: Fractions = DEFAULT_FRACTIONS


def without(*names: str) -> Arm:
    """The default without these strengths."""
    return Arm(augment=dict.fromkeys(names, 0.0))


ARMS = {
    "default": Arm(),
    "no-augmentation": without("amount", "flip"),
    "squash": Arm(resize="squash"),
    "letterbox": Arm(resize="letterbox"),
    "no-grain": without("grain"),
    "no-scale": without("axial", "squeeze", "stretch"),
    "no-tilt": without("rotation", "shear"),
    "no-shift": without("shift"),
    "no-blur": without("blur"),
    "no-shade": without("shade"),
    "no-display": without("black", "white", "gamma"),
    "gamma-0.6": Arm(augment={"gamma": 0.6}),
    "no-export": without("jpeg", "crop", "wedge"),
    "half": Arm(augment={"amount": 0.5}),
    "rate-1e-4": Arm(settings={"learning_rate": 1e-4}),
    "rate-6e-4": Arm(settings={"learning_rate": 6e-4}),
    "rate-1e-3": Arm(settings={"learning_rate": 1e-3}),
    "long": Arm(settings={"epochs": 16}),
    "batchnorm-update": Arm(settings={"update_statistics": True}),
    "randconv": Arm(change=random_convolution),
    "fourier": Arm(change=amplitude_mix),
    "augmix": Arm(change=augmix),
    "phantoms": Arm(phantoms=200),
    "last-weights": Arm(settings={"average_weights": False}),
    "sharpness-aware": Arm(sharpness=0.05),
    "more-scans": Arm(fractions=Fractions(0.8, 0.05, 0.05, 0.1)),
}


@dataclass(frozen=True)
class Scans:
    """Scans to predict.

    Attributes:
      paths: of the files.
      labels: the folder of each.
      blocks: which scans belong together.
    """

    paths: Sequence[Path]
    labels: Sequence[str]
    blocks: Sequence[str]


def main(words: list[str]) -> None:
    """Trains what is missing, then prints the table."""
    given = read_words(words)
    out = Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    rows = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    finished = {(row["arm"], row["seed"]) for row in rows}
    for seed in map(int, given["seeds"].split(",")):
        for name in given["arms"].split(","):
            if (name, seed) in finished:
                continue
            row = {"arm": name, "seed": seed} | measure(ARMS[name], seed, given)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            rows.append(row)
            print(f"{name}, seed {seed}: {row['figures']}", flush=True)
    print("\n".join(to_markdown(rows)))


def read_words(words: list[str]) -> dict[str, str]:
    """The settings, checked."""
    defaults = {"out": "runs/elsewhere", "arms": ",".join(ARMS), "seeds": "0", "epochs": "8"}
    defaults |= {"size": "224"}
    given = defaults | split_words(words)
    known = (*defaults, "data", "weights", "foreign")
    for name in given:
        if name not in known:
            raise UserError(f"{name}: not a setting; {', '.join(known)}")
    for name in ("data", "weights", "foreign"):
        if name not in given:
            raise UserError(f"{name}=: is missing")
    for name in given["arms"].split(","):
        if name not in ARMS:
            raise UserError(f"arms={name}: choose of {', '.join(ARMS)}")
    return given


def measure(arm: Arm, seed: int, given: Mapping[str, str]) -> dict[str, Any]:
    """Trains one arm; its figures, their intervals, and what the training cost."""
    pretrained = load_weights(given["weights"], num_classes=len(KERMANY.classes), seed=seed)
    preprocess = Preprocess(
        size=int(given["size"]), resize=arm.resize, mean=pretrained.mean, std=pretrained.std
    )
    root = Path(given["data"]).expanduser()
    source = open_folder(root, seed=seed, fractions=arm.fractions)
    scans = source
    if arm.change is not None:
        scans = with_variants(source, arm.change, copies=COPIES, seed=seed)
    if arm.phantoms:
        scans = with_phantoms(source, patients=arm.phantoms, seed=seed)
    copies = 1 if arm.change is None else COPIES
    augment = replace(frozen().augment, **arm.augment)
    first = frozen(seed=seed, augment=augment, views=max(1, 5 // copies))
    second = {"epochs": int(given["epochs"]), "seed": seed, "augment": augment} | dict(arm.settings)
    second["epochs"] = max(1, second["epochs"] // copies)
    settings = finetune(**second)
    began, cpu = time.monotonic(), time.process_time()
    head = train(pretrained.config, pretrained.variables, scans, preprocess, first)
    steps = len(scans.select("train")) / settings.batch_size
    trained = train(
        pretrained.config,
        jax.tree.map(jax.numpy.asarray, head.variables),
        scans,
        preprocess,
        settings,
        optimizer=sharpness_aware(arm.sharpness, settings, steps) if arm.sharpness else None,
    )
    cost = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    sets = foreign_scans(Path(given["foreign"]).expanduser())
    test = source.select("test").records
    sets["home"] = Scans(
        [root / record.path for record in test],
        [record.label for record in test],
        [record.patient for record in test],
    )
    figures: dict[str, float | None] = {}
    intervals: dict[str, Any] = {}
    for name, part in sets.items():
        logits = predict(pretrained.config, trained.variables, part.paths, preprocess)
        of = figures_of(name, logits, part.labels)
        figures |= of(np.arange(len(part.paths)))
        intervals |= bootstrap(part.blocks, of, resamples=500, seed=0)
    return {"figures": figures, "intervals": intervals} | cost


def sharpness_aware(
    radius: float, settings: StageSettings, steps_per_epoch: float
) -> optax.GradientTransformation:
    """AdamW whose every second step climbs to the sharpest point within the radius."""
    schedule = learning_rate_schedule(settings, steps_per_epoch)
    climb = optax.chain(optax.contrib.normalize(), optax.sgd(radius))
    aware = sam(make_optimizer(settings, schedule), climb, sync_period=2)
    # Wrapped, because optax hands it the loss, which it does not take.
    return optax.GradientTransformation(
        aware.init, lambda updates, state, params=None: aware.update(updates, state, params)
    )


def foreign_scans(root: Path) -> dict[str, Scans]:
    """The development sets of other origin; of Duke the scans in which both graders saw fluid."""
    sets = {}
    for name, pattern in (("noor", "noor_dev/*/*.jpeg"), ("uncurated", "uncurated_dev/*/*.jpg")):
        paths = sorted(root.glob(pattern))
        blocks = [f"{path.parent.name}-{number_of(path) // BLOCK}" for path in paths]
        sets[name] = Scans(paths, [path.parent.name for path in paths], blocks)
    graders = [root / "duke_dev" / name for name in ("fluid0", "fluid1")]
    duke = [
        path
        for path in sorted((root / "duke_dev" / "scans").glob("*.png"))
        if all(_shows_fluid(grader / path.name) for grader in graders)
    ]
    sets["duke"] = Scans(duke, ["scans"] * len(duke), [path.stem.split("_")[0] for path in duke])
    if not all(part.paths for part in sets.values()):
        raise UserError(f"{root}: needs the folders noor_dev, uncurated_dev and duke_dev")
    return sets


def predict(
    model: ModelConfig, variables: Variables, paths: Sequence[Path], preprocess: Preprocess
) -> np.ndarray:
    """Logits of scans in files."""
    folded, config = fold(variables, model)
    size = BATCH_SIZES[-1]
    batches = (
        np.stack([resize_scan(read_scan(path), preprocess) for path in paths[start : start + size]])
        for start in range(0, len(paths), size)
    )
    return np.asarray(predict_all(make_forward(build(config), preprocess), folded, batches).logits)


def figures_of(
    name: str, logits: np.ndarray, labels: Sequence[str]
) -> Callable[[np.ndarray], dict[str, float | None]]:
    """Share of right scans, over all and for each folder, as a function of drawn indices."""
    predicted = [KERMANY.classes[index] for index in logits.argmax(1)]
    right = np.array([p in RIGHT[label] for p, label in zip(predicted, labels, strict=True)])
    folders = np.array(labels)

    def of(drawn: np.ndarray) -> dict[str, float | None]:
        figures: dict[str, float | None] = {name: float(right[drawn].mean())}
        for label in dict.fromkeys(labels):
            own = folders[drawn] == label
            figures[f"{name} {label}"] = float(right[drawn][own].mean()) if own.any() else None
        return figures

    return of


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each arm and seed."""
    names = (
        "noor",
        "noor AMD",
        "noor DME",
        "noor NORMAL",
        "uncurated",
        "uncurated CNV",
        "duke",
        "home",
    )
    lines = [f"| arm | seed | {' | '.join(names)} | CPU s |", "|---" * (len(names) + 3) + "|"]
    for row in rows:
        cells = []
        for name in names:
            low, high = row["intervals"][name]
            cells.append(f"{row['figures'][name]:.3f} ({low:.2f} to {high:.2f})")
        lines.append(
            f"| {row['arm']} | {row['seed']} | {' | '.join(cells)} | {row['cpu_seconds']:.0f} |"
        )
    return lines


def number_of(path: Path) -> int:
    """The number at the end of a file's name."""
    return int(path.stem.rsplit("_", 1)[1])


def _shows_fluid(path: Path) -> bool:
    return bool(read_scan(path).any())


if __name__ == "__main__":
    sys.exit(command.run(main))
