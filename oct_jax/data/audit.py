"""What is wrong with a folder of scans, found before a model finds it.

Every file is read, hashed, decoded and measured. Then three questions are asked: do the splits
share patients or pictures (a leak), is anything unreadable or oddly stored, and does anything but
the retina tell the class (a shortcut)?
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import cv2
import imagehash
import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt64
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from oct_jax.arrays import ScanArray
from oct_jax.data.kermany import BadScan, Listing, folder_task, list_scans
from oct_jax.data.manifest import Record
from oct_jax.data.readers import decode_scan, map_threads
from oct_jax.data.split import keep_official, leaking_patients, split_records
from oct_jax.paths import expand_home
from oct_jax.task import KERMANY, Task
from oct_jax.types import UserError

# Measured on 747 real scans of 486 patients: copies that were compressed anew (quality 40), halved
# or squashed differ in at most 4 of the 64 bits and correlate above 0.999; a change of gamma to
# 0.8 costs up to 6 bits and leaves 0.993. Of the pairs of different patients 56 lie within 8 bits,
# and none of all correlates above 0.971. Copies that were cropped or mirrored are not found.
NEAR_BITS = 8
NEAR_CORRELATION = 0.98
WHITE = 250
_FRAME = 4  # pixels along each edge in which white borders are looked for
_THUMBNAIL = 32
_BLOCK = 512
_FOLDS = 5
SHORTCUT_MARGIN = 0.15
"""Balanced accuracy above chance from which the trivial classifier's score is a warning."""

SHORTCUT_FEATURES = ("width", "height", "aspect", "border", "mean", "contrast")
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
}
# Published counts: (train, test) scans.
_RELEASES = {
    "Kaggle v2": (("train", "val", "test"), 83_484, 968),
    "Mendeley v2": (("train", "test"), 83_484, 1_000),
    "Mendeley v3": (("train", "test"), 108_309, 1_000),
}


@dataclass(frozen=True)
class Measured:
    """One readable scan and what was measured of it.

    Attributes:
      record: path, label, patient, official split, size and hash.
      storage: format, colour mode and bits a channel, as "JPEG L 8 bit".
      odd: what is odd about the file, or "".
      border: share of the outermost pixels that are white, 0 to 1.
      mean: grey level, 0 to 255.
      contrast: standard deviation of grey levels.
      phash: perceptual hash.
      thumbnail: the scan squashed to 32x32.
    """

    record: Record
    storage: str
    odd: str
    border: float
    mean: float
    contrast: float
    phash: int
    thumbnail: UInt8[np.ndarray, "32 32"]

    @property
    def features(self) -> tuple[float, ...]:
        """What the trivial classifier sees: `SHORTCUT_FEATURES`."""
        width, height = self.record.width, self.record.height
        return width, height, width / height, self.border, self.mean, self.contrast


@dataclass(frozen=True)
class Pair:
    """Two files that show the same picture.

    Attributes:
      first: the one whose path comes first.
      second: the other.
      correlation: of their thumbnails; 1 for byte-identical files.
    """

    first: Record
    second: Record
    correlation: float

    @property
    def identical(self) -> bool:
        """Whether the files are the same byte for byte."""
        return self.first.sha256 == self.second.sha256

    @property
    def across(self) -> tuple[str, ...]:
        """In which of split, patient and label the two differ."""
        names = ("split", "patient", "label")
        return tuple(n for n in names if getattr(self.first, n) != getattr(self.second, n))


@dataclass(frozen=True)
class Shortcut:
    """How well size, border and brightness alone tell the class; patients never straddle folds.

    Attributes:
      accuracy: cross-validated, of a small decision tree on all of `SHORTCUT_FEATURES`.
      balanced_accuracy: the mean over classes.
      by_feature: balanced accuracy of a tree on one feature alone.
      chance: balanced accuracy of guessing.
      majority: accuracy of always naming the largest class.
    """

    accuracy: float
    balanced_accuracy: float
    by_feature: dict[str, float]
    chance: float
    majority: float

    @property
    def warns(self) -> bool:
        """Whether the score is too far above chance to be ignored."""
        return self.balanced_accuracy > self.chance + SHORTCUT_MARGIN


