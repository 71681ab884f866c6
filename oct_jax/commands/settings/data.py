"""Settings of `audit` and `prepare`."""

from __future__ import annotations

from typing import Literal

import chz

from oct_jax.commands.fields import MAX_SEED, between, not_empty
from oct_jax.types import Resize, UserError


@chz.chz
class AuditConfig:
    """Look for leaks, duplicates, damaged files and shortcuts in a folder of scans."""

    root: str = chz.field(validator=not_empty, doc="the folder of scans; may be the first word")
    task: str = chz.field(
        default="kermany",
        validator=not_empty,
        doc="the classes: kermany, octdl, srinivasan, neh, octid, oct_c8, folders (the names of the"
        " class folders), or a TOML file of your own",
    )
    out: str = chz.field(
        default="audit", validator=not_empty, doc="folder for audit.json and audit.html"
    )
    write_manifest: str | None = chz.field(
        default=None,
        validator=not_empty,
        doc="write a manifest here whose splits share no patient and no picture",
    )
    seed: int = chz.field(default=0, validator=between(0, MAX_SEED), doc="seed of the clean splits")


@chz.chz
class PrepareConfig:
    """Build the records of a data set once, to be read fast ever after."""

    root: str = chz.field(
        validator=not_empty, doc="a folder of scans or a zip of one; may be the first word"
    )
    out: str = chz.field(validator=not_empty, doc="the folder to make; must not exist")
    task: str = chz.field(
        default="kermany",
        validator=not_empty,
        doc="the classes: kermany, octdl, srinivasan, neh, octid, oct_c8, folders (the names of the"
        " class folders), or a TOML file of your own",
    )
    manifest: str | None = chz.field(
        default=None, validator=not_empty, doc="a manifest.csv whose scans and splits to use"
    )
    on_bad_scan: Literal["refuse", "skip"] = chz.field(
        default="refuse", doc="what to do with unreadable or wrongly filed scans"
    )
    seed: int = chz.field(
        default=0,
        validator=between(0, MAX_SEED),
        doc="seed of the splits, where the folder has none",
    )
    cache: bool = chz.field(
        default=False, doc="make a training cache of resized scans instead of records"
    )
    size: int = chz.field(
        default=224, validator=between(32, 2048), doc="side of the cached scans, pixels"
    )
    resize: Resize = chz.field(default="retina", doc="how the cached scans are made square")

    @chz.validate
    def _only_a_cache_has_a_size(self) -> None:
        if self.cache:
            return
        for name, default in (("size", 224), ("resize", "retina")):
            value = getattr(self, name)
            if value != default:
                raise UserError(
                    f"{name}={value}: records hold scans as they are; add cache=true, or leave"
                    f" {name} out"
                )
