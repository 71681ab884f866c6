"""`export`: a run or a model file in, its bundle of ONNX files out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from oct_jax.commands.settings import ExportConfig
from oct_jax.export.bundle import export
from oct_jax.runs.source import ModelSource


def export_bundle(config: ExportConfig, source: ModelSource, console: Console) -> None:
    """Writes and verifies a model's bundle; errors as of `oct_jax.export.bundle.export`."""
    out = source.folder / "export" if config.out is None else Path(config.out)
    notify = partial(console.print, markup=False)
    if source.note:
        notify(source.note)
    export(
        source,
        out,
        data=config.data,
        calibration_scans=config.calibration_scans,
        viewer=config.viewer,
        notify=notify,
    )
    notify(f"{out}: whole; `python {out / 'verify.py'}` checks it anywhere")
