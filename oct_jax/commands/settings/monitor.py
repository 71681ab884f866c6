"""Settings of `evaluate monitor` and `evaluate report`."""

from __future__ import annotations

import chz

from oct_jax.commands.fields import MAX_SEED, between, model_field, not_empty, run_field


@chz.chz
class MonitorConfig:
    """Compare scans without labels with the calibration scans: have the scans changed?

    Exit code 0: no alarm; 1: alarm; 2: a mistake in the settings or the files.
    """

    data: str = chz.field(validator=not_empty, doc="a folder of scans as they come, unsorted")
    run: str | None = run_field()
    model: str | None = model_field()
    manifest: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="a CSV with the columns path (in the folder), and patient and date (2026-11-24) where"
        " they are known; its scans alone are used; none: patients by file name, no dates",
    )
    out: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="folder for the report; none: monitoring/ in the run, or in a folder named after the"
        " model",
    )
    seed: int = chz.field(
        default=0, validator=between(0, MAX_SEED), doc="which scan of each patient is drawn"
    )


@chz.chz
class ReportConfig:
    """Fill CLAIM 2024 and TRIPOD+AI, a model card and a data card from a run's own files."""

    run: str | None = run_field()
    out: str | None = chz.field(
        default=None, validator=not_empty, doc="folder for the sheet; none: report/ in the run"
    )
