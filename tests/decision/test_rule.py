import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.decision.outliers import fit_outliers
from oct_jax.decision.referral import refer, to_referrals, urgency, urgent_threshold
from oct_jax.decision.rule import apply_rule, decide, fit_rule
from oct_jax.model.inference import Outputs
from oct_jax.task import KERMANY, of_folders
from oct_jax.types import UserError


def outputs_of(seed, scans=120, channels=24):
    rng = np.random.default_rng(seed)
    labels = (np.arange(scans) % 4).astype(np.int32)
    logits = 2.5 * np.eye(4)[labels] + rng.normal(size=(scans, 4))
    pooled = 1 + 0.2 * rng.normal(size=(scans, channels))
    return Outputs(logits.astype(np.float32), pooled.astype(np.float32)), labels


def fitted(seed=0, **asked):
    outputs, labels = outputs_of(seed)
    outliers = fit_outliers(outputs_of(seed + 1)[0].pooled)
    return fit_rule(outputs, labels, outliers, fitted_on={"data": "made up"}, **asked)


def test_calibration_scans_reach_what_was_asked():
    outputs, labels = outputs_of(0)
    rule = fitted(0, coverage=0.85, sensitivity=0.95, outlier_rate=0.05)
    found = decide(rule, outputs)
    covered = found.sets[np.arange(len(labels)), labels]
    for label in range(4):
        assert covered[labels == label].mean() >= 0.85
    urgent = urgency(found.probabilities, KERMANY) >= rule.urgent_threshold
    assert urgent[np.array(KERMANY.urgent)[labels]].mean() >= 0.95
    assert (found.outlier_scores > 1).mean() <= 0.05


def test_far_features_are_deferred():
    rule, (outputs, _) = fitted(), outputs_of(3)
    far = Outputs(outputs.logits, np.eye(24, dtype=np.float32)[np.zeros(120, int)])
    found = decide(rule, far)
    assert set(found.referrals) == {"defer"}
    assert (found.outlier_scores > 1).all()
    without = dataclasses.replace(rule, outliers=None)
    assert np.isnan(decide(without, far).outlier_scores).all()
    assert set(decide(without, far).referrals) != {"defer"}


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(broken):
    outputs, labels = outputs_of(0)
    outputs.logits[3, 1] = broken
    with pytest.raises(UserError, match="1 scans have logits that are not finite"):
        fit_rule(outputs, labels, None, fitted_on={})


def test_no_calibration_scans():
    with pytest.raises(UserError, match="no calibration scans"):
        fit_rule(
            Outputs(np.zeros((0, 4), np.float32), np.zeros((0, 8), np.float32)),
            np.zeros(0, np.int32),
            None,
            fitted_on={},
        )


members = st.lists(st.booleans(), min_size=4, max_size=4)


@given(members, st.booleans(), st.booleans())
def test_referral_is_the_one_tier_of_the_set_or_deferral(row, urgent, outlier):
    (said,) = refer(np.array([row]), np.array([urgent]), np.array([outlier]), KERMANY)
    tiers = {
        KERMANY.tier_of(name) for name, inside in zip(KERMANY.classes, row, strict=True) if inside
    }
    if said == "defer":
        assert outlier or len(tiers) != 1 or (urgent and tiers != {"urgent"})
    else:
        assert tiers == {said}
        assert not outlier


@given(st.integers(0, 200), st.floats(0.5, 1.0))
def test_the_urgent_threshold_finds_what_it_promises(seed, sensitivity):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 4, 50), rng.uniform(size=50)
    threshold = urgent_threshold(scores, labels, sensitivity, KERMANY)
    if np.array(KERMANY.urgent)[labels].any():
        assert (scores[np.array(KERMANY.urgent)[labels]] >= threshold).mean() >= sensitivity - 1e-9
    assert urgent_threshold(scores, np.full(50, 3), sensitivity, KERMANY) == 0


@pytest.mark.parametrize("outliers", [True, False])
def test_the_rule_is_a_pure_function_of_pytrees(outliers):
    rule = fitted() if outliers else dataclasses.replace(fitted(), outliers=None)
    outputs, _ = outputs_of(5)
    expected = decide(rule, outputs)
    jitted = jax.jit(apply_rule, static_argnums=2)
    decided = jitted(
        jax.tree.map(jnp.asarray, rule.arrays), jax.tree.map(jnp.asarray, outputs), KERMANY
    )
    np.testing.assert_allclose(decided.probabilities, expected.probabilities, rtol=1e-5)
    np.testing.assert_allclose(decided.outlier_scores, expected.outlier_scores, rtol=1e-3)
    np.testing.assert_array_equal(decided.sets, expected.sets)
    assert to_referrals(np.asarray(decided.tiers)) == expected.referrals
    assert len(set(expected.referrals)) > 2


def test_the_rule_is_differentiable_and_maps_over_rules():
    rule, (outputs, _) = fitted(), outputs_of(5)
    outputs = jax.tree.map(jnp.asarray, outputs)

    def certainty(arrays):
        return apply_rule(arrays, outputs, KERMANY).probabilities.max(1).mean()

    arrays = jax.tree.map(jnp.asarray, rule.arrays)
    slope = jax.grad(lambda heat: certainty(arrays._replace(temperature=heat)))(1.0)
    assert slope < 0  # hotter is less certain
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), arrays)
    assert jax.vmap(certainty)(several).shape == (2,)


def test_a_task_without_tiers_refers_nothing():
    task = of_folders(["a", "b", "c", "d"])
    rule, (outputs, _) = fitted(), outputs_of(5)
    decided = apply_rule(rule.arrays, outputs, task)
    assert set(decided.tiers.tolist()) == {-1}
