"""The choices of the training, one changed at a time, on the same test scans.

    python experiments/ablations.py data=ROOT weights=FILE out=runs/ablations picture=ablations.png

Every arm trains both stages on the same patient-grouped folds with the package's own commands, and
differs from its comparison's first arm in what the comparison says. Each scan is tested once by
each arm, so differences are paired, scan by scan; intervals draw patients. An arm that has fewer
training scans makes as many steps in more epochs. Run again with the same words, it goes on where
it was stopped; `only=NAME,NAME` trains some arms and `on=0,1` some folds, and the figures are of
what has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from folds import Fold, calibrated, read_stage, same_words, scans_of, store_test, train_stage
from rich.console import Console
from scipy.stats import rankdata

from oct_jax import KERMANY, UserError, load_backbone
from oct_jax.commands import entry as command
from oct_jax.commands.parsing import split_words
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import Record
from oct_jax.data.split import grouped_folds
from oct_jax.files import write_json
from oct_jax.metrics.classification import bootstrap
from oct_jax.train.settings import StageName, StageSettings
from oct_jax.types import Resize

PUBLISHED = {"CNV": 37205, "DME": 11348, "DRUSEN": 8616, "NORMAL": 26315}
"""Training scans of the release on Kaggle and of version 2 on Mendeley."""
NO_AUGMENTATION = {"augment.amount": "0", "augment.flip": "0"}
LIGHT_AUGMENTATION = {"augment.amount": "0.3"}
# AdamW moves a weight by about the learning rate in a step: at this one, nowhere.
NOWHERE = {"epochs": "1", "views": "1", "learning_rate": "1e-12", "warmup_epochs": "0"}
LOWEST_DRAWN = -12
"""Points of accuracy below which a difference is written, not drawn."""
FIGURES = ("accuracy", "balanced accuracy", "macro AUC", "log loss")


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
      name: of its folder.
      what: it does, in words.
      both: settings of both stages.
      frozen: of the frozen stage.
      finetune: of the finetune stage; None: there is none.
      resize: how scans are made square.
      share: of the training patients.
      thinned: whether the training scans are thinned to `PUBLISHED`'s proportions.
    """

    name: str
    what: str
    both: Mapping[str, str] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)
    finetune: Mapping[str, str] | None = field(default_factory=dict)
    resize: Resize = "retina"
    share: float = 1.0
    thinned: bool = False


@dataclass(frozen=True)
class Comparison:
    """Arms of which each is compared with the first.

    Attributes:
      title: what is compared.
      first: what the first arm is here, in words.
      arms: the first, then the others.
    """

    title: str
    first: str
    arms: tuple[Arm, ...]


def rate(value: str) -> Arm:
    """A learning rate of the second stage."""
    return Arm(f"rate-{value}", value, finetune={"learning_rate": value})


BASELINE = Arm("baseline", "the package's settings, but for 1e-3 in the second stage")
COMPARISONS = (
    Comparison(
        "Learning rate of the second stage",
        "1e-3",
        (
            BASELINE,
            rate("1e-5"),
            Arm(
                "rate-1e-5-long",
                "1e-5 for 15 epochs",
                finetune={"learning_rate": "1e-5", "epochs": "15"},
            ),
            rate("1e-4"),
            rate("3e-4"),
            rate("3e-3"),
        ),
    ),
    Comparison(
        "Clipping of the gradient's norm, at 3e-4",
        "at 1, the default",
        (
            rate("3e-4"),
            Arm("unclipped", "none", finetune={"learning_rate": "3e-4", "clip_norm": "0"}),
        ),
    ),
    Comparison(
        "One stage against two",
        "two: the head, then everything",
        (
            BASELINE,
            Arm("one-stage", "end to end at once, under a head as drawn", frozen=NOWHERE),
            Arm("head-only", "the frozen stage alone", finetune=None),
        ),
    ),
    Comparison(
        "Class weights, training scans thinned to Kermany's proportions",
        "balanced weights, the default",
        (
            Arm("imbalanced", "as the baseline, on thinned scans", thinned=True),
            Arm("unweighted", "no weights", both={"class_weights": "none"}, thinned=True),
        ),
    ),
    Comparison(
        "BatchNorm's statistics in the second stage",
        "not updated, the default",
        (BASELINE, Arm("batchnorm", "updated", finetune={"update_statistics": "true"})),
    ),
    Comparison(
        "How scans are made square",
        "retina, the default",
        (
            BASELINE,
            Arm("squash", "squash", resize="squash"),
            Arm("letterbox", "letterbox", resize="letterbox"),
            Arm("crop", "crop", resize="crop"),
        ),
    ),
    Comparison(
        "Augmentation",
        "full, the default",
        (
            BASELINE,
            Arm("augment-off", "none", both=NO_AUGMENTATION),
            Arm("augment-light", "light", both=LIGHT_AUGMENTATION),
        ),
    ),
    Comparison(
        "Training patients",
        "100 %",
        (BASELINE, *(Arm(f"share-{n}", f"{n} %", share=n / 100) for n in (75, 50, 25))),
    ),
)
ARMS = {arm.name: arm for comparison in COMPARISONS for arm in comparison.arms}
DEFAULTS = {
    "out": "runs/ablations",
    "folds": "3",
    "seed": "0",
    "image_size": "160",
    "frozen_epochs": "20",
    "epochs": "8",
    "learning_rate": "1e-3",
    "resamples": "1000",
    "only": ",".join(ARMS),
    "on": "",
    "picture": "",
}
# Words that say which part of the work to do, not how.
FREE = ("only", "on", "resamples", "picture")


