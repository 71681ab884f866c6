"""Figures of predictions that are made up, by the laws that they must keep."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.data.folder import scans_in_files
from oct_jax.data.manifest import Record
from oct_jax.decision.outliers import fit_outliers
from oct_jax.decision.rule import fit_rule
from oct_jax.metrics.evaluation import appraise, parse_prevalence, to_groups
from oct_jax.metrics.groups import Group, plain_groups, task_of_groups, tier_of
from oct_jax.model.inference import Outputs
from oct_jax.runs.scans import parse_groups
from oct_jax.task import KERMANY
from oct_jax.types import UserError


def outputs_of(seed, labels, strength=2.5):
    rng = np.random.default_rng(seed)
    logits = strength * np.eye(4)[labels] + rng.normal(size=(len(labels), 4))
    pooled = 1 + 0.2 * rng.normal(size=(len(labels), 12))
    return Outputs(logits.astype(np.float32), pooled.astype(np.float32))


def scans_of(truth, groups=None, patients=None):
    task = task_of_groups(groups or plain_groups(KERMANY), KERMANY)
    patients = patients or [str(index // 2) for index in range(len(truth))]
    records = tuple(
        Record(f"{index}.png", task.classes[label], patient, "test", 9, 9, 9, f"{index:064x}")
        for index, (label, patient) in enumerate(zip(truth, patients, strict=True))
    )
    return scans_in_files(Path("/none"), records, task)


def rule_of(seed=0, scans=200, **asked):
    labels = np.arange(scans) % 4
    outputs = outputs_of(seed, labels)
    outliers = fit_outliers(outputs_of(seed + 1, labels).pooled)
    counts = dict.fromkeys(KERMANY.classes, scans // 4)
    return fit_rule(
        outputs, labels, outliers, fitted_on={"scans": counts, "patients_of": counts}, **asked
    )


def values(report):
    return {name: figure["value"] for name, figure in report["figures"].items()}


def test_a_report_of_everything():
    truth = np.arange(120) % 4
    found = appraise(outputs_of(7, truth), rule_of(), scans_of(truth), resamples=20)
    report = found.report
    assert report["scans"] == 120
    assert report["patients"] == 60
    assert np.sum(report["confusion"]["rows"]) == 120
    said = values(report)
    assert said["accuracy"] == pytest.approx(np.trace(report["confusion"]["rows"]) / 120)
    for group in report["sets"]["by_group"].values():
        low, high = group["sampling_range"]
        assert low - 0.05 <= group["coverage"] <= high + 0.05
    rows = np.array(list(report["referral"]["rows"].values()))
    assert rows.sum() == 120
    assert said["deferred"] == pytest.approx(rows[:, 3].sum() / 120)
    # Missed: CNV or DME that was neither called urgent nor deferred.
    assert said["urgent missed"] == pytest.approx(rows[:2, 1:3].sum() / 60)
    assert said["urgent sensitivity"] > 0.9
    assert report["risk_coverage"]["error_when_answering"]["1"] == pytest.approx(
        1 - said["accuracy"]
    )


def test_without_a_rule_there_is_no_referral():
    truth = np.arange(40) % 4
    report = appraise(outputs_of(1, truth), None, scans_of(truth), resamples=10).report
    assert report["referral"] is report["sets"] is report["calibration"] is None
    assert "deferred" not in report["figures"]
    assert values(report)["accuracy"] > 0.5


@pytest.mark.parametrize("present", [(0,), (0, 3), (2,), (3,)])
@pytest.mark.parametrize("patients", [1, 5])
def test_missing_classes_and_few_patients_give_figures_or_none(present, patients):
    truth = np.array(present)[np.arange(12) % len(present)]
    owners = [str(index % patients) for index in range(12)]
    found = appraise(
        outputs_of(3, truth), rule_of(), scans_of(truth, patients=owners), resamples=10
    )
    for name, figure in found.report["figures"].items():
        assert figure["value"] is None or np.isfinite(figure["value"]), name
        assert figure["interval"] is None or np.isfinite(figure["interval"]).all(), name
    assert values(found.report)["accuracy"] is not None


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_broken_logits_are_told(broken):
    truth = np.arange(8) % 4
    outputs = outputs_of(0, truth)
    outputs.logits[[2, 5], 1] = broken
    with pytest.raises(UserError, match="2 of 8 scans have logits that are not finite"):
        appraise(outputs, None, scans_of(truth), resamples=10)


def test_a_binary_folder_is_judged_by_the_sum_of_its_classes():
    groups = parse_groups("ABNORMAL:CNV+DME+DRUSEN,HEALTHY:NORMAL", KERMANY)
    assert [group.name for group in groups] == ["ABNORMAL", "HEALTHY"]
    classes = np.arange(80) % 4
    truth = (classes == 3).astype(int)
    outputs = outputs_of(2, classes)
    scans = scans_of(truth, groups)
    found = appraise(outputs, rule_of(), scans, groups=groups, task=KERMANY, resamples=10)
    np.testing.assert_allclose(found.by_group.sum(1), 1)
    np.testing.assert_allclose(found.by_group[:, 1], found.probabilities[:, 3])
    said = values(found.report)
    assert said["accuracy"] > 0.8
    assert said["weighted error"] is None  # ABNORMAL is of several tiers
    assert "urgent sensitivity" not in said
    assert found.report["calibration"] is None
    assert tier_of(groups[0], KERMANY) is None


@given(st.permutations(range(4)), st.integers(0, 99))
def test_groups_share_out_all_probability(order, seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(4), 5)
    names = [KERMANY.classes[index] for index in order]
    groups = (Group("a", tuple(names[:2])), Group("b", (names[2],)), Group("c", (names[3],)))
    np.testing.assert_allclose(to_groups(probabilities, groups, KERMANY).sum(1), 1)


@pytest.mark.parametrize(
    "text",
    [
        "AMD",
        "AMD:",
        ":CNV",
        "AMD:GLAUCOMA",
        "A:CNV,B:CNV+DME",
        "A:CNV,A2:cnv",
        "AMD:CNV,amd:DRUSEN",
        "drusen:CNV",
        "urgent:CNV+DME",
    ],
)
def test_labels_that_are_not_understood(text):
    with pytest.raises(UserError, match="labels="):
        parse_groups(text, KERMANY)


@pytest.mark.parametrize(
    "text",
    ["CNV", "CNV:x", "AMD:0.1", "CNV:0.7,DME:0.7", "CNV:-0.1", "NORMAL:0.5", "CNV:0.1,CNV:0.2"],
)
def test_prevalences_that_are_not_understood(text):
    with pytest.raises(UserError, match="prevalence="):
        parse_prevalence(text, KERMANY)


def test_normal_is_what_is_left():
    shares = parse_prevalence("cnv:0.05,DME:0.15", KERMANY)
    assert parse_prevalence("CNV:0.33,DME:0.56,DRUSEN:0.11", KERMANY)["NORMAL"] == 0
    assert shares == pytest.approx({"CNV": 0.05, "DME": 0.15, "DRUSEN": 0.0, "NORMAL": 0.8})


def test_a_rare_disease_lowers_its_precision():
    truth = np.arange(200) % 4
    common = {"CNV": 0.25, "DME": 0.25, "DRUSEN": 0.25, "NORMAL": 0.25}
    rare = {"CNV": 0.01, "DME": 0.01, "DRUSEN": 0.01, "NORMAL": 0.97}
    told = [
        appraise(
            outputs_of(4, truth), None, scans_of(truth), resamples=10, prevalence=shares
        ).report["figures"]["CNV precision there"]["value"]
        for shares in (common, rare)
    ]
    assert told[0] > told[1] + 0.2


def test_scans_that_name_no_patient_are_counted():
    truth = np.arange(12) % 4
    owners = [f"file:{index}" if index < 5 else str(index) for index in range(12)]
    scans = scans_of(truth, patients=owners)
    report = appraise(outputs_of(0, truth), None, scans, resamples=10).report
    assert report["scans_without_patient"] == 5


def test_a_group_of_several_classes_has_no_simple_sampling_range():
    groups = parse_groups("AMD:CNV+DRUSEN", KERMANY)
    classes = np.arange(80) % 4
    truth = np.array(
        [0 if KERMANY.classes[one] in ("CNV", "DRUSEN") else one // 2 + 1 for one in classes]
    )
    scans = scans_of(truth, groups)
    report = appraise(
        outputs_of(1, classes), rule_of(), scans, groups=groups, task=KERMANY, resamples=10
    ).report
    assert report["sets"]["by_group"]["AMD"]["sampling_range"] is None
    assert report["sets"]["by_group"]["DME"]["sampling_range"] is not None
