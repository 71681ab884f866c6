"""The demo: every step, on as few phantoms as there can be, and what it says in the end."""

import sys

from PIL import Image

from oct_jax.commands import cli, demo
from oct_jax.commands import entry as command
from oct_jax.data.manifest import read_manifest, write_manifest
from oct_jax.data.phantom import phantom_scans
from oct_jax.files import write_json
from oct_jax.task import KERMANY


def test_it_runs_every_step_and_ends_with_five_lines(tmp_path, monkeypatch, capsys):
    steps = []
    for name in ("train", "explain", "export"):
        monkeypatch.setattr(cli, name, lambda words, name=name: steps.append((name, *words)))
    monkeypatch.setattr(demo, "PATIENTS", 24)
    run = tmp_path / "demo"
    monkeypatch.setattr(cli, "evaluate", lambda words: write_report(run))
    monkeypatch.setattr(sys, "argv", ["demo", f"run={run}"])
    train = cli.train

    def begin(words):
        train(words)
        run.mkdir(exist_ok=True)
        write_manifest(phantom_scans(patients=24, seed=0).records, run / "manifest.csv")

    monkeypatch.setattr(cli, "train", begin)
    assert command.run(cli.demo) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "97.5% of test phantoms right, 4.0% deferred" in lines[0]
    assert [step[0] for step in steps] == ["train", "train", "explain", "export"]
    assert "weights=starter" in steps[0]
    assert sorted(path.stem for path in (run / "phantoms").glob("*.png")) == sorted(KERMANY.classes)
    records = {r.label for r in read_manifest(run / "manifest.csv") if r.split == "test"}
    assert records == set(KERMANY.classes)
    with Image.open(run / "phantoms" / "CNV.png") as picture:
        assert picture.mode == "L"


def write_report(run):
    figures = {"accuracy": {"value": 0.975}, "deferred": {"value": 0.04}}
    (run / "evaluation").mkdir()
    write_json(run / "evaluation" / "report.json", {"figures": figures})
