"""B-scans of a volume, a few at a time, so that memory does not grow with its length."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from oct_jax.arrays import ScanArray
from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import resize_scan
from oct_jax.data.readers import UnreadableScan, map_threads
from oct_jax.data.volumes import Volume
from oct_jax.explain.gradcam import Explain, Explained
from oct_jax.model.inference import first_rows, pad_batch

BATCH = 8
"""B-scans at a time, also where fewer are left: a page of an eye then compiles one program."""

Progress = Callable[[int, int], None]


def read_batches(
    volume: Volume,
    indices: Sequence[int],
    progress: Progress | None,
    unreadable: dict[int, str] | None = None,
) -> Iterator[tuple[list[int], list[ScanArray]]]:
    """Readable B-scans in batches; the others are noted, and none is left out unnoted."""

    def read(index: int) -> ScanArray | UnreadableScan:
        try:
            return volume.read(index)
        except UnreadableScan as error:
            return error

    for start in range(0, len(indices), BATCH):
        wanted = indices[start : start + BATCH]
        batch = list(zip(wanted, map_threads(read, wanted), strict=True))
        for index, scan in batch:
            if isinstance(scan, UnreadableScan):
                if unreadable is None:
                    raise scan
                unreadable[index] = f"B-scan {volume.numbers[index]}: {scan.reason}"
        good = [(index, scan) for index, scan in batch if not isinstance(scan, UnreadableScan)]
        if progress is not None:
            progress(start + len(wanted), len(indices))
        if good:
            yield [index for index, _ in good], [scan for _, scan in good]


def explain_batch(
    program: Explain,
    classifier: Classifier,
    volume: Volume,
    scans: Sequence[ScanArray],
    target: int,
) -> Explained:
    """Outputs and maps of up to `BATCH` B-scans.

    Args:
      program: of `make_explain`, for the classifier's model.
      classifier: whose variables and preprocessing are used.
      volume: gives the size of pixels.
      scans: uint8 grey, of any sizes.
      target: index of the class to explain.
    """
    prepare = functools.partial(
        resize_scan, preprocess=classifier.preprocess, spacing=volume.spacing
    )
    padded = pad_batch(np.stack(list(map_threads(prepare, scans))), BATCH)
    explained = program(classifier.variables, padded, np.full(len(padded), target, np.int32))
    return first_rows(explained, len(scans))
