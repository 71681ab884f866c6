"""The ONNX graphs against the run itself: numbers, laws, structure."""

from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oct_jax.classifier import Classifier
from oct_jax.data.phantom import phantom_scans
from oct_jax.data.preprocess import HeatmapGrid, Preprocess, resize_scan
from oct_jax.decision.outliers import OutlierModel
from oct_jax.decision.rule import DecisionRule
from oct_jax.export.graph import make_graphs
from oct_jax.export.trunk import OPSET
from oct_jax.export.verify import mobile_usability
from oct_jax.export.verify import run as answers_of
from oct_jax.model.fold import fold
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Variables, build
from oct_jax.task import KERMANY

SIZE = 64


def random_classifier(variant: str, padding: str) -> Classifier:
    """Random weights, statistics and rule: everything that the graph holds differs from 0 and 1."""
    unfolded = MobileNetV3Config(variant, width=0.25, padding=padding)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(np.asarray, build(unfolded).init(0))

    def spread(path, leaf):
        if path[-1].key == "var":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32)

    params, stats = jax.tree_util.tree_map_with_path(spread, tuple(variables))
    params["head"] = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), params["head"]
    )
    folded, config = fold(Variables(params, stats), unfolded)
    folded = jax.tree.map(jnp.asarray, folded)
    channels = folded.params["head"]["hidden"]["kernel"].shape[0]
    directions = np.linalg.qr(rng.normal(size=(channels, 5)))[0].astype(np.float32)
    outliers = OutlierModel(
        mean=rng.normal(0, 0.1, channels).astype(np.float32),
        directions=directions,
        precisions=rng.uniform(1, 3, 5).astype(np.float32),
        rest_precision=0.7,
        threshold=12.5,
    )
    rule = DecisionRule(
        temperature=1.7,
        set_thresholds=np.full(4, 0.2, np.float32),
        urgent_threshold=0.5,
        coverage=0.9,
        sensitivity=0.99,
        outlier_rate=0.01,
        outliers=outliers,
    )
    preprocess = Preprocess(size=SIZE, mean=(0.4, 0.5, 0.45), std=(0.2, 0.25, 0.3))
    classifier = Classifier(build(config), folded, preprocess, True, "frozen", rule, GRID)
    # Logits of about 3, so that no probability is 0 or 1.
    logits = classifier.predict(phantom_scans(patients=24, seed=3).read(0)).logits
    shrunk = jax.tree.map(
        lambda leaf: leaf * 3 / np.abs(logits).max(), folded.params["head"]["classifier"]
    )
    head = {**folded.params["head"], "classifier": shrunk}
    scaled = Variables({**folded.params, "head": head}, folded.stats)
    return replace(classifier, variables=scaled)


def open_graph(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


GRID = HeatmapGrid(32.0, 32.0, 21.3, 17.6)
FORMS = [("large_minimalistic", "same"), ("large", "symmetric")]


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: form[0])
def case(request):
    """A classifier, its graphs, and sessions of both."""
    classifier = random_classifier(*request.param)
    graphs = make_graphs(classifier)
    return classifier, graphs, open_graph(graphs.any_size), open_graph(graphs.mobile)


@pytest.fixture(scope="module")
def scans():
    """Phantoms in their own sizes."""
    source = phantom_scans(patients=24, seed=3)
    return [source.read(index) for index in range(0, 24, 6)]


def test_the_mobile_graph_gives_what_the_run_gives(case, scans):
    classifier, _, _, session = case
    for scan in scans:
        levels = resize_scan(scan, classifier.preprocess)[None, None].astype(np.float32)
        found = answers_of(session, {"scan": levels})
        said = classifier.explain(scan)
        decision = said.prediction.decision
        assert decision is not None
        assert KERMANY.classes[found["probabilities"][0].argmax()] == said.prediction.label
        np.testing.assert_allclose(found["logits"][0], said.prediction.logits, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            found["probabilities"][0], said.prediction.probabilities, atol=1e-4
        )
        np.testing.assert_allclose(found["outlier_score"][0], decision.outlier_score, rtol=1e-3)
        for index, name in enumerate(KERMANY.classes):
            cells = classifier.explain(scan, target=name).cells
            np.testing.assert_allclose(found["heatmaps"][0, index], cells, atol=1e-3)
        # Over a scan that is of the input's size already, the explanation is the heatmap.
        resized = levels[0, 0].astype(np.uint8)
        heatmap = classifier.explain(resized).heatmap
        np.testing.assert_allclose(found["heatmap"][0], heatmap, atol=1e-3)


