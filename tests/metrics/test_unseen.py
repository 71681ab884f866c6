"""Diseases outside of a task: what is asked of them, and what is counted."""

import numpy as np
import pytest

from oct_jax.decision.rule import Decisions
from oct_jax.metrics.unseen import Unseen, parse_unseen, unseen_figures
from oct_jax.task import KERMANY
from oct_jax.types import UserError


def decided(referrals, scores):
    count = len(referrals)
    return Decisions(
        np.full((count, 4), 0.25),
        np.ones((count, 4), bool),
        list(referrals),
        np.array(scores, float),
        np.zeros(count, bool),
    )


def test_words_name_diseases_and_their_tiers():
    assert parse_unseen(None, KERMANY) == {}
    words = parse_unseen("MH:urgent, ERM:routine", KERMANY)
    assert words == {"MH": "urgent", "ERM": "routine"}


@pytest.mark.parametrize("text", ["MH", "MH:soon", "cnv:urgent", "MH:urgent,mh:routine", ":urgent"])
def test_wrong_words_are_one_line(text):
    with pytest.raises(UserError, match=r"^unseen=.*$"):
        parse_unseen(text, KERMANY)


def test_what_is_counted():
    unseen = Unseen(
        names=["a", "b", "c", "d", "e", "f"],
        labels=["MH", "MH", "MH", "MH", "ERM", "ERM"],
        patients=["1", "1", "2", "3", "4", "5"],
        tiers={"MH": "urgent", "ERM": "routine"},
        decisions=decided(
            ["defer", "observe", "routine", "urgent", "urgent", "observe"],
            [2.0, 0.3, 0.5, 0.6, 0.1, 3.0],
        ),
    )
    known = decided(["observe"] * 20, np.linspace(0, 0.4, 20))
    figures = unseen_figures(unseen, known, [f"k{i}" for i in range(20)], resamples=20, seed=0)
    assert list(figures) == ["MH", "ERM", "all"]
    hole = figures["MH"]
    assert (hole["scans"], hole["patients"]) == (4, 3)
    assert hole["referrals"] == {"urgent": 1, "routine": 1, "observe": 1, "defer": 1}
    assert hole["urgent_observed"] == 1
    values = {name: figure["value"] for name, figure in hole["figures"].items()}
    assert values["deferred"] == 0.25
    assert values["less urgent tier"] == 0.5
    assert values["outliers"] == 0.25
    assert values["accepted at 95 % of known"] == 0.25
    assert values["outlier AUROC"] == pytest.approx((3 * 20 + 15) / 80)
    # To take it for urgent is no harm done; to send it home is.
    assert figures["ERM"]["figures"]["less urgent tier"]["value"] == 0.5
    assert figures["all"]["urgent_observed"] == 1
    for figure in hole["figures"].values():
        low, high = figure["interval"]
        assert 0 <= low <= high <= 1


def test_without_outlier_scores_only_referrals_are_counted():
    unseen = Unseen(["a"], ["MH"], ["1"], {"MH": "urgent"}, decided(["defer"], [np.nan]))
    known = decided(["observe"] * 3, [np.nan] * 3)
    figures = unseen_figures(unseen, known, list("xyz"), resamples=10, seed=0)["MH"]["figures"]
    assert figures["outlier AUROC"]["value"] is None
    assert figures["deferred"]["value"] == 1
