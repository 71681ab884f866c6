import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from oct_jax.metrics.shares import patient_share, scans_behind, widen_certain


@given(scans=st.integers(1, 500), part=st.floats(0, 1), patients=st.integers(1, 50))
def test_an_interval_holds_its_share(scans, part, patients):
    holds = np.arange(scans) < round(part * scans)
    share, low, high = patient_share(holds, np.arange(scans) % patients)
    assert 0 <= low <= share <= high <= 1
    assert low < high


@given(hits=st.sampled_from([0, 3, 17, 40]))
def test_one_scan_of_each_patient_gives_wilsons_interval(hits):
    _, low, high = patient_share(np.arange(40) < hits, np.arange(40))
    ends = binomtest(hits, 40).proportion_ci(0.95, method="wilson")
    # The variance over patients has 39 in place of 40.
    assert (low, high) == pytest.approx((ends.low, ends.high), abs=0.005)


def test_copies_of_a_scan_tell_nothing_new():
    holds = np.random.default_rng(0).random(40) < 0.8
    once = patient_share(holds, np.arange(40))
    assert patient_share(np.repeat(holds, 20), np.repeat(np.arange(40), 20)) == pytest.approx(once)


def test_intervals_hold_the_truth_where_a_patients_scans_resemble_each_other():
    rng, by_patient, by_scan = np.random.default_rng(0), 0, 0
    for _ in range(400):
        patients = np.repeat(np.arange(40), rng.integers(1, 9, 40))
        likely = rng.beta(0.9 * 2, 0.1 * 2, 40)  # 0.9 on average
        holds = rng.random(len(patients)) < likely[patients]
        _, low, high = patient_share(holds, patients)
        by_patient += low <= 0.9 <= high
        _, low, high = patient_share(holds, np.arange(len(holds)))
        by_scan += low <= 0.9 <= high
    assert by_patient / 400 > 0.91
    assert by_scan / 400 < 0.85


def test_a_share_without_mistakes_is_not_certain():
    patients = np.repeat(np.arange(12), 3)
    truth = np.repeat(np.arange(2), 18)
    behind = scans_behind(truth, truth, ("A", "B"))
    values = {"accuracy": 1.0, "A recall": 1.0, "macro AUC": 1.0, "B precision": 0.9}
    drawn = dict.fromkeys(values, (1.0, 1.0)) | {"B precision": (0.8, 1.0)}
    ends = widen_certain(values, drawn, behind, patients)
    assert ends["accuracy"] == pytest.approx((12 / (12 + 1.959964**2), 1))
    assert ends["A recall"] == pytest.approx((6 / (6 + 1.959964**2), 1))
    assert ends["macro AUC"] == (1.0, 1.0)  # no share
    assert ends["B precision"] == (0.8, 1.0)
