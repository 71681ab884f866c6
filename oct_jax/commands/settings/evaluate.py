"""Settings of `evaluate`, `evaluate recalibrate` and `evaluate adapt`."""

from __future__ import annotations

from typing import Literal

import chz

from oct_jax.commands.fields import MAX_SEED, between, inside, model_field, not_empty, run_field


@chz.chz
class EvaluateConfig:
    """Evaluate a model on scans that it was not trained on; volumes are evaluated by eye too."""

    run: str | None = run_field()
    model: str | None = model_field()
    data: str | None = chz.field(
        default=None, validator=not_empty, doc="another folder of scans; none: the run's own data"
    )
    manifest: str | None = chz.field(
        default=None, validator=not_empty, doc="a manifest.csv whose scans and splits to use"
    )
    split: Literal["test", "val", "calibration", "all"] | None = chz.field(
        default=None, doc="which scans; none: test of the run's own data, all of another folder"
    )
    labels: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="for folders of other labels, what classes they hold: AMD:CNV+DRUSEN,HEALTHY:NORMAL",
    )
    unseen: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="folders of diseases that the model does not know, each with the tier it should have:"
        " MH:urgent,ERM:routine; are they deferred?",
    )
    prevalence: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="how common classes are, for precision there: CNV:0.05,DME:0.05,DRUSEN:0.1;"
        " NORMAL is the rest",
    )
    by: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="a column of the manifest to give figures by, such as device or one of your own; none:"
        " device, laterality and every column of your own with 2 to 12 different values",
    )
    allow_overlap: bool = chz.field(
        default=False,
        doc="evaluate although the run was trained on some of the scans or patients; every figure"
        " is then marked contaminated",
    )
    on_bad_scan: Literal["refuse", "skip"] = chz.field(
        default="refuse", doc="what to do with unreadable or wrongly filed scans"
    )
    resamples: int = chz.field(
        default=1000,
        validator=between(10, 1_000_000),
        doc="draws of patients for the 95 % intervals",
    )
    seed: int = chz.field(default=0, validator=between(0, MAX_SEED), doc="seed of these draws")
    threads: int = chz.field(
        default=4, validator=between(1, 256), doc="threads that read and prepare scans"
    )
    out: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="folder for the report; none: evaluation/ in the run, with a folder for other data",
    )


@chz.chz
class RecalibrateConfig:
    """Fit a run's probabilities, prediction sets and thresholds to scans of your own."""

    data: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="a folder of labelled scans; none: the run's own calibration scans",
    )
    eyes: bool = chz.field(
        default=False,
        doc="fit the rule for eyes instead, to volumes in class folders; `explain` uses it",
    )
    run: str | None = run_field()
    model: str | None = model_field()
    out: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="of model=, the model file to write; none: NAME-recalibrated.safetensors",
    )
    coverage: float = chz.field(
        default=0.9,
        validator=inside(0, 1),
        doc="share of scans of every class whose prediction set is to hold the class",
    )
    sensitivity: float = chz.field(
        default=0.99, validator=inside(0, 1), doc="share of urgent scans to be found urgent"
    )
    outlier_rate: float = chz.field(
        default=0.01,
        validator=inside(0, 1),
        doc="share of scans like these that may be called outliers",
    )
    allow_overlap: bool = chz.field(
        default=False, doc="use scans or patients that the run was trained on all the same"
    )
    on_bad_scan: Literal["refuse", "skip"] = chz.field(
        default="refuse", doc="what to do with unreadable or wrongly filed scans"
    )
    threads: int = chz.field(
        default=4, validator=between(1, 256), doc="threads that read and prepare scans"
    )


@chz.chz
class AdaptConfig:
    """Adapt a model to a clinic by some tens of its scans without labels; writes a model file."""

    data: str = chz.field(
        validator=not_empty, doc="a folder of scans as they come, unsorted; at least 20"
    )
    run: str | None = run_field()
    model: str | None = model_field()
    out: str = chz.field(
        default="adapted.safetensors", validator=not_empty, doc="the model file to write"
    )


@chz.chz
class CompareConfig:
    """Compare two models on the same scans: `compare A B`.

    Each is a run folder, a model file, starter, or a CSV of somebody's predictions: the columns
    file, patient, label, and one for each class with its probability (docs/how-to/compare.md).
    """

    data: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="the folder of scans; none: the test scans of the first run, or the lines of two CSVs",
    )
    split: Literal["test", "val", "calibration", "all"] | None = chz.field(
        default=None, doc="which scans; none: test of a run's own data, all of another folder"
    )
    labels: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="for labels other than the classes, what they stand for: AMD:CNV+DRUSEN,HEALTHY:NORMAL",
    )
    task: str = chz.field(
        default="kermany",
        validator=not_empty,
        doc="of two CSV files: the task whose classes their columns are, or a .toml file of one",
    )
    overlap: Literal["refuse", "leave_out", "allow"] = chz.field(
        default="refuse",
        doc="scans, or other scans of patients, that a model was trained on: refuse to compare,"
        " leave these scans out, or compare and mark it",
    )
    prevalence: float | None = chz.field(
        default=None,
        validator=inside(0, 1),
        doc="share of urgent scans where the models are to be used, for net benefit; none: as here",
    )
    on_bad_scan: Literal["refuse", "skip"] = chz.field(
        default="refuse", doc="what to do with unreadable or wrongly filed scans"
    )
    resamples: int = chz.field(
        default=1000,
        validator=between(10, 1_000_000),
        doc="draws of patients for the 95 % intervals",
    )
    seed: int = chz.field(default=0, validator=between(0, MAX_SEED), doc="seed of these draws")
    threads: int = chz.field(
        default=4, validator=between(1, 256), doc="threads that read and prepare scans"
    )
    out: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="folder for page and figures; none: one in comparisons/ with the models' names",
    )