def main(words: list[str]) -> None:
    """Trains the arms, then writes and prints how they compare."""
    given = read_words(words)
    out, root = Path(given["out"]), Path(given["data"]).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    same_words(out / "words.json", {n: v for n, v in given.items() if n not in FREE})
    console = Console(soft_wrap=True, highlight=False)
    records = list_scans(root).records
    folds = grouped_folds(records, int(given["folds"]), seed=int(given["seed"]))
    for number in map(int, given["on"].split(",")):
        for name in given["only"].split(","):
            run_arm(ARMS[name], out / f"fold{number}", folds[number], given, console)
    ended = {name: read_arm(out, name, len(folds)) for name in ARMS}
    found = compare(ended, int(given["resamples"]))
    write_json(out / "ablations.json", {"command": words, "settings": given} | found)
    print("\n".join(to_markdown(found)))
    if given["picture"]:
        draw(found, Path(given["picture"]))


def read_words(words: Sequence[str]) -> dict[str, str]:
    """The settings, with defaults."""
    given = DEFAULTS | split_words(words)
    if unknown := sorted(given.keys() - DEFAULTS.keys() - {"data", "weights"}):
        raise UserError(f"{unknown[0]}: not a setting; data, weights, {', '.join(DEFAULTS)}")
    for name in ("data", "weights"):
        if name not in given:
            raise UserError(f"{name}=: is missing")
    for name in given["only"].split(","):
        if name not in ARMS:
            raise UserError(f"only={name}: no such arm; they are {', '.join(ARMS)}")
    given["on"] = given["on"] or ",".join(map(str, range(int(given["folds"]))))
    for number in given["on"].split(","):
        if number not in map(str, range(int(given["folds"]))):
            raise UserError(f"on={number}: must be folds from 0 to {int(given['folds']) - 1}")
    return given


def settings_of(
    arm: Arm, given: Mapping[str, str], steps: float = 1.0
) -> dict[StageName, StageSettings]:
    """The settings of each stage that an arm trains.

    Args:
      arm: the arm.
      given: the settings of the experiment.
      steps: how many times the epochs are multiplied.
    """
    base: dict[StageName, dict[str, str]] = {
        "frozen": {"epochs": given["frozen_epochs"]},
        "finetune": {"epochs": given["epochs"], "learning_rate": given["learning_rate"]},
    }
    own: dict[StageName, Mapping[str, str] | None] = {
        "frozen": arm.frozen,
        "finetune": arm.finetune,
    }
    settings = {}
    for stage, values in own.items():
        if values is not None:
            longer = {"epochs": str(max(1, round(int(base[stage]["epochs"]) * steps)))}
            settings[stage] = read_stage(
                stage,
                base[stage] | longer | dict(arm.both) | dict(values),
                seed=int(given["seed"]),
            )
    return settings


