"""Settings of `export`."""

from __future__ import annotations

import chz

from oct_jax.commands.fields import at_least, not_empty


@chz.chz
class ExportConfig:
    """Write a run as a bundle of ONNX files, or check one: `export verify FOLDER`."""

    run: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="the run folder; none: the newest trained run under runs/",
    )
    out: str | None = chz.field(
        default=None, validator=not_empty, doc="the bundle's folder; none: export/ in the run"
    )
    calibration_scans: int = chz.field(
        default=200,
        validator=at_least(8),
        doc="scans at most to calibrate int8 with, and to choose among its recipes by",
    )
    viewer: bool = chz.field(
        default=True, doc="add viewer.html, the page that answers offline (needs npm once)"
    )


@chz.chz
class ViewerConfig:
    """Write one HTML file that answers scans in a browser, offline: `viewer run=... out=...`."""

    run: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="the run folder; none: the newest trained run under runs/",
    )
    model: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="instead of a run, a model file, or a name that `oct_jax.load` knows",
    )
    out: str = chz.field(default="viewer.html", validator=not_empty, doc="the page to write")
