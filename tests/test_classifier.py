"""A classifier as a value: pure `apply`, targets of each scan, display in a notebook."""

import base64
import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from toy_model import ToyConfig

from oct_jax.classifier import classifier_of
from oct_jax.data.preprocess import Preprocess, resize_scan
from oct_jax.decision.rule import apply_rule, fit_rule
from oct_jax.model.inference import Outputs
from oct_jax.task import KERMANY, of_folders
from oct_jax.types import UserError

PREPROCESS = Preprocess(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
SCANS = np.random.default_rng(0).integers(0, 256, (6, 20, 30)).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier():
    config = ToyConfig()
    return classifier_of(config, config.build().init(0), PREPROCESS, synthetic=True)


@pytest.fixture(scope="module")
def inputs():
    return np.stack([resize_scan(scan, PREPROCESS) for scan in SCANS])


def test_apply_gives_the_logits_of_predict_under_jit_and_vmap(classifier, inputs):
    expected = np.stack([prediction.logits for prediction in classifier.predict(SCANS)])
    whole = jax.jit(classifier.apply)(classifier.variables, inputs)
    mapped = jax.vmap(classifier.apply, (None, 0))(classifier.variables, jnp.asarray(inputs))
    folded = classifier.apply(classifier.variables, inputs.reshape(2, 3, 16, 16))
    assert folded.logits.shape == (2, 3, 4)
    assert whole.pooled.shape == (6, 8)
    for outputs in (whole, mapped, folded):
        np.testing.assert_allclose(outputs.logits.reshape(6, 4), expected, rtol=1e-4, atol=1e-4)


def test_apply_is_differentiable_over_scans_and_variables(classifier, inputs):
    def logit(variables, scan):
        return classifier.apply(variables, scan).logits[1]

    scan = jnp.asarray(inputs[0], jnp.float32)
    over_variables, over_scan = jax.grad(logit, (0, 1))(classifier.variables, scan)
    assert over_scan.shape == (16, 16)
    assert jnp.abs(over_scan).max() > 0
    np.testing.assert_allclose(over_variables.params["head"]["bias"], [0, 1, 0, 0])
    with pytest.raises(ValueError, match=r"must end in \(16, 16\)"):
        classifier.apply(classifier.variables, SCANS)


def test_model_and_rule_are_one_jitted_program(classifier, inputs):
    outputs = classifier.apply(classifier.variables, inputs)
    host = Outputs(*map(np.asarray, outputs))
    rule = fit_rule(host, np.array([0, 1, 2, 3, 0, 1]), None, fitted_on={})

    @jax.jit
    def decide(variables, rule, scans):
        return apply_rule(rule, classifier.apply(variables, scans), KERMANY)

    decided = decide(classifier.variables, rule.arrays, inputs)
    np.testing.assert_allclose(decided.probabilities.sum(1), 1, rtol=1e-5)
    assert decided.sets.shape == (6, 4)


def test_each_scan_may_have_a_target_of_its_own(classifier):
    targets = ["DME", None, "NORMAL", "CNV", None, "DME"]
    explanations = classifier.explain(SCANS, targets)
    for explanation, target, scan in zip(explanations, targets, SCANS, strict=True):
        assert explanation.target == target or target is None
        alone = classifier.explain(scan, explanation.target)
        np.testing.assert_allclose(explanation.cells, alone.cells, atol=1e-3)
    assert explanations[1].target == explanations[1].prediction.label


@pytest.mark.parametrize(
    ("scans", "targets", "words"),
    [
        (SCANS, ["CNV"], "6 scans and 1 targets"),
        (SCANS[:2], ["CNV", "AMD"], "target=AMD: must be one of CNV"),
        ([], "AMD", "target=AMD"),
    ],
)
def test_wrong_targets_are_refused(classifier, scans, targets, words):
    with pytest.raises(UserError, match=words):
        classifier.explain(scans, targets)


def pictures_in(html):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(d), np.uint8), -1) for d in found]


def test_a_notebook_shows_a_prediction_with_its_scan(classifier, tmp_path):
    path = tmp_path / "scan.png"
    Image.fromarray(SCANS[0]).save(path)
    for scan in (SCANS[0], path, Image.fromarray(SCANS[0])):
        prediction = classifier.predict(scan)
        html = prediction._repr_html_()
        (picture,) = pictures_in(html)
        np.testing.assert_array_equal(picture, SCANS[0])
        for words in (prediction.label, "not calibrated", "SYNTHETIC", "not a medical device"):
            assert words in html
    prediction = classifier.predict(path)
    path.unlink()
    assert pictures_in(prediction._repr_html_()) == []


def test_a_notebook_shows_an_explanation_and_large_scans_small(classifier):
    large = np.full((496, 1024), 90, np.uint8)
    explanation = classifier.explain(large, "DME")
    html = explanation._repr_html_()
    (picture,) = pictures_in(html)
    assert picture.shape == (124, 256, 3)
    assert "evidence for DME (gradcam), unverified" in html
    assert len(html) < 100_000


def test_a_card_escapes_names_and_refers_nothing_without_tiers():
    config = ToyConfig()
    task = of_folders(["a", "b", "c", "d"])
    classifier = classifier_of(config, config.build().init(0), PREPROCESS, task=task)
    assert "no referral tiers" in classifier.predict(SCANS[0])._repr_html_()
