"""Published data sets as they are released: files, labels, and patients where the release tells.

Each reader takes the folder that the release unpacks to, or the folder that holds it. Whoever does
not tell the patient has scans that each count as a patient of their own (`OWN_GROUP`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from oct_jax.data.releases.named_files import read_neh, read_octdl, read_octid, read_srinivasan
from oct_jax.data.releases.octmnist import read_octmnist
from oct_jax.data.scans import Scans

READERS: dict[str, Callable[[Path], Scans]] = {
    "octdl": read_octdl,
    "neh": read_neh,
    "srinivasan": read_srinivasan,
    "octid": read_octid,
    "octmnist": read_octmnist,
}
"""By the name of the data set."""

__all__ = [
    "READERS",
    "read_neh",
    "read_octdl",
    "read_octid",
    "read_octmnist",
    "read_srinivasan",
]
