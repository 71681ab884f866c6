"""Methods of the literature on single-source domain generalisation that change training scans.

They are compared in `elsewhere.py` and were not taken into the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np

from oct_jax.arrays import ScanArray
from oct_jax.data.phantom import phantom_scans
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


def augmix(scan: ScanArray, other: ScanArray, rng: np.random.Generator) -> ScanArray:
    """Three chains of one to three simple operations, mixed (AugMix, Hendrycks et al. 2020).

    Without the consistency loss of the paper, which needs three forward passes a step.
    """
    shares = rng.dirichlet(np.ones(3))
    mixed = np.zeros(scan.shape)
    for share in shares:
        chained = scan
        for _ in range(rng.integers(1, 4)):
            chained = OPERATIONS[rng.integers(len(OPERATIONS))](chained, rng)
        mixed += share * chained
    kept = rng.beta(1, 1)
    return np.clip(kept * scan + (1 - kept) * mixed, 0, 255).astype(np.uint8)


def _moved(scan: ScanArray, matrix: list[list[float]]) -> ScanArray:
    height, width = scan.shape
    border = cv2.BORDER_REFLECT_101
    return cv2.warpAffine(scan, np.array(matrix), (width, height), borderMode=border)


def _rotate(scan: ScanArray, rng: np.random.Generator) -> ScanArray:
    height, width = scan.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-10, 10), 1)
    return _moved(scan, turn.tolist())


def _shear(scan: ScanArray, rng: np.random.Generator) -> ScanArray:
    return _moved(scan, [[1, rng.uniform(-0.1, 0.1), 0], [rng.uniform(-0.1, 0.1), 1, 0]])


def _translate(scan: ScanArray, rng: np.random.Generator) -> ScanArray:
    height, width = scan.shape
    move = rng.uniform(-0.1, 0.1, 2) * (width, height)
    return _moved(scan, [[1, 0, move[0]], [0, 1, move[1]]])


def _posterize(scan: ScanArray, rng: np.random.Generator) -> ScanArray:
    step = 2 ** int(rng.integers(3, 6))
    return scan // step * step


def _equalize(scan: ScanArray, rng: np.random.Generator) -> ScanArray:
    return cv2.equalizeHist(scan)


def _solarize(scan: ScanArray, rng: np.random.Generator) -> ScanArray:
    return np.where(scan < rng.integers(192, 256), scan, 255 - scan)


OPERATIONS = (_rotate, _shear, _translate, _posterize, _equalize, _solarize)


@dataclass(frozen=True)
class TwoReaders(Reader):
    """The scans of one value, then those of another.

    Attributes:
      first: rows 0 to len(first) - 1.
      second: the rows after them.
    """

    first: Scans
    second: Scans

    def read(self, row: int) -> ScanArray:
        """See `Reader`."""
        count = len(self.first)
        return self.first.read(row) if row < count else self.second.read(row - count)


def with_phantoms(scans: Scans, *, patients: int, seed: int) -> Scans:
    """The scans and synthetic ones, all of these for training."""
    phantoms = phantom_scans(patients=patients, seed=seed)
    added = tuple(replace(record, split="train") for record in phantoms.records)
    return Scans(scans.records + added, scans.task, TwoReaders(scans, phantoms))


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
