"""Methods of the literature on single-source domain generalisation that change training scans.

They are compared in `elsewhere.py` and were not taken into the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from oct_jax.arrays import ScanArray
from oct_jax.data.scans import Reader, Scans

Change: TypeAlias = Callable[[ScanArray, ScanArray, np.random.Generator], ScanArray]
"""From a scan, another training scan and a generator to the changed scan, all uint8 grey."""


def random_convolution(scan: ScanArray, other: ScanArray, rng: np.random.Generator) -> ScanArray:
    """The scan mixed with itself under a random 3x3 filter (RandConv, Xu et al. 2021).

    The filtered scan keeps the mean and deviation of the scan; the share of either is uniform.
    """
    filtered = cv2.filter2D(scan.astype(np.float32), -1, rng.standard_normal((3, 3)) / 3)
    filtered = (filtered - filtered.mean()) / (filtered.std() + 1e-5) * scan.std() + scan.mean()
    share = rng.random()
    return np.clip(share * scan + (1 - share) * filtered, 0, 255).astype(np.uint8)


def amplitude_mix(scan: ScanArray, other: ScanArray, rng: np.random.Generator) -> ScanArray:
    """The scan's phases with amplitudes mixed with those of another scan (Xu et al. 2021, FACT)."""
    height, width = scan.shape
    resized = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
    spectrum, style = np.fft.rfft2(scan), np.fft.rfft2(resized)
    amplitude = np.abs(spectrum)
    share = rng.random()
    mixed = (1 - share) * amplitude + share * np.abs(style)
    changed = np.fft.irfft2(spectrum * mixed / (amplitude + 1e-6), s=scan.shape)
    return np.clip(changed, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class VariantReader(Reader):
    """Scans, some of them changed.

    Attributes:
      scans: that are changed.
      places: of every row, the scan and the number of its copy; copy 0 is left alone.
      others: scans that a change may mix in.
      change: of a copy.
      seed: of the changes.
    """

    scans: Scans
    places: tuple[tuple[int, int], ...]
    others: tuple[int, ...]
    change: Change
    seed: int

    def read(self, row: int) -> ScanArray:
        """See `Reader`."""
        index, copy = self.places[row]
        scan = self.scans.read(index)
        if copy == 0:
            return scan
        rng = np.random.default_rng([self.seed, row])
        return self.change(scan, self.scans.read(int(rng.choice(self.others))), rng)


def with_variants(scans: Scans, change: Change, *, copies: int, seed: int) -> Scans:
    """Training scans `copies` times, each copy but the first changed; other splits as they are."""
    train = tuple(i for i, record in enumerate(scans.records) if record.split == "train")
    places = [(index, 0) for index in range(len(scans))]
    places += [(index, copy) for copy in range(1, copies) for index in train]
    records = tuple(scans.records[index] for index, _ in places)
    return Scans(records, scans.task, VariantReader(scans, tuple(places), train, change, seed))
