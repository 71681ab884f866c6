"""`experiments/ablations.py`: what its arms change, and what they leave alone."""

import importlib
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from oct_jax import KERMANY
from oct_jax.data.phantom import phantom_scans
from oct_jax.metrics.classification import figures

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def ablations():
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        return importlib.import_module("ablations")
    finally:
        sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def fold():
    return phantom_scans(patients=240, seed=0).records


def test_every_arm_is_understood_and_differs_from_the_first_of_its_comparison(ablations):
    given = ablations.read_words(["data=x", "weights=y"])
    for comparison in ablations.COMPARISONS:
        told = []
        for arm in comparison.arms:
            stages = ablations.settings_of(arm, given)
            assert all(settings.stage == stage for stage, settings in stages.items())
            told.append((stages, arm.resize, arm.share, arm.thinned))
        assert all(told.count(one) == 1 for one in told), comparison.title


def test_fewer_scans_make_as_many_steps(ablations):
    given = ablations.read_words(["data=x", "weights=y", "epochs=8", "frozen_epochs=20"])
    stages = ablations.settings_of(ablations.ARMS["share-25"], given, steps=4.0)
    assert {stage: settings.epochs for stage, settings in stages.items()} == {
        "frozen": 80,
        "finetune": 32,
    }


@pytest.mark.parametrize("name", ["imbalanced", "share-75", "share-25"])
def test_only_training_scans_are_left_out(ablations, fold, name):
    kept = ablations.training_scans(ablations.ARMS[name], fold)
    assert set(kept) < set(fold)
    assert {one for one in fold if one.split != "train"} < set(kept)


def test_thinned_scans_have_kermanys_proportions(ablations, fold):
    kept = ablations.thin([one for one in fold if one.split == "train"])
    counts, whole = Counter(one.label for one in kept), sum(ablations.PUBLISHED.values())
    for name in KERMANY.classes:
        assert abs(counts[name] - len(kept) * ablations.PUBLISHED[name] / whole) < 1
    assert counts["CNV"] == sum(one.split == "train" and one.label == "CNV" for one in fold)


def test_shares_are_of_patients_and_nested(ablations, fold):
    trained = [one for one in fold if one.split == "train"]
    patients = {one.patient for one in trained}
    last: set = set()
    for share in (0.25, 0.5, 0.75):
        kept = ablations.take_patients(trained, share)
        chosen = {one.patient for one in kept}
        assert abs(len(chosen) - share * len(patients)) <= 2
        assert set(kept) == {one for one in trained if one.patient in chosen}
        assert last < chosen
        last = chosen


def test_differences_are_paired(ablations):
    rng = np.random.default_rng(0)
    truth = np.arange(80) % 4
    said = rng.dirichlet(np.ones(4), 80).astype(np.float32)
    better = said.copy()
    better[:10] = np.eye(4, dtype=np.float32)[truth[:10]]
    arm = {"paths": np.arange(80), "patients": np.arange(80).astype(str), "truth": truth}
    ended = {
        "baseline": arm | {"probabilities": said},
        "batchnorm": arm | {"probabilities": said},
        "letterbox": arm | {"probabilities": better},
    }
    rows = ablations.compare(ended, resamples=50)["comparisons"]
    paired = {arm["name"]: arm["paired"] for row in rows for arm in row["arms"][1:]}
    assert paired["batchnorm"]["accuracy"] == {"value": 0.0, "interval": (0.0, 0.0)}
    other = paired["letterbox"]["accuracy"]
    gained = (better.argmax(1) == truth).mean() - (said.argmax(1) == truth).mean()
    assert other["value"] == pytest.approx(gained)
    assert 0 < other["interval"][0] <= gained <= other["interval"][1]


def test_figures_are_those_of_the_package(ablations):
    rng = np.random.default_rng(1)
    truth, said = rng.integers(4, size=60), rng.dirichlet(np.ones(4), 60).round(1)
    ours, theirs = ablations.figures_of(said, truth), figures(said, truth, KERMANY.classes)
    for name in (
        "accuracy",
        "balanced accuracy",
        "macro AUC",
        *(f"{c} recall" for c in KERMANY.classes),
    ):
        assert ours[name] == pytest.approx(theirs[name]), name


def test_arms_are_compared_on_the_scans_that_both_have(ablations):
    said = np.eye(4, dtype=np.float32)
    whole = {
        "paths": np.array(["b", "a", "d", "c"]),
        "patients": np.array(["1", "2", "3", "4"]),
        "truth": np.array([0, 1, 2, 3]),
        "probabilities": said[[0, 1, 2, 0]],
    }
    part = {name: values[[3, 1]] for name, values in whole.items()}
    one, other = ablations.shared(part, whole)
    assert one["paths"].tolist() == other["paths"].tolist() == ["a", "c"]
    for name in ("truth", "probabilities", "patients"):
        np.testing.assert_array_equal(one[name], other[name])


def test_arms_that_share_a_frozen_stage(ablations):
    given = ablations.read_words(["data=x", "weights=y"])
    shared = {name: ablations.frozen_arm(arm, given).name for name, arm in ablations.ARMS.items()}
    assert {name for name, first in shared.items() if first == "baseline"} == {
        "baseline", "rate-1e-5", "rate-1e-5-long", "rate-1e-4", "rate-3e-4", "rate-3e-3",
        "head-only", "batchnorm", "unclipped",
    }  # fmt: skip
