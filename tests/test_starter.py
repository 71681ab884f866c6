"""The starter model in the package: whole, small, and honest about where it comes from."""

import hashlib
import re

import numpy as np
import pytest

from oct_jax import KERMANY, load
from oct_jax.starter import CARD, MODEL


@pytest.fixture(scope="module")
def starter():
    return load("starter")


def test_it_is_small_and_of_patients(starter):
    assert MODEL.stat().st_size <= 6_000_000
    assert starter.task.classes == KERMANY.classes
    assert not starter.synthetic
    assert starter.rule is not None
    assert starter.provenance.is_verified("gradcam", False)


def test_it_knows_its_scans_and_its_licences(starter):
    facts = starter.provenance.facts
    train = sum(facts["data"]["scans"]["train"].values())
    assert len(starter.provenance.trained.scans) == train
    assert facts["licence"] == facts["initial_weights"]["licence"] == "Apache-2.0"
    assert facts["scans"]["licence"] == "CC BY 4.0"
    assert "path" not in facts["weights"]


def test_its_card_says_what_must_be_said(starter):
    card = CARD.read_text(encoding="utf-8")
    weights = starter.provenance.facts["weights"]["sha256"]
    for part in ("Not a medical device", "CC BY 4.0", "Apache-2.0", "another hospital", weights):
        assert part in card
    assert not re.search(r"\$\w", card)


def test_a_picture_of_nothing_is_deferred(starter):
    blank = np.full((496, 512), 128, np.uint8)
    assert starter.predict(blank).decision.referral == "defer"


def test_it_is_right_on_its_test_scans(starter, real_scans):
    """Scans whose patients it has not met: one of each class is enough to see that it is whole."""
    met = starter.provenance.trained.scans | starter.provenance.chosen.scans
    for name in KERMANY.classes:
        paths = sorted((real_scans / name).iterdir())
        fresh = (p for p in paths if hashlib.sha256(p.read_bytes()).hexdigest() not in met)
        assert starter.predict(next(fresh)).label == name
