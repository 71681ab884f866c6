"""`demo`: trains, evaluates, explains and exports on phantoms, then says what was made."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from rich.console import Console

from oct_jax.commands import cli
from oct_jax.commands.explain import SUFFIX
from oct_jax.data.manifest import read_manifest
from oct_jax.data.phantom import phantom_scans
from oct_jax.files import read_json, write_atomic
from oct_jax.runs.ownership import claim_folder

# One run: 98.2% of 284 test phantoms right, 4.6 % deferred; 400 patients deferred 17 %.
# Phantoms need no augmentation but flips.
PATIENTS = 800
FROZEN = ("image_size=128", f"phantom_patients={PATIENTS}", "epochs=3", "views=1")
# An input of 128 pixels has 4x4 positions, often beside a small lesion. Peaks on the lesion among
# 16 test phantoms with drusen of one run: gradcam 0, gradcam-dense 5, with flip 9.
HEATMAPS = ("method=gradcam-dense", "flip=true")
FINETUNE = ("epochs=3", "batch_size=16", "augment.amount=0")


def demo(run: Path, console: Console) -> None:
    """Runs every step; those that are done already are not done again.

    Args:
      run: the run folder, which all files go to.
      console: is told what was made.
    """
    cli.train(["stage=frozen", f"run={run}", "weights=starter", *FROZEN])
    cli.train(["stage=finetune", f"run={run}", *FINETUNE])
    cli.evaluate([f"run={run}", "resamples=200"])
    phantoms = write_phantoms(run)
    cli.explain([str(phantoms), f"run={run}", *HEATMAPS])
    cli.export([f"run={run}"])
    for line in summary(run, phantoms):
        console.print(line, markup=False)


def write_phantoms(run: Path) -> Path:
    """Writes one test phantom of each class as PNG; returns their folder."""
    folder = run / "phantoms"
    claim_folder(folder)
    records = read_manifest(run / "manifest.csv")
    test = {record.path for record in records if record.split == "test"}
    scans = phantom_scans(patients=PATIENTS, seed=0)
    taken = [row for row, record in enumerate(scans.records) if record.path in test]
    for name in scans.task.classes:
        row = next(row for row in taken if scans.records[row].label == name)
        picture = io.BytesIO()
        Image.fromarray(scans.read(row)).save(picture, "PNG")
        write_atomic(folder / f"{name}.png", picture.getvalue())
    return folder


def summary(run: Path, phantoms: Path) -> list[str]:
    """Five lines: what was made, and what to open."""
    figures = read_json(run / "evaluation" / "report.json", dict)["figures"]
    right, deferred = figures["accuracy"]["value"], figures["deferred"]["value"]
    return [
        f"{run}: a model trained on phantoms from the starter; {right:.1%} of test phantoms right,"
        f" {deferred:.1%} deferred to a person",
        f"{run / 'evaluation' / 'report.html'}: every figure, with curves and the worst mistakes",
        f"{phantoms / f'contact-sheet{SUFFIX}.png'}: one phantom of each class, and where the"
        " model looked",
        f"{run / 'export'}: ONNX files that take raw scans, with programs that use them",
        "now a scan of yours: `just explain scan.png model=starter` (research use; not a medical"
        " device)",
    ]