@dataclass(frozen=True)
class Audit:
    """All that was found.

    Attributes:
      root: the folder.
      listing: its scans, and the files that cannot be used.
      measured: of every scan in `listing.records`, in the same order.
      pairs: byte-identical files (each with the first of its kind) and near duplicates.
      shortcut: None where there are too few patients or classes to cross-validate.
      task: the classes.
    """

    root: Path
    listing: Listing
    measured: tuple[Measured, ...]
    pairs: tuple[Pair, ...]
    shortcut: Shortcut | None
    task: Task = KERMANY

    @property
    def records(self) -> tuple[Record, ...]:
        """The readable scans."""
        return self.listing.records

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Readable scans by split (all for a folder without), then by class."""
        found = Counter((record.split or "all", record.label) for record in self.records)
        splits = dict.fromkeys(record.split or "all" for record in self.records)
        return {
            split: {label: found[split, label] for label in self.task.classes} for split in splits
        }

    @cached_property
    def scans_per_patient(self) -> dict[str, int]:
        """Scans of each patient."""
        return dict(Counter(record.patient for record in self.records))

    @cached_property
    def patients_in_classes(self) -> dict[str, tuple[str, ...]]:
        """Patients with scans of several classes, and which."""
        labels: dict[str, set[str]] = defaultdict(set)
        for record in self.records:
            labels[record.patient].add(record.label)
        return {p: tuple(sorted(found)) for p, found in sorted(labels.items()) if len(found) > 1}

    @cached_property
    def patients_in_splits(self) -> tuple[str, ...]:
        """Patients with scans in several splits."""
        return leaking_patients(self.records)

    @cached_property
    def leaking_pairs(self) -> tuple[Pair, ...]:
        """Pictures that are in several splits."""
        return tuple(pair for pair in self.pairs if "split" in pair.across)

    @cached_property
    def contradictions(self) -> tuple[Pair, ...]:
        """Byte-identical files that are filed under two classes: one of the labels is wrong."""
        return tuple(pair for pair in self.pairs if pair.identical and "label" in pair.across)

    @property
    def leaks(self) -> bool:
        """Whether splits share patients or pictures, so that scores would be too good."""
        return bool(self.patients_in_splits or self.leaking_pairs)

    @cached_property
    def odd(self) -> tuple[BadScan, ...]:
        """Readable files that are stored oddly."""
        return tuple(BadScan(m.record.path, m.odd) for m in self.measured if m.odd)

    @cached_property
    def release(self) -> str:
        """Which published release this is, by layout and counts."""
        return recognise(Counter(record.split for record in self.records), len(self.listing.bad))


def audit(
    root: str | os.PathLike[str],
    progress: Callable[[str, int, int], None] | None = None,
    *,
    task: Task | None = KERMANY,
) -> Audit:
    """Reads and measures every scan below `root`.

    Args:
      root: a folder in one of the layouts of `oct_jax.data.kermany`; classes may be missing.
      progress: called with (what is done, done, total).
      task: the classes; None makes one of the names of the class folders.

    Raises:
      UserError: no such folder, no known layout, or a file that vanished.
    """

    def told(step: str) -> Callable[[int, int], None] | None:
        return partial(progress, step) if progress else None

    root = Path(expand_home(root))
    task = task or folder_task(root)
    listing = list_scans(
        root,
        task=task,
        on_bad_scan="skip",
        require_all_classes=False,
        allow_empty=True,
        progress=told("checking files"),
    )
    measure_one = partial(_measure_file, root=root)
    measured = tuple(map_threads(measure_one, listing.records, told("measuring scans")))
    pairs = (*identical_pairs(listing.records), *near_pairs(measured, told("finding duplicates")))
    return Audit(root, listing, measured, pairs, shortcut_test(measured), task)


def recognise(scans: Counter[str], bad: int = 0) -> str:
    """Names the release that has so many scans in its splits, `bad` files left out.

    >>> recognise(Counter(train=83_484, val=32, test=968))
    'Kaggle v2'
    """
    for name, (splits, train, test) in _RELEASES.items():
        missing = train + test - scans["train"] - scans["test"]
        if set(scans) == set(splits) and scans["test"] <= test and 0 <= missing <= bad:
            return name
    if set(scans) == {""}:
        return "own (class folders, no split)"
    return f"own (folders {', '.join(sorted(scans))}; counts of no published release)"


def measure(data: bytes, record: Record) -> Measured:
    """Measures one file.

    Args:
      data: its content.
      record: what the listing knows of it.

    Raises:
      UnreadableScan: not one readable scan.
    """
    scan = decode_scan(data, record.path)
    # The hash's own first step; the same small picture serves to check what the hash proposes.
    small = Image.fromarray(scan).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    (mean,), (contrast,) = cv2.meanStdDev(scan)
    with Image.open(io.BytesIO(data)) as image:
        kind, mode = str(image.format), image.mode
        bits = _bits_per_channel(image)
    return Measured(
        record=record,
        storage=f"{kind} {mode} {bits} bit",
        odd=_oddity(record.path, kind, mode),
        border=white_border(scan),
        mean=float(mean[0]),
        contrast=float(contrast[0]),
        phash=int(str(imagehash.phash(small)), 16),
        thumbnail=np.asarray(small, np.uint8),
    )


def white_border(scan: ScanArray) -> float:
    """Share of the outermost pixels that are white: scanners fill what they moved with white."""
    inner = scan[_FRAME:-_FRAME, _FRAME:-_FRAME]
    white = np.count_nonzero(scan >= WHITE) - np.count_nonzero(inner >= WHITE)
    return white / (scan.size - inner.size)


def identical_pairs(records: Iterable[Record]) -> list[Pair]:
    """Byte-identical files, each with the first of its kind."""
    first: dict[str, Record] = {}
    pairs = []
    for record in records:
        known = first.setdefault(record.sha256, record)
        if known is not record:
            pairs.append(Pair(known, record, 1.0))
    return pairs


def near_pairs(
    measured: Sequence[Measured], progress: Callable[[int, int], None] | None = None
) -> list[Pair]:
    """Pairs of files that differ, of which one is very likely a copy of the other.

    Candidates agree in all but `NEAR_BITS` of their perceptual hash; a pair is one whose
    thumbnails also correlate by `NEAR_CORRELATION`. Every pair is compared, by blocks of words:
    100,000 scans are 5e9 comparisons of 64 bits.
    """
    if not measured:
        return []
    hashes = np.array([m.phash for m in measured], np.uint64)
    thumbnails = np.array([m.thumbnail for m in measured]).reshape(len(measured), -1)
    search = partial(_near_in_block, hashes, thumbnails)
    blocks = map_threads(search, range(0, len(measured), _BLOCK), progress)
    records = [m.record for m in measured]
    return [
        Pair(records[i], records[j], correlation)
        for found in blocks
        for i, j, correlation in found
        if records[i].sha256 != records[j].sha256
    ]


def shortcut_test(measured: Sequence[Measured]) -> Shortcut | None:
    """Cross-validates a small tree on what should not tell the class, grouped by patient."""
    patients = [m.record.patient for m in measured]
    labels = np.array([m.record.label for m in measured])
    classes = Counter(labels.tolist())
    if len(set(patients)) < _FOLDS or len(classes) < 2:
        return None
    features = np.array([m.features for m in measured])
    every = _cross_validated(features, labels, patients)
    alone = {
        name: _cross_validated(features[:, [column]], labels, patients)
        for column, name in enumerate(SHORTCUT_FEATURES)
    }
    return Shortcut(
        accuracy=float(np.mean(every == labels)),
        balanced_accuracy=_balanced(labels, every),
        by_feature={name: _balanced(labels, found) for name, found in alone.items()},
        chance=1 / len(classes),
        majority=max(classes.values()) / len(labels),
    )


def clean_records(found: Audit, *, seed: int) -> tuple[Record, ...]:
    """Splits that share neither patients nor pictures.

    An official test split is kept and training scans of its patients are removed; other folders
    are split by patient. Patients that share a picture, or a near duplicate, stay together.

    Raises:
      UserError: a class has too few patients, or none.
    """
    absent = [
        label for label in found.task.classes if not any(r.label == label for r in found.records)
    ]
    if absent:
        raise UserError(f"{found.root} has no scans of {', '.join(absent)}: no split can be made")
    known_as = {record.path: record.patient for record in found.records}
    joined = _joined(found.pairs)
    grouped = [replace(r, patient=joined.get(r.patient, r.patient)) for r in found.records]
    if found.listing.official:
        split, _ = keep_official(grouped, seed=seed)
    else:
        split = split_records(grouped, seed=seed)
    return tuple(replace(record, patient=known_as[record.path]) for record in split)


def _measure_file(record: Record, *, root: Path) -> Measured:
    try:
        data = (root / record.path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {root / record.path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise UserError(f"{root / record.path} changed while it was audited; audit again")
    return measure(data, record)


def _bits_per_channel(image: Image.Image) -> int:
    if image.mode.startswith("I") or ";16" in str(getattr(image, "tile", "")):
        return 16
    return {"1": 1, "F": 32}.get(image.mode, 8)


def _oddity(path: str, kind: str, mode: str) -> str:
    suffix = Path(path).suffix.lower()
    odd = []
    if suffix not in _SUFFIXES[kind]:
        odd.append(f"{kind} called {suffix or 'nothing'}")
    if mode not in ("L", "I;16"):
        odd.append(f"colour mode {mode}")
    return "; ".join(odd)


def _near_in_block(
    hashes: UInt64[np.ndarray, "scans"], thumbnails: UInt8[np.ndarray, "scans pixels"], start: int
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, correlation) with i in the block and j after i."""
    stop = min(start + _BLOCK, len(hashes))
    distances = np.bitwise_count(hashes[start:stop, None] ^ hashes[None, start:])
    first, second = np.nonzero(np.triu(distances <= NEAR_BITS, 1))
    found = []
    for begin in range(0, len(first), _BLOCK):
        i, j = first[begin : begin + _BLOCK] + start, second[begin : begin + _BLOCK] + start
        correlations = _correlations(thumbnails[i], thumbnails[j])
        found += [
            (int(a), int(b), float(c))
            for a, b, c in zip(i, j, correlations, strict=True)
            if c >= NEAR_CORRELATION
        ]
    return found


