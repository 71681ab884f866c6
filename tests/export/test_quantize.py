"""The int8 search: its gate, what it reports, and that it is deterministic."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.data.loader import Batch, read_batch
from oct_jax.data.phantom import phantom_scans
from oct_jax.decision.rule import DecisionRule, decide
from oct_jax.export import quantize
from oct_jax.export.evidence import Answers, agreement, answer, referrals
from oct_jax.export.graph import make_graphs
from oct_jax.export.quantize import (
    Recipe,
    compare,
    passes,
    search,
    squeeze_excite_nodes,
    why_not,
)
from oct_jax.model.inference import Outputs
from oct_jax.task import KERMANY, OCTDL, of_folders


@pytest.fixture(scope="module")
def mobile(classifier):
    return make_graphs(classifier).mobile


@pytest.fixture(scope="module")
def batch(classifier) -> Batch:
    scans = phantom_scans(patients=24, seed=1).select("val")
    return read_batch(scans, classifier.preprocess, at_most=8, threads=2)


def test_int8_is_close_to_float_and_the_same_every_time(mobile, batch):
    recipe = Recipe("per channel", 8, "nothing")
    first = quantize.quantize(mobile, recipe, batch["image"]).SerializeToString(deterministic=True)
    second = quantize.quantize(mobile, recipe, batch["image"]).SerializeToString(deterministic=True)
    assert first == second
    assert len(first) < 0.5 * len(mobile.SerializeToString())
    exact, found = (answer(model, batch["image"]) for model in (mobile.SerializeToString(), first))
    assert np.abs(exact.probabilities - found.probabilities).max() < 0.2


def test_every_convolution_is_quantized(mobile, batch):
    model = quantize.quantize(mobile, Recipe("per channel", 8, "nothing"), batch["image"])
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 46
    assert all(
        made_by.get(name) == "DequantizeLinear" for node in convolutions for name in node.input
    )
    floats = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and not tensor.name.startswith("outliers/")
    ]
    hidden = 1280 // 4
    assert max(np.prod(tensor.dims, dtype=int) for tensor in floats) <= 4 * hidden


def test_the_minimalistic_network_has_no_squeeze_excite(mobile):
    assert squeeze_excite_nodes(mobile) == set()


def test_search_tells_all_it_tried_and_ships_what_passes(mobile, batch, classifier, monkeypatch):
    monkeypatch.setattr(quantize, "RECIPES", quantize.RECIPES[:3])
    splits = {"calibration": batch["image"], "validation": batch, "test": batch}
    monkeypatch.setattr(quantize, "LEAST_AGREEMENT", 0.0)
    monkeypatch.setattr(quantize, "LARGEST_DROP", 1.0)
    found = search(mobile, classifier.rule, **splits)
    assert found.model is not None
    assert found.report["shipped"]
    assert len(found.report["search"]) == 2  # squeeze-excite is not tried where there is none
    monkeypatch.setattr(quantize, "LEAST_AGREEMENT", 1.01)
    refused = search(mobile, classifier.rule, **splits)
    assert refused.model is None
    assert not refused.report["shipped"]
    assert "referrals" in refused.report["reason"]
    assert len(refused.report["search"]) == 2


@pytest.mark.parametrize("missing", ["calibration", "validation", "test"])
def test_without_scans_there_is_no_int8_and_a_reason(mobile, batch, missing):
    splits = {"calibration": batch["image"], "validation": batch, "test": batch}
    empty = Batch(image=batch["image"][:0], label=batch["label"][:0])
    splits[missing] = empty["image"] if missing == "calibration" else empty
    found = search(mobile, None, **splits)
    assert found.model is None
    assert missing in found.report["reason"]


@given(drop=st.floats(-0.1, 0.1), same=st.floats(0, 1))
def test_the_gate_is_half_a_point_and_99_percent(drop, same):
    row = {"float_accuracy": 0.9, "accuracy": 0.9 - drop, "referral_agreement": same}
    assert passes(row) == (drop <= 0.005 + 1e-9 and same >= 0.99)


def test_only_what_failed_the_gate_is_a_reason():
    row = {"float_accuracy": 0.9824, "accuracy": 0.9824, "referral_agreement": 0.95}
    assert why_not(row, 113) == (
        "on 113 test scans 95.00% of the referrals stayed the same, where 99% must"
    )
    row = {"float_accuracy": 0.98, "accuracy": 0.9, "referral_agreement": 1.0}
    assert why_not(row, 10) == (
        "on 10 test scans accuracy fell from 0.9800 to 0.9000, where 0.005 is allowed"
    )


@given(st.lists(st.sampled_from(["urgent", "defer"]), min_size=1), st.randoms())
def test_agreement_is_1_with_itself_and_symmetric(said, random):
    other = random.sample(said, len(said))
    assert agreement(said, said) == 1
    assert agreement(said, other) == agreement(other, said)


@given(label=st.integers(0, 3), certain=st.floats(0.3, 0.999), score=st.floats(0, 2))
def test_answers_are_referred_as_the_run_refers(label, certain, score):
    """Logits through the run's rule, and their probabilities through the exported model's."""
    logits = np.zeros((1, 4), np.float32)
    logits[0, label] = np.log(3 * certain / (1 - certain))
    rule = DecisionRule(1.0, np.full(4, 0.25, np.float32), 0.45, 0.9, 0.99, 0.01, None)
    said = decide(rule, Outputs(logits, np.zeros((1, 8), np.float32)))
    maps = np.zeros((1, 2, 2), np.float32)
    answers = Answers(said.probabilities.astype(np.float32), maps, np.array([score]))
    wanted = "defer" if score > 1 else said.referrals[0]
    assert referrals(answers, rule, KERMANY) == [wanted]


def test_a_seven_class_model_without_a_rule_is_compared_by_its_own_tiers():
    probabilities = np.eye(7, dtype=np.float32)[[0, 6]]
    answers = Answers(probabilities, np.zeros((2, 2, 2), np.float32), np.zeros(2, np.float32))
    labels = np.array([0, 6], np.int32)
    assert compare(answers, answers, labels, None, OCTDL)["referral_agreement"] == 1
    assert referrals(answers, None, OCTDL) == ["urgent", "routine"]
    assert referrals(answers, None, of_folders(OCTDL.classes)) == ["none", "none"]
