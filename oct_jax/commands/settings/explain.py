"""Settings of `explain` and `explain report`."""

from __future__ import annotations

from typing import Literal

import chz

from oct_jax.commands.fields import MAX_SEED, at_least, between, model_field, not_empty, run_field


@chz.chz
class ExplainConfig:
    """Show where scans look like a class: `explain SCAN [VOLUME FOLDER GLOB ...] [key=value ...]`.

    A volume (a device's file or export folder, a TIFF of several pages, a folder of numbered
    pictures) gets one answer for its eye; several get a page by urgency.
    """

    run: str | None = run_field()
    model: str | None = model_field()
    target: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="the class to explain, one of the run's; none: each scan's or eye's own prediction",
    )
    out: str | None = chz.field(
        default=None, validator=not_empty, doc="folder for what is written; none: beside each scan"
    )
    method: Literal["gradcam", "gradcam-dense", "gradcam++", "hirescam", "eigencam"] = chz.field(
        default="gradcam", doc="the class activation map; the run's report tests gradcam"
    )
    flip: bool = chz.field(
        default=False, doc="average the map with that of the mirrored scan, mirrored back"
    )


@chz.chz
class ExplainReportConfig:
    """Test a model's heatmaps: deletion, insertion, ROAD, randomised weights, lesions, noise."""

    run: str | None = run_field()
    model: str | None = model_field()
    data: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="a folder of labelled scans that the model was not trained on; none: the run's own test"
        " scans, with its calibration scans where these are too few; must be given with model=",
    )
    method: Literal["gradcam", "gradcam-dense", "gradcam++", "hirescam", "eigencam"] = chz.field(
        default="gradcam", doc="the class activation map to test"
    )
    flip: bool = chz.field(
        default=False, doc="average the map with that of the mirrored scan, mirrored back"
    )
    scans: int = chz.field(
        default=60, validator=at_least(8), doc="scans to test on, spread evenly over the classes"
    )
    masks: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="a folder of outlined lesions to test on too: scans/, and a folder of masks a grader",
    )
    lesion: str = chz.field(default="DME", doc="the class that the outlined lesions belong to")
    steps: int = chz.field(
        default=8,
        validator=between(2, 1000),
        doc="shares of the scan removed, in the deletion curve",
    )
    seed: int = chz.field(
        default=0, validator=between(0, MAX_SEED), doc="seed of random maps, noise and resampling"
    )