def run_arm(
    arm: Arm, folder: Path, fold: Sequence[Record], given: Mapping[str, str], console: Console
) -> None:
    """Trains an arm on a fold and stores what it says of the test scans, unless that is there."""
    if (folder / f"{arm.name}.npz").exists():
        return
    kept = training_scans(arm, fold)
    steps = sum(one.split == "train" for one in fold) / sum(one.split == "train" for one in kept)
    stages, first = settings_of(arm, given, steps), frozen_arm(arm, given)
    console.print(f"{folder}: {arm.name}, frozen stage of {first.name}", markup=False)
    start = load_backbone(weights=given["weights"], seed=int(given["seed"]))
    preprocess = start.preprocess(size=int(given["image_size"]), resize=arm.resize)
    shared = Fold(scans_of(kept, Path(given["data"]).expanduser()), start, preprocess)
    variables = start.variables
    for stage, settings in stages.items():
        checkpoints = folder / f"{(first if stage == 'frozen' else arm).name}-{stage}"
        variables = train_stage(shared, variables, settings, checkpoints, console)
    classifier = calibrated(shared, variables, list(stages.values())[-1])
    store_test(classifier, shared.scans, folder / f"{arm.name}.npz")


def frozen_arm(arm: Arm, given: Mapping[str, str]) -> Arm:
    """The first arm that has the same frozen stage."""

    def frozen(other: Arm) -> tuple[Any, ...]:
        return settings_of(other, given)["frozen"], other.resize, other.share, other.thinned

    return next(other for other in ARMS.values() if frozen(other) == frozen(arm))


def training_scans(arm: Arm, fold: Sequence[Record]) -> tuple[Record, ...]:
    """A fold with the arm's training scans; all other splits are as they were."""
    trained = [record for record in fold if record.split == "train"]
    if arm.thinned:
        trained = thin(trained)
    if arm.share < 1:
        trained = take_patients(trained, arm.share)
    kept = {record.path for record in trained}
    return tuple(one for one in fold if one.split != "train" or one.path in kept)


def thin(records: Sequence[Record]) -> list[Record]:
    """As many scans as there can be in `PUBLISHED`'s proportions, drawn at random."""
    rng = np.random.default_rng(0)
    of = {name: [one for one in records if one.label == name] for name in KERMANY.classes}
    scale = min(len(of[name]) / PUBLISHED[name] for name in KERMANY.classes)
    return [
        of[name][index]
        for name in KERMANY.classes
        for index in rng.permutation(len(of[name]))[: round(scale * PUBLISHED[name])]
    ]


def take_patients(records: Sequence[Record], share: float) -> list[Record]:
    """The scans of a share of each class's patients; a smaller share's are among a larger one's."""
    class_of = {record.patient: record.label for record in records}
    rng, kept = np.random.default_rng(0), set()
    for name in KERMANY.classes:
        patients = sorted(patient for patient, label in class_of.items() if label == name)
        order = rng.permutation(len(patients))
        kept |= {patients[index] for index in order[: round(share * len(patients))]}
    return [record for record in records if record.patient in kept]


def read_arm(out: Path, name: str, folds: int) -> dict[str, np.ndarray]:
    """What an arm said of the test scans of the folds that have ended; nothing where none has."""
    paths = [out / f"fold{number}" / f"{name}.npz" for number in range(folds)]
    parts = [dict(np.load(path)) for path in paths if path.exists()]
    wanted = ("paths", "patients", "truth", "probabilities") if parts else ()
    return {key: np.concatenate([part[key] for part in parts]) for key in wanted}


def compare(ended: Mapping[str, Mapping[str, np.ndarray]], resamples: int) -> dict[str, Any]:
    """Figures of each arm, and differences to the first of its comparison, with intervals.

    Args:
      ended: of each arm, by name, what it said.
      resamples: draws of patients.

    Returns:
      `rows` by comparison: each has an arm's figures over its own test scans, and under `paired`
      the differences to the first arm over the scans that both were tested on.
    """
    rows = []
    for comparison in COMPARISONS:
        first = ended.get(comparison.arms[0].name)
        if not first:
            continue
        told = []
        for number, arm in enumerate(comparison.arms):
            if own := ended.get(arm.name):
                one, other = shared(own, first)
                row = {
                    "name": arm.name,
                    "what": arm.what if number else comparison.first,
                    "scans": len(own["truth"]),
                    "figures": with_intervals(own, None, resamples),
                    "paired": with_intervals(one, other, resamples) if number else None,
                }
                told.append(row)
        if len(told) > 1:
            rows.append({"title": comparison.title, "arms": told})
    return {"comparisons": rows}


