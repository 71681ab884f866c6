"""Settings of `export`."""

from __future__ import annotations

import chz

from oct_jax.commands.fields import at_least, model_field, not_empty, run_field


@chz.chz
class ExportConfig:
    """Write a model as a bundle of ONNX files, or check one: `export verify FOLDER`."""

    run: str | None = run_field()
    model: str | None = model_field()
    data: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="labelled scans that the model was not trained on, to calibrate and test int8; none:"
        " the run's own; of model= without data= there is no int8 file",
    )
    out: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="the bundle's folder; none: export/ in the run, or in a folder with the model's name",
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
    """Write one HTML file that answers scans in a browser, offline: `viewer model=starter`."""

    run: str | None = run_field()
    model: str | None = model_field()
    out: str = chz.field(default="viewer.html", validator=not_empty, doc="the page to write")