def _correlations(
    one: UInt8[np.ndarray, "pairs pixels"], other: UInt8[np.ndarray, "pairs pixels"]
) -> Float32[np.ndarray, "pairs"]:
    return np.einsum("ij,ij->i", _standardised(one), _standardised(other))


def _standardised(rows: UInt8[np.ndarray, "pairs pixels"]) -> Float32[np.ndarray, "pairs pixels"]:
    centred = rows - rows.mean(1, keepdims=True, dtype=np.float32)
    # A blank scan has no direction: it correlates with nothing.
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)


def _cross_validated(
    features: Float[np.ndarray, "scans features"], labels: np.ndarray, patients: Sequence[str]
) -> np.ndarray:
    tree = DecisionTreeClassifier(
        max_depth=5, min_samples_leaf=5, class_weight="balanced", random_state=0
    )
    folds = GroupKFold(_FOLDS, shuffle=True, random_state=0)
    return cross_val_predict(tree, features, labels, groups=patients, cv=folds)


def _balanced(labels: np.ndarray, predicted: np.ndarray) -> float:
    return float(balanced_accuracy_score(labels, predicted))


def _joined(pairs: Iterable[Pair]) -> dict[str, str]:
    """Each patient that shares a picture, to the first of those that it is linked to."""
    parent: dict[str, str] = {}

    def root(patient: str) -> str:
        while parent.setdefault(patient, patient) != patient:
            patient = parent[patient] = parent[parent[patient]]
        return patient

    for pair in pairs:
        one, other = root(pair.first.patient), root(pair.second.patient)
        parent[max(one, other)] = min(one, other)
    return {patient: root(patient) for patient in parent}
