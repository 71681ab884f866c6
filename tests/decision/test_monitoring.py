"""The bet against exchangeability: it seldom wins where nothing changed, and soon where it did."""

import numpy as np
import pytest

from oct_jax.decision.monitoring import ALARM, watch


def clustered(rng, patients, shift=0.0):
    """Scores and patients: one to six scans each, which resemble each other."""
    owner = np.repeat(np.arange(patients), rng.integers(1, 7, patients))
    return rng.normal(size=patients)[owner] + 0.1 * rng.normal(size=len(owner)) + shift, owner


def alarms(by_patient, runs=100):
    rng, raised = np.random.default_rng(0), 0
    for _ in range(runs):
        known, owner = clustered(rng, 40)
        new, patients = clustered(rng, 40)
        if not by_patient:
            owner, patients = np.arange(len(owner)), np.arange(len(patients))
        raised += watch(known, owner, new, patients).max() >= ALARM
    return raised / runs


def test_exchangeable_patients_seldom_raise_an_alarm():
    assert alarms(by_patient=True) <= 0.05


def test_scans_taken_for_patients_would_raise_too_many():
    assert alarms(by_patient=False) > 0.05


@pytest.mark.parametrize("usual", [0, 60])
def test_a_change_is_seen_within_fifty_patients_also_late(usual):
    rng = np.random.default_rng(1)
    known, owner = clustered(rng, 60)
    before, patients = clustered(rng, usual)
    after, later = clustered(rng, 50, shift=1.5)
    scores = np.concatenate([before, after])
    capital = watch(known, owner, scores, np.concatenate([patients, later + usual]))
    assert len(capital) == usual + 50
    assert capital[:usual].max(initial=0) < ALARM <= capital.max()


def test_a_patient_who_comes_back_is_asked_once():
    known = np.arange(20.0)
    once = watch(known, np.arange(20), np.array([30.0, 31.0]), ["a", "b"])
    again = watch(known, np.arange(20), np.array([30.0, 31.0, 31.0]), ["a", "b", "b"])
    np.testing.assert_array_equal(once, again)
