"""`export`: a run in, its bundle of ONNX files out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from oct_jax.commands.settings import ExportConfig
from oct_jax.export.bundle import export
from oct_jax.runs.paths import find_run


def export_run(config: ExportConfig, console: Console) -> None:
    """Writes and verifies a run's bundle.

    Raises:
      UserError: no trained run, or see `oct_jax.export.bundle.export`.
    """
    run = find_run(config.run)
    out = run / "export" if config.out is None else Path(config.out)
    notify = partial(console.print, markup=False)
    export(
        run,
        out,
        calibration_scans=config.calibration_scans,
        viewer=config.viewer,
        notify=notify,
    )
    notify(f"{out}: whole; `python {out / 'verify.py'}` checks it anywhere")
