"""Methods of the literature on single-source domain generalisation that change training scans.

They are compared in `elsewhere.py` and were not taken into the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from oct_jax.arrays import LabelBatch, ScanArray
from oct_jax.data.manifest import Record
from oct_jax.data.source import Source

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
class Variants:
    """Training scans `copies` times, each copy changed in its own way; the first is left alone.

    Scans of other splits stay as they are.

    Attributes:
      source: the scans.
      change: of a copy.
      copies: of every training scan.
      seed: of the changes.
    """

    source: Source
    change: Change
    copies: int
    seed: int

    @property
    def records(self) -> tuple[Record, ...]:
        """See `Source`."""
        return self.source.records * self.copies

    @property
    def labels(self) -> LabelBatch:
        """See `Source`."""
        return np.tile(self.source.labels, self.copies)

    def __len__(self) -> int:
        return len(self.source) * self.copies

    def read(self, index: int) -> ScanArray:
        """Scan `index`, changed unless it is of the first copy."""
        copy, position = divmod(index, len(self.source))
        scan = self.source.read(position)
        if copy == 0:
            return scan
        rng = np.random.default_rng([self.seed, index])
        return self.change(scan, self.source.read(int(rng.integers(len(self.source)))), rng)

    def select(self, split: str) -> Source:
        """See `Source`."""
        selected = self.source.select(split)
        if split != "train":
            return selected
        return Variants(selected, self.change, self.copies, self.seed)
