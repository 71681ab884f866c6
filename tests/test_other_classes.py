"""The whole way with OCTDL's seven classes: folders of scans to a bundle, and what its pages say.

Under `task=octdl` all of it, under `task=folders` the part that referral could reach.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oct_jax import load
from oct_jax.commands import cli
from oct_jax.export import quantize, verify
from oct_jax.task import OCTDL

SMALL = ("image_size=64", "width=0.25", "variant=large_minimalistic", "weights=random")
SMALL = (*SMALL, "batch_size=8", "threads=1", "epochs=1")
REFERRALS = ("urgent referral", "routine referral", "observation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven class folders: twelve patients in each, a band of brightness of its own."""
    root = tmp_path_factory.mktemp("octdl") / "scans"
    rng = np.random.default_rng(0)
    for number, name in enumerate(OCTDL.classes):
        (root / name).mkdir(parents=True)
        for patient in range(12):
            scan = rng.integers(0, 60, (72, 96)).astype(np.uint8)
            scan[20 + 4 * number : 30 + 4 * number] += 120
            file = f"{name}-{100 * number + patient + 1}-1.png"
            Image.fromarray(scan).save(root / name / file)
    return root


@pytest.fixture(scope="module", params=["octdl", "folders"])
def trained(request, folder, tmp_path_factory):
    """A run of the task; of `folders` the frozen stage alone."""
    run = tmp_path_factory.mktemp(request.param) / "run"
    words = (f"data={folder}", f"run={run}", f"task={request.param}", *SMALL)
    cli.train(["stage=frozen", "views=1", *words])
    if request.param == "octdl":
        cli.train(["stage=finetune", f"run={run}", "epochs=1", "batch_size=8", "threads=1"])
    return request.param, run


def test_the_audit_knows_the_classes(folder, tmp_path, capsys):
    for task in ("octdl", "folders"):
        cli.data(["audit", str(folder), f"task={task}", f"out={tmp_path / task}"])
        page = (tmp_path / task / "audit.html").read_text()
        assert all(name in page for name in OCTDL.classes)


def test_evaluation_and_explanation_name_the_classes_and_refer_by_the_task(
    trained, folder, tmp_path, capsys
):
    name, run = trained
    cli.evaluate([f"run={run}", "resamples=10", f"out={tmp_path / 'evaluation'}"])
    page = (tmp_path / "evaluation" / "report.html").read_text()
    scan = next((folder / "RVO").iterdir())
    cli.explain([str(scan), f"run={run}", "target=RVO", f"out={tmp_path / 'pages'}"])
    answer = json.loads(next((tmp_path / "pages").rglob("*.json")).read_text())
    printed = capsys.readouterr().out
    assert all(f"{label} recall" in page or f"<td>{label}</td>" in page for label in OCTDL.classes)
    assert tuple(answer["probabilities"]) == OCTDL.classes
    decision = load(run).predict(scan).decision
    if name == "octdl":
        assert decision.referral in ("urgent", "routine", "observe", "defer")
        assert "no referral tiers" not in page + printed
    else:
        assert decision.referral is None
        assert "no referral tiers" in page
        assert "no referral tiers" in printed
        assert not any(words in page + printed for words in REFERRALS)


def test_the_bundle_prints_the_classes_and_verifies(trained, tmp_path, monkeypatch, capsys):
    name, run = trained
    monkeypatch.setattr(quantize, "RECIPES", quantize.RECIPES[:1])
    bundle = tmp_path / "bundle"
    cli.export([f"run={run}", f"out={bundle}", "calibration_scans=8"])
    assert verify.main([str(bundle)]) == 0
    capsys.readouterr()
    text = (bundle / "README.md").read_text()
    assert all(label in text for label in OCTDL.classes)
    program = text.split("```python\n", 1)[1].split("```", 1)[0]
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=bundle, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["label"] in OCTDL.classes
    assert len(answer["probabilities"]) == len(OCTDL.classes)
    if name == "folders":
        assert answer["referral"] is None
        assert "no referral tiers" in text
    else:
        assert answer["referral"] in ("urgent", "routine", "observe", "defer")
