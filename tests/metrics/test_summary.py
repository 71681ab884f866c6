"""Metrics in one call agree with those of an evaluation, and refuse what is no classification."""

import numpy as np
import pytest

from oct_jax.metrics.classification import figures
from oct_jax.metrics.summary import summarise
from oct_jax.task import KERMANY
from oct_jax.types import UserError

LABELS = np.arange(40) % 4
SCORES = np.random.default_rng(0).random((40, 4)) + 0.3 * np.eye(4)[LABELS]
PROBABILITIES = SCORES / SCORES.sum(1, keepdims=True)


def test_values_are_those_of_figures_and_intervals_are_over_patients():
    alone = summarise(PROBABILITIES, LABELS, np.arange(40), resamples=40)
    grouped = summarise(PROBABILITIES, LABELS, np.arange(40) // 10, resamples=40)
    expected = figures(PROBABILITIES, LABELS, KERMANY.classes)
    assert {name: alone[name].value for name in expected} == pytest.approx(expected)
    assert (alone.patients, grouped.patients) == (40, 4)
    assert alone.confusion.sum() == 40
    assert alone["accuracy"].value == grouped["accuracy"].value
    assert alone["accuracy"] != grouped["accuracy"]  # the interval differs
    assert f"  accuracy: {alone['accuracy']}" in str(alone).splitlines()


@pytest.mark.parametrize(
    ("probabilities", "labels", "patients"),
    [
        (PROBABILITIES[:, :3], LABELS, np.arange(40)),
        (PROBABILITIES, LABELS[:-1], np.arange(40)),
        (PROBABILITIES, LABELS, np.arange(39)),
        (PROBABILITIES, LABELS + 1, np.arange(40)),
        (PROBABILITIES * 2, LABELS, np.arange(40)),
        (PROBABILITIES * np.nan, LABELS, np.arange(40)),
    ],
)
def test_what_is_no_classification_is_refused(probabilities, labels, patients):
    with pytest.raises(UserError):
        summarise(probabilities, labels, patients, resamples=10)
