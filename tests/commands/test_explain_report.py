"""The report on a run: complete, the same twice, and strict."""

import copy
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from oct_jax.commands.explain_report import MAPS, criteria, examine, read_examples, report
from oct_jax.commands.settings import ExplainReportConfig
from oct_jax.runs.load import load
from oct_jax.runs.verified import report_path

CONFIG = ExplainReportConfig(scans=8, steps=3)


@pytest.fixture(scope="module")
def tested(run):
    classifier = load(run)
    return examine(classifier, read_examples(run, classifier, 8), CONFIG, Console(quiet=True))


def test_a_stored_report_is_whole(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "copy")
    report(ExplainReportConfig(run=str(folder), scans=8, steps=3), Console(quiet=True))
    where = report_path(folder).parent
    names = {".oct_jax", "report.json", "report.md", "curves.png", "maps.png"}
    assert {path.name for path in where.iterdir()} == names
    figures = json.loads(report_path(folder).read_text())
    assert figures["synthetic"]
    assert not figures["passed"]  # the weights are random
    assert "NOT PASSED" in (where / "report.md").read_text()


def test_the_same_seed_gives_the_same_figures(run, tested):
    classifier = load(run)
    again = examine(classifier, read_examples(run, classifier, 8), CONFIG, Console(quiet=True))
    assert json.dumps(again.figures) == json.dumps(tested.figures)


def test_all_maps_share_the_ends_of_their_curves(tested):
    for kind in MAPS[1:]:
        for test in ("deletion", "insertion"):
            ours, theirs = tested.curves[test]["map"], tested.curves[test][kind]
            np.testing.assert_array_equal(ours[:, [0, -1]], theirs[:, [0, -1]])
    deletion, insertion = tested.curves["deletion"]["map"], tested.curves["insertion"]["map"]
    np.testing.assert_array_equal(deletion[:, [0, -1]], insertion[:, [-1, 0]])


def test_lesions_are_those_of_the_scans(run):
    examples = read_examples(run, load(run), 8)
    assert examples.inputs.shape[1:] == examples.lesions.shape[1:] == (64, 64)
    for label, lesion in zip(examples.labels, examples.lesions, strict=True):
        assert label != 3 or not lesion.any()


PASSED = {
    "advantage": {
        test: dict.fromkeys(MAPS[1:], (0.2, 0.1, 0.3)) for test in ("deletion", "insertion", "road")
    },
    "advantage_on_lesions": {
        test: dict.fromkeys(MAPS[1:], (0.2, 0.1, 0.3)) for test in ("deletion", "insertion")
    },
    "randomised": {"the head": (0.6, 0.5, 0.7), "all weights": (0.1, 0.0, 0.2)},
    "lesions": {"map": {"pointing_game": (0.95, 0.9, 1.0)}},
}


def spoiled(*path, value):
    figures = copy.deepcopy(PASSED)
    inner = figures
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return figures


def test_good_figures_pass():
    assert all(criteria(PASSED).values())


@pytest.mark.parametrize(
    "figures",
    [
        spoiled("advantage", "deletion", "random", value=(0.2, -0.01, 0.4)),
        spoiled("advantage", "insertion", "random", value=(0.2, -0.01, 0.4)),
        spoiled("advantage", "insertion", "random head", value=(0.2, -0.01, 0.4)),
        spoiled("advantage_on_lesions", "insertion", "centre", value=(-0.2, -0.3, -0.1)),
        spoiled("advantage_on_lesions", "deletion", "random", value=(0.2, -0.01, 0.4)),
        spoiled("randomised", "all weights", value=(0.4, 0.3, 0.6)),
        spoiled("lesions", "map", "pointing_game", value=(0.85, 0.8, 0.9)),
    ],
)
def test_one_bad_figure_fails(figures):
    assert sum(not holds for holds in criteria(figures).values()) == 1


def test_centre_and_lesions_count_on_phantoms_alone():
    figures = spoiled("advantage", "deletion", "centre", value=(-0.2, -0.3, -0.1))
    assert all(criteria(figures).values())  # normal scans have nothing to find
    assert all(criteria(figures | {"lesions": {}, "advantage_on_lesions": {}}).values())