def test_the_any_size_graph_gives_what_the_run_gives(case, scans):
    classifier, _, session, _ = case
    for scan in scans:
        found = answers_of(session, {"scans": scan[None]})
        np.testing.assert_array_equal(found["resized"][0], resize_scan(scan, classifier.preprocess))
        said = classifier.explain(scan)
        np.testing.assert_allclose(
            found["probabilities"][0], said.prediction.probabilities, atol=1e-4
        )
        np.testing.assert_allclose(found["heatmap"][0], said.heatmap, atol=1e-3)
        np.testing.assert_allclose(
            found["outlier_score"][0], said.prediction.decision.outlier_score, rtol=1e-3
        )


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 200),
    count=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=15)
def test_a_batch_is_its_scans_one_by_one(case, height, width, count, seed):
    session = case[2]
    scans = np.random.default_rng(seed).integers(0, 256, (count, height, width), np.uint8)
    together = answers_of(session, {"scans": scans})
    padded = answers_of(session, {"scans": np.concatenate([scans, scans[:1] // 2])})
    for index in range(count):
        alone = answers_of(session, {"scans": scans[index : index + 1]})
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][index], values[0], rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(padded[name][index], values[0], rtol=1e-3, atol=1e-3)


@given(
    height=st.integers(1, 300), wider=st.floats(1, 4), seed=st.integers(0, 99), noise=st.booleans()
)
def test_the_resize_is_pillows(case, height, wider, seed, noise):
    classifier, _, session, _ = case
    width = max(height, round(height * wider))  # of taller scans Pillow may take rows first
    rng = np.random.default_rng(seed)
    scan = rng.integers(0, 256, (height, width), np.uint8)
    if not noise:
        scan = np.where(scan > 127, 255, 0).astype(np.uint8)
    found = session.run(["resized"], {"scans": scan[None]})[0][0]
    np.testing.assert_array_equal(found, resize_scan(scan, classifier.preprocess))


@given(width=st.integers(1, 200), taller=st.floats(1, 4), seed=st.integers(0, 99))
def test_a_tall_scan_differs_by_rounding_alone(case, width, taller, seed):
    classifier, _, session, _ = case
    height = round(width * taller)
    smooth = np.random.default_rng(seed).integers(60, 190, (height, width)).astype(np.uint8)
    found = session.run(["resized"], {"scans": smooth[None]})[0][0]
    levels = np.abs(found.astype(int) - resize_scan(smooth, classifier.preprocess))
    assert levels.max() <= 2


@given(seed=st.integers(0, 99), low=st.integers(0, 255), spread=st.integers(0, 255))
def test_outputs_are_in_their_ranges(case, seed, low, spread):
    high = min(255, low + spread)
    scans = np.random.default_rng(seed).integers(low, high + 1, (1, 70, 80)).astype(np.uint8)
    found = answers_of(case[2], {"scans": scans})
    assert all(np.isfinite(values).all() for values in found.values())
    assert found["heatmaps"].min() >= 0
    assert found["heatmaps"].max() <= 1 + 1e-6
    assert found["heatmap"].min() >= 0
    assert found["heatmap"].max() <= 1 + 1e-6
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, rtol=1e-5)
    assert (found["outlier_score"] >= 0).all()


def test_a_class_that_nothing_speaks_for_has_an_empty_map(case):
    classifier = case[0]
    head = classifier.variables.params["head"]
    silent = {
        **head,
        "classifier": {
            **head["classifier"],
            "kernel": jnp.zeros_like(head["classifier"]["kernel"]),
        },
    }
    variables = Variables({**classifier.variables.params, "head": silent}, {"backbone": {}})
    session = open_graph(make_graphs(replace(classifier, variables=variables)).mobile)
    found = answers_of(session, {"scan": np.full((1, 1, SIZE, SIZE), 90, np.float32)})
    assert not found["heatmaps"].any()
    assert not found["heatmap"].any()


def test_the_mobile_graph_is_made_for_phones(case):
    classifier, graphs, _, _ = case
    counts = Counter(node.op_type for node in graphs.mobile.graph.node)
    minimalistic = classifier.model.config.variant == "large_minimalistic"
    # 15 blocks of expand (but the first, or one that does not widen), depthwise, project; stem,
    # last; and two for each of the eight squeeze-excites.
    # Twenty of the hard swishes are in the network, the last is the head's.
    assert counts["Conv"] == (46 if minimalistic else 62 + 20)
    assert counts["Transpose"] == 2  # of the heatmap alone, which is drawn along one axis at a time
    assert not {"BatchNormalization", "HardSwish", "HardSigmoid", "Cast"} & set(counts)
    assert counts["Clip"] == (4 if minimalistic else 33)
    convolutions = [node for node in graphs.mobile.graph.node if node.op_type == "Conv"]
    assert all(len(node.input) == 3 for node in convolutions)  # with BatchNorm folded into a bias
    grouped = [
        attribute.i
        for node in convolutions
        for attribute in node.attribute
        if attribute.name == "group"
    ]
    assert sum(group > 1 for group in grouped) == (15 if minimalistic else 15 + 20)
    for value in [*graphs.mobile.graph.input, *graphs.mobile.graph.output]:
        assert all(axis.dim_value > 0 for axis in value.type.tensor_type.shape.dim)


def test_accelerators_take_the_mobile_graph_whole(case, tmp_path):
    onnx.save(case[1].mobile, tmp_path / "classifier_mobile.onnx")
    found = mobile_usability(tmp_path)
    assert found is not None
    assert set(found) == {"NNAPI", "CoreML NeuralNetwork", "CoreML MLProgram"}
    for parts in found.values():
        assert parts["partitions"] == 1
        assert parts["supported_nodes"] == parts["nodes"] == len(case[1].mobile.graph.node)


def test_both_graphs_say_their_opset_and_names(case):
    _, graphs, _, _ = case
    for model in (graphs.any_size, graphs.mobile):
        assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET}
        names = [value.name for value in model.graph.output]
        assert {"probabilities", "logits", "heatmap", "heatmaps", "outlier_score"} <= set(names)
    assert [
        axis.dim_param for axis in graphs.any_size.graph.input[0].type.tensor_type.shape.dim
    ] == [
        "batch",
        "height",
        "width",
    ]


def test_a_run_without_a_rule_has_no_outlier_score(case):
    classifier = case[0]
    session = open_graph(make_graphs(replace(classifier, rule=None)).mobile)
    assert "outlier_score" not in {output.name for output in session.get_outputs()}
    levels = np.full((1, 1, SIZE, SIZE), 90, np.float32)
    found = answers_of(session, {"scan": levels})
    wanted = np.exp(found["logits"][0] - found["logits"].max())
    np.testing.assert_allclose(found["probabilities"][0], wanted / wanted.sum(), rtol=1e-4)


@pytest.mark.parametrize("resize", ["letterbox", "crop", "retina"])
def test_every_resize_is_exported(scans, resize):
    classifier = random_classifier(*FORMS[0])
    other = replace(classifier, preprocess=replace(classifier.preprocess, resize=resize))
    session = open_graph(make_graphs(other).any_size)
    for scan in scans[:2]:
        found = answers_of(session, {"scans": scan[None]})
        explained = other.explain(scan)
        np.testing.assert_array_equal(found["resized"][0], resize_scan(scan, other.preprocess))
        np.testing.assert_allclose(found["logits"][0], explained.prediction.logits, atol=1e-3)
        cells = found["heatmaps"][0, KERMANY.classes.index(explained.target)]
        heatmap = replace(explained, cells=cells).heatmap
        np.testing.assert_allclose(found["heatmap"][0], heatmap, atol=1e-4)
