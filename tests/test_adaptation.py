"""A model for another clinic, from scans without labels."""

import dataclasses

import cv2
import numpy as np
import pytest
from narrow_run import make_run

from oct_jax import UserError, load
from oct_jax.adaptation import FEWEST, adapt
from oct_jax.commands.cli import evaluate
from oct_jax.decision.outliers import fit_outliers
from oct_jax.decision.rule import fit_rule
from oct_jax.decision.storage import write_rule
from oct_jax.model.inference import Outputs
from oct_jax.model.protocol import fingerprint_of

SCANS = np.random.default_rng(1).integers(0, 255, (24, 60, 70), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "narrow")


@pytest.fixture(scope="module")
def classifier(run):
    loaded = load(run)
    channels = loaded.variables.params["head"]["hidden"]["kernel"].shape[0]
    rng = np.random.default_rng(0)
    pooled = rng.random((60, channels), np.float32)
    outputs = Outputs(rng.normal(size=(60, 4)).astype(np.float32), pooled)
    labels = np.arange(60) % 4
    counts = dict.fromkeys(loaded.task.classes, 15)
    rule = fit_rule(
        outputs,
        labels,
        fit_outliers(pooled),
        fitted_on={"scans": counts, "patients_of": counts},
        model=fingerprint_of(loaded.variables),
    )
    return dataclasses.replace(loaded, rule=rule)


def test_the_logits_are_moved_by_the_classes_frequencies_alone(classifier):
    adapted = adapt(classifier, SCANS, source="a clinic")
    before, after = classifier.predict(SCANS), adapted.classifier.predict(SCANS)
    shift = classifier.rule.temperature * np.log(4 * np.array(list(adapted.priors.values())))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other.logits - one.logits, shift, rtol=1e-3, atol=1e-5)
    assert adapted.scans == 24
    assert adapted.unreadable == 0


def test_an_adapted_model_says_so_until_it_is_recalibrated(classifier, tmp_path):
    adapted = adapt(classifier, SCANS, source="a clinic").classifier
    adapted.save(tmp_path / "clinic.safetensors")
    again = load(tmp_path / "clinic.safetensors")
    assert not classifier.predict(SCANS[0]).decision.adapted
    assert again.predict(SCANS[0]).decision.adapted
    assert again.rule.fitted_on["adapted"]["data"] == "a clinic"


def test_pictures_without_a_retina_are_left_out_and_too_few_scans_refused(classifier):
    outliers = classifier.rule.outliers._replace(threshold=1e-7, no_retina=1e-6)
    rule = dataclasses.replace(classifier.rule, outliers=outliers)
    with pytest.raises(UserError, match=f"0 scans that show a retina; at least {FEWEST}"):
        adapt(dataclasses.replace(classifier, rule=rule), SCANS)
    with pytest.raises(UserError, match="no scans"):
        adapt(classifier, [])
    with pytest.raises(UserError, match="calibrated model"):
        adapt(dataclasses.replace(classifier, rule=None), SCANS)


def test_the_command_writes_a_model_and_keeps_what_is_there(run, classifier, tmp_path, capsys):
    write_rule(run / classifier.stage, classifier.rule)
    clinic = tmp_path / "clinic"
    clinic.mkdir()
    for number, scan in enumerate(SCANS):
        cv2.imwrite(str(clinic / f"{number}.png"), scan)
    (clinic / "broken.png").write_bytes(b"not a picture")
    out = tmp_path / "adapted.safetensors"
    words = ["adapt", f"run={run}", f"data={clinic}", f"out={out}"]
    evaluate(words)
    printed = capsys.readouterr().out
    assert "adapted to 24 scans" in printed
    assert "broken.png" in printed
    assert load(out).predict(SCANS[0]).decision.adapted
    before = out.read_bytes()
    with pytest.raises(UserError, match="exists; name another file"):
        evaluate(words)
    assert out.read_bytes() == before
