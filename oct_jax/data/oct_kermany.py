"""The data set of Kermany et al. as TFDS records: written and read without TensorFlow.

builder = OctKermany(data_dir="records", config="official_clean", file_format="array_record")
builder.download_and_prepare(download_config=download_config("~/Downloads/OCT2017"))
scans = builder.as_data_source("train")
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from oct_jax.data.archive import unpack
from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import Record, scan_bytes
from oct_jax.data.split import grouped_folds, keep_official, split_records
from oct_jax.paths import expand_home
from oct_jax.task import KERMANY
from oct_jax.types import SPLITS, UserError

FOLDS = 5
SEED = 0

_DESCRIPTION = """\
Optical coherence tomography B-scans of the retina, labelled CNV, DME, DRUSEN or NORMAL: of version
2 or 3 of the data set of Kermany et al., or of any folder in its layout. The files' own bytes are
kept. Patients are identified by the number in the file's name; most patients of the official test
split have scans in its training split too, which `official_clean` mends.
"""
_CITATION = """\
@article{kermany2018identifying,
  title = {Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep Learning},
  author = {Kermany, Daniel S. and Goldbaum, Michael and Cai, Wenjia and others},
  journal = {Cell},
  volume = {172},
  number = {5},
  pages = {1122--1131},
  year = {2018},
  doi = {10.1016/j.cell.2018.02.010}
}
"""
_CONFIGS = {
    "official": "train, val (where there is one) and test as published; patients overlap",
    "official_clean": "the official test split; patients of test removed from the others",
    "by_patient": "splits of our own over all scans, which part no patient",
} | {
    f"fold_{k}": f"fold {k} of {FOLDS}, grouped by patient: its scans are test"
    for k in range(FOLDS)
}


@dataclass
class OctKermanyConfig(tfds.core.BuilderConfig):
    """How the scans are split.

    Attributes:
      root: the folder of `records`; None to find the scans in the manual folder.
      records: scans with splits to use as they are, in place of a named way to split.
      classes: their labels, in order.
    """

    root: Path | None = None
    records: tuple[Record, ...] = field(default=(), repr=False)
    classes: tuple[str, ...] = KERMANY.classes


class OctKermany(tfds.core.GeneratorBasedBuilder):
    """Builder of `oct_kermany`; see the module."""

    name = "oct_kermany"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar = [
        OctKermanyConfig(name=name, description=text) for name, text in _CONFIGS.items()
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download OCT2017 (version 2 or 3) from https://data.mendeley.com/datasets/rscbjbr9sj and "
        "name the folder that holds the zip, or the one it unpacks to, as manual_dir."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 1), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=list(self.builder_config.classes)),
                "patient_id": tfds.features.Text(),
                "file_name": tfds.features.Text(),
                "sha256": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=features,
            supervised_keys=("image", "label"),
            homepage="https://data.mendeley.com/datasets/rscbjbr9sj",
            citation=_CITATION,
            license="CC BY 4.0",
            disable_shuffling=True,  # records keep the order of the manifest
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config = self.builder_config
        if config.root is not None:
            root, records = config.root, config.records
        else:
            root = self._scans_in(Path(dl_manager.manual_dir))
            records = split_as(config.name, root)
        splits = [split for split in SPLITS if any(r.split == split for r in records)]
        return {
            split: self._generate_examples(root, [r for r in records if r.split == split])
            for split in splits
        }

    def _generate_examples(self, root: Path, records: Sequence[Record]) -> Iterator:
        for number, record in enumerate(records):
            yield number, example(root, record)

    def _scans_in(self, manual: Path) -> Path:
        """The folder of scans: the manual folder itself, or its only zip unpacked."""
        zips = sorted(manual.glob("*.zip"))
        if len(zips) != 1:
            return manual
        # Kept for as long as the builder, removed with it.
        self._unpacked = tempfile.TemporaryDirectory(prefix="oct_kermany-")
        unpack(zips[0], Path(self._unpacked.name))
        return Path(self._unpacked.name)


def download_config(manual_dir: str | Path) -> tfds.download.DownloadConfig:
    """Where the builder finds what was downloaded by hand: a folder with one zip, or of scans."""
    return tfds.download.DownloadConfig(
        manual_dir=Path(expand_home(manual_dir)), try_download_gcs=False
    )


def split_as(config: str, root: Path) -> tuple[Record, ...]:
    """The scans of a folder, split in one of the named ways.

    Raises:
      UserError: see `list_scans`; or an official split is asked for and there is none.
    """
    listing = list_scans(root)
    if config.startswith("official") and not listing.official:
        raise UserError(f"{root} has no official split; use by_patient or fold_0")
    if config == "official":
        return listing.records
    if config == "official_clean":
        return keep_official(listing.records, seed=SEED)[0]
    if config == "by_patient":
        return split_records(listing.records, seed=SEED)
    return grouped_folds(listing.records, FOLDS, seed=SEED)[int(config.removeprefix("fold_"))]


def example(root: Path, record: Record) -> dict[str, object]:
    """One example, with the file's own bytes.

    Raises:
      UserError: the file is gone, or not what was listed.
    """
    try:
        data = scan_bytes(root, record.path)
    except OSError as error:
        raise UserError(f"cannot read {root / record.path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise UserError(f"{root / record.path} changed while it was prepared; prepare again")
    return {
        "image": io.BytesIO(data),
        "label": record.label,
        "patient_id": record.patient,
        "file_name": record.path,
        "sha256": record.sha256,
    }
