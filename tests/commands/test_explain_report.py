"""The report on a run: complete, the same twice, and strict."""

import copy
import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from oct_jax.commands.explain_report import choose_scans, report
from oct_jax.commands.outline_report import examine_outlines, outlines_markdown
from oct_jax.commands.settings import ExplainReportConfig
from oct_jax.data.phantom import phantom_scans
from oct_jax.data.preprocess import Preprocess, geometry
from oct_jax.provenance import Provenance, ScanDigests
from oct_jax.reports.faithfulness import MAPS, criteria, examine, lesions_over_input
from oct_jax.runs.load import load
from oct_jax.runs.scans import open_run_scans, select_for_model
from oct_jax.runs.source import ModelSource, find_source
from oct_jax.runs.verified import report_path
from oct_jax.task import KERMANY
from oct_jax.types import UserError


def chosen_of(run):
    return choose_scans(find_source(str(run), None), load(run), None, 8)


@pytest.fixture(scope="module")
def tested(run):
    return examine(load(run), chosen_of(run), steps=3)


def test_a_stored_report_is_whole(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "copy")
    config = ExplainReportConfig(scans=8, steps=3)
    report(config, find_source(str(folder), None), Console(quiet=True))
    where = report_path(folder).parent
    names = {".oct_jax", "report.json", "report.md", "curves.png", "maps.png"}
    assert {path.name for path in where.iterdir()} == names
    figures = json.loads(report_path(folder).read_text())
    assert figures["synthetic"]
    assert not figures["passed"]  # the weights are random
    assert "NOT PASSED" in (where / "report.md").read_text()


