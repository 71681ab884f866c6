"""Narrow runs with decision rules, and the bundle of one, for every test of `export`."""

import dataclasses
from pathlib import Path

import pytest
from narrow_run import PREPROCESS, make_run
from viewer_browser import Browser, what_is_missing

from oct_jax.classifier import Classifier
from oct_jax.data.phantom import phantom_scans
from oct_jax.data.strengths import Augment
from oct_jax.decision.fit import fit_on_scans
from oct_jax.decision.storage import write_rule
from oct_jax.export import quantize
from oct_jax.export.bundle import export
from oct_jax.runs.load import load
from oct_jax.runs.source import find_source


def calibrate(run: Path) -> Path:
    """Fits the decision rule of a run of phantoms."""
    classifier = load(run)
    source = phantom_scans(patients=24, seed=1)
    rule = fit_on_scans(
        classifier.model,
        classifier.variables,
        classifier.preprocess,
        train=source.select("train"),
        calibration=source.select("calibration"),
        augment=Augment(),
        data="phantom",
        threads=2,
    )
    write_rule(run / classifier.stage, rule)
    return run


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """With the preprocessing that runs have by default."""
    preprocess = dataclasses.replace(PREPROCESS, resize="retina")
    return calibrate(make_run(tmp_path_factory.mktemp("run") / "narrow", preprocess=preprocess))


@pytest.fixture(scope="session")
def classifier(run) -> Classifier:
    return load(run)


@pytest.fixture(scope="session")
def viewer(bundle) -> Path:
    """The bundle's page."""
    page = bundle / "viewer.html"
    if not page.is_file():
        pytest.skip("no page: npm could not fetch what it is made of")
    return page


@pytest.fixture(scope="session")
def browser():
    """Chromium, where this machine has it and what drives it."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    driven = Browser()
    yield driven
    driven.close()


@pytest.fixture(scope="session")
def bundle(run, tmp_path_factory) -> Path:
    """Of a network with random weights: the gate is opened, so that there is an int8 model."""
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "LARGEST_DROP", 1.0)
        patch.setattr(quantize, "LEAST_AGREEMENT", 0.0)
        patch.setattr(quantize, "RECIPES", quantize.RECIPES[:2])
        export(find_source(str(run), None), out)
    return out