def shared(
    one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The two on the scans that both were tested on, in the same order."""
    _, here, there = np.intersect1d(one["paths"], other["paths"], return_indices=True)
    return (
        {name: values[here] for name, values in one.items()},
        {name: values[there] for name, values in other.items()},
    )


def with_intervals(
    arm: Mapping[str, np.ndarray], less: Mapping[str, np.ndarray] | None, resamples: int
) -> dict[str, dict[str, Any]]:
    """Figures of an arm, or what they exceed another's by on the same scans."""

    def of(drawn: np.ndarray) -> dict[str, float | None]:
        values = figures_of(arm["probabilities"][drawn], arm["truth"][drawn])
        if less is not None:
            others = figures_of(less["probabilities"][drawn], less["truth"][drawn])
            values = {name: values[name] - others[name] for name in values}
        return values

    values = of(np.arange(len(arm["truth"])))
    intervals = bootstrap(arm["patients"].tolist(), of, resamples=resamples, seed=0)
    return {name: {"value": value, "interval": intervals[name]} for name, value in values.items()}


def figures_of(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """`FIGURES` as `metrics.classification.figures` has them, and log loss; nan where undefined.

    The AUC is that of ranks (Mann and Whitney): a thousand draws of every arm want it fast.
    """
    said, own = probabilities.argmax(1), probabilities[np.arange(len(truth)), truth]
    found = {"accuracy": float((said == truth).mean())}
    recalls, aucs = [], []
    for number, name in enumerate(KERMANY.classes):
        member = truth == number
        positive, negative = member.sum(), (~member).sum()
        recalls.append((said[member] == number).mean() if positive else np.nan)
        ranks = rankdata(probabilities[:, number])[member].sum() - positive * (positive + 1) / 2
        aucs.append(ranks / (positive * negative) if positive and negative else np.nan)
        found[f"{name} recall"] = float(recalls[-1])
    return found | {
        "balanced accuracy": float(np.nanmean(recalls)),
        "macro AUC": float(np.nanmean(aucs)),
        "log loss": float(-np.log(np.maximum(own, 1e-7)).mean()),
    }


def to_markdown(found: Mapping[str, Any]) -> list[str]:
    """A table for each comparison."""
    columns = (*FIGURES, "errors", "accuracy, paired", "log loss, paired")
    lines = []
    for comparison in found["comparisons"]:
        lines += [f"**{comparison['title']}**", ""]
        lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for arm in comparison["arms"]:
            cells = [_cell(arm["figures"][name]) for name in FIGURES]
            errors = round((1 - arm["figures"]["accuracy"]["value"]) * arm["scans"])
            cells.append(f"{errors} of {arm['scans']}")
            for name in ("accuracy", "log loss"):
                cells.append(_cell(arm["paired"][name], sign="+") if arm["paired"] else "")
            lines.append(f"| {arm['what']} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _cell(figure: Mapping[str, Any], sign: str = "") -> str:
    low, high = figure["interval"]
    return f"{figure['value']:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Errors of every arm less those of its comparison's first, with intervals."""
    from matplotlib.figure import Figure

    rows: list[tuple[str, Mapping[str, Any] | None]] = []
    for comparison in found["comparisons"]:
        first, *others = comparison["arms"]
        rows.append((f"{comparison['title']}\nagainst {first['what']}", None))
        rows += [(arm["what"], arm["paired"]["accuracy"]) for arm in others]
    picture = Figure(figsize=(9, 0.36 * len(rows) + 0.9), layout="constrained")
    axes = picture.subplots()
    axes.axvline(0, color="0.7", linewidth=1)
    for height, (_, figure) in enumerate(rows):
        if figure is None:
            continue
        low, high = (100 * end for end in figure["interval"])
        colour = "0.45" if low <= 0 <= high else "#b5352c" if high < 0 else "#23679a"
        if high < LOWEST_DRAWN:  # it would press all others together
            told = f"{100 * figure['value']:.0f} ({low:.0f} to {high:.0f})"
            axes.annotate(
                told, (LOWEST_DRAWN, height), (LOWEST_DRAWN + 0.7, height), color=colour,
                fontsize=8, va="center", arrowprops={"arrowstyle": "->", "color": colour},
            )  # fmt: skip
            continue
        axes.plot([low, high], [height, height], color=colour, linewidth=2)
        axes.plot([100 * figure["value"]], [height], "o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [text for text, _ in rows], fontsize=8)
    for label, (_, figure) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if figure is None else "normal")
    axes.set_xlim(LOWEST_DRAWN, None)
    axes.invert_yaxis()
    axes.set_xlabel("points of test accuracy, paired, with 95 % interval", fontsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    picture.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(command.run(main))