def test_calibration_scans_fill_up_where_test_scans_are_few(run):
    classifier, source = load(run), find_source(str(run), None)
    own = open_run_scans(run)
    tests = {record.path for record in own.records if record.split == "test"}
    few = choose_scans(source, classifier, None, len(tests) // 2)
    assert {record.path for record in few.records} <= tests
    many = choose_scans(source, classifier, None, 10_000)
    assert {record.split for record in many.records} == {"test", "calibration"}
    assert tests < {record.path for record in many.records}


def test_the_same_seed_gives_the_same_figures(run, tested):
    again = examine(load(run), chosen_of(run), steps=3)
    assert json.dumps(again.figures) == json.dumps(tested.figures)


def test_all_maps_share_the_ends_of_their_curves(tested):
    for kind in MAPS[1:]:
        for test in ("deletion", "insertion"):
            ours, theirs = tested.curves[test]["map"], tested.curves[test][kind]
            np.testing.assert_array_equal(ours[:, [0, -1]], theirs[:, [0, -1]])
    deletion, insertion = tested.curves["deletion"]["map"], tested.curves["insertion"]["map"]
    np.testing.assert_array_equal(deletion[:, [0, -1]], insertion[:, [-1, 0]])


def test_lesions_lie_where_their_scan_shows_them():
    """The window around the retina is found in the scan, not in the mask."""
    preprocess = Preprocess(size=96, resize="retina", mean=(0.5,), std=(0.5,))
    scans = phantom_scans(patients=24, seed=0)
    scans = scans.take([index for index in range(len(scans)) if scans.lesion(index).any()][:4])
    for index, lesion in enumerate(lesions_over_input(scans, preprocess)):
        rows = geometry(scans.read(index), preprocess).rows
        centre = np.nonzero(scans.lesion(index))[0].mean()
        expected = (centre + 0.5 - rows.start) / rows.extent * 96 - 0.5
        assert np.nonzero(lesion)[0].mean() == pytest.approx(expected, abs=1)


def test_lesions_are_those_of_the_scans(run):
    scans, preprocess = chosen_of(run), load(run).preprocess
    lesions = lesions_over_input(scans, preprocess)
    assert scans.read_resized(0, preprocess).shape == lesions.shape[1:] == (64, 64)
    for label, lesion in zip(scans.labels, lesions, strict=True):
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


def test_outlined_lesions_are_tested_too(run, tmp_path):
    """Masks of phantoms, of a second grader who sees nothing; the figures are stored and told."""
    for name in ("scans", "first", "second"):
        (tmp_path / name).mkdir()
    source = phantom_scans(patients=24, seed=4)
    for index in np.flatnonzero(source.labels == KERMANY.classes.index("DME"))[:4]:
        name = f"{index}_1.png"
        lesion = np.where(source.lesion(int(index)), np.uint8(255), np.uint8(0))
        Image.fromarray(source.read(int(index))).save(tmp_path / "scans" / name)
        Image.fromarray(lesion).save(tmp_path / "first" / name)
        Image.fromarray(np.zeros_like(lesion)).save(tmp_path / "second" / name)
    figures = examine_outlines(load(run), tmp_path, "DME", "gradcam", flip=False, seed=0)
    assert (figures["scans"], figures["patients"], figures["graders_dice"]) == (4, 4, 0)
    names = {"DME (the lesions' class)", "CNV", "DRUSEN", "NORMAL", "random weights"}
    assert names <= set(figures["maps"])
    mean, low, high = figures["maps"]["CNV"]["share_inside"]
    assert 0 <= low <= mean <= high <= 1
    assert figures["doubts"]["none"][0] + figures["doubts"]["any"][0] == 4
    assert "random weights" in outlines_markdown(figures)
    assert json.dumps(figures)


def test_an_unknown_class_of_lesions_is_one_line(run, tmp_path):
    config = ExplainReportConfig(masks=str(tmp_path), lesion="WARTS")
    with pytest.raises(UserError, match="lesion=WARTS"):
        report(config, find_source(str(run), None), Console(quiet=True))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Eight phantoms as another clinic's folder, in the working directory."""
    monkeypatch.chdir(tmp_path)
    phantoms = phantom_scans(patients=24, seed=9)
    for label, name in enumerate(phantoms.task.classes):
        (tmp_path / "clinic" / name).mkdir(parents=True)
        for row in np.flatnonzero(phantoms.labels == label)[:2]:
            picture = Image.fromarray(phantoms.read(int(row)))
            picture.save(tmp_path / "clinic" / name / f"scan{row}.png")
    return tmp_path / "clinic"


def test_a_model_file_is_tested_on_scans_of_ones_own(run, elsewhere, tmp_path):
    load(run).save(tmp_path / "mine.safetensors")
    source = find_source(None, "mine.safetensors")
    config = ExplainReportConfig(data=str(elsewhere), scans=8, steps=3)
    report(config, source, Console(quiet=True))
    stored = tmp_path / "mine" / "explanation" / "report.json"
    figures = json.loads(stored.read_text())
    assert figures["scans"] == 8
    assert not source.is_verified(load("mine.safetensors"), "gradcam", False)
    stored.write_text(json.dumps(figures | {"passed": True}))
    assert source.is_verified(load("mine.safetensors"), "gradcam", False)
    other = load(run).variables
    changed = other._replace(params=jax.tree.map(lambda leaf: leaf + 1, other.params))
    assert not source.is_verified(replace(load(run), variables=changed), "gradcam", False)


def test_a_model_file_needs_data(run, tmp_path):
    load(run).save(tmp_path / "mine.safetensors")
    source = find_source(None, str(tmp_path / "mine.safetensors"))
    with pytest.raises(UserError, match="data=FOLDER"):
        report(ExplainReportConfig(), source, Console(quiet=True))


def test_scans_that_a_model_was_trained_on_do_not_test_it(run, elsewhere):
    scans = select_for_model(KERMANY, data=str(elsewhere)).scans
    trained = Provenance(trained=ScanDigests.of(scans.records))
    classifier = replace(load(run), provenance=trained)
    with pytest.raises(UserError, match="8 of 8 scans are of patients"):
        choose_scans(ModelSource("mine", None), classifier, str(elsewhere), 8)
