"""Deterministic splits that never part a patient, stratified by class."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property

from oct_jax.data.manifest import Record, summarize
from oct_jax.types import SPLITS, UserError


@dataclass(frozen=True)
class Fractions:
    """Share of the scans in each split; they sum to 1.

    Raises:
      UserError: a share outside (0, 1), or another sum.
    """

    train: float = 0.65
    val: float = 0.1
    calibration: float = 0.1
    test: float = 0.15

    def __post_init__(self):
        shares = astuple(self)
        if not all(0 < share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            given = ", ".join(f"{name} {getattr(self, name):g}" for name in SPLITS)
            raise UserError(f"fractions {given}: each must lie between 0 and 1, and the sum be 1")

    def of(self, *splits: str) -> dict[str, float]:
        """Shares of some splits, scaled to sum to 1."""
        shares = {split: getattr(self, split) for split in splits}
        return {split: share / sum(shares.values()) for split, share in shares.items()}


DEFAULT_FRACTIONS = Fractions()


@dataclass(frozen=True)
class _Group:
    """Scans that must stay together."""

    records: tuple[Record, ...]
    order: str  # pseudo-random, fixed by the seed and the patient

    @cached_property
    def counts(self) -> Mapping[str, int]:
        return Counter(record.label for record in self.records)

    @cached_property
    def splits(self) -> frozenset[str]:
        return frozenset(record.split for record in self.records)


def split_records(
    records: Sequence[Record], *, fractions: Fractions = DEFAULT_FRACTIONS, seed: int
) -> tuple[Record, ...]:
    """Assigns every scan to one of `SPLITS`, all scans of a patient to the same.

    Scans of byte-identical files stay together too, whatever patient they are filed under. A
    patient may have scans of several classes. The result depends on the records and the seed
    alone, neither on their order nor on the platform or a library's version: that is why this is
    not scikit-learn's StratifiedGroupKFold, which also knows equal folds only.

    The assignment is greedy. First every split gets one small group of every class; then groups,
    largest first, go where they mend most of the squared relative deficit of each class.

    Args:
      records: their own `split` is ignored.
      fractions: shares of the scans.
      seed: another seed, another split.

    Returns:
      The records with `split` set, in order of path.

    Raises:
      UserError: a class has too few patients for every split to have one.
    """
    return _assigned(_groups(records, seed), fractions.of(*SPLITS))


def grouped_folds(
    records: Sequence[Record], k: int, *, fractions: Fractions = DEFAULT_FRACTIONS, seed: int
) -> list[tuple[Record, ...]]:
    """Makes k splits for cross-validation: each scan is in the test split of exactly one.

    Within each, train, val and calibration share the other folds in proportion to `fractions`.

    Raises:
      UserError: k below 2, or a class has too few patients.
    """
    if k < 2:
        raise UserError(f"{k} folds: cross-validation needs at least 2")
    groups = _groups(records, seed)
    names = [f"fold {number}" for number in range(1, k + 1)]
    fold_of = _assign(groups, dict.fromkeys(names, 1 / k))
    folds = []
    for name in names:
        test = [group for group, fold in zip(groups, fold_of, strict=True) if fold == name]
        rest = [group for group, fold in zip(groups, fold_of, strict=True) if fold != name]
        tested = [replace(record, split="test") for group in test for record in group.records]
        carved = _assigned(rest, fractions.of("train", "val", "calibration"))
        folds.append(_by_path([*tested, *carved]))
    return folds


def keep_official(
    records: Sequence[Record], *, fractions: Fractions = DEFAULT_FRACTIONS, seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Keeps an official test split and cleans the rest of it.

    Scans of train and val that share a patient or a byte-identical file with test are removed. An
    official val that shares no patient with train either is kept, and calibration is carved from
    train by patient. Any other val (Kaggle's 32 scans overlap with train and test) is returned to
    train, and both are carved from that.

    Args:
      records: with `split` one of train, val, test.
      fractions: train, val and calibration share what is not test in this proportion.
      seed: of the carving.

    Returns:
      The records kept, in order of path, and the records removed.

    Raises:
      UserError: a class has too few patients left.
    """
    groups = _groups(records, seed)
    tested = [group for group in groups if "test" in group.splits]
    test = [r for group in tested for r in group.records if r.split == "test"]
    removed = [r for group in tested for r in group.records if r.split != "test"]
    rest = [group for group in groups if "test" not in group.splits]
    _check_every_class_is_left(records, rest)
    if _is_own(groups, "val"):
        val = [r for group in rest if "val" in group.splits for r in group.records]
        pool = [group for group in rest if "val" not in group.splits]
        carved = [*val, *_assigned(pool, fractions.of("train", "calibration"))]
    else:
        carved = _assigned(rest, fractions.of("train", "val", "calibration"))
    return _by_path([*test, *carved]), _by_path(removed)


def leaking_patients(records: Iterable[Record]) -> tuple[str, ...]:
    """Patients with scans in more than one split, sorted."""
    splits: dict[str, set[str]] = defaultdict(set)
    for record in records:
        splits[record.patient].add(record.split)
    return tuple(sorted(patient for patient, several in splits.items() if len(several) > 1))


def leaking_copies(records: Iterable[Record]) -> tuple[tuple[str, str], ...]:
    """Pairs of paths of byte-identical files that are in different splits, sorted."""
    first: dict[str, Record] = {}
    pairs = []
    for record in records:
        known = first.setdefault(record.sha256, record)
        if known.split != record.split:
            pairs.append((known.path, record.path))
    return tuple(sorted(pairs))


def refuse_leaks(records: Sequence[Record], where: object) -> None:
    """Every way to splits that are not made here passes this guard.

    Args:
      records: with their splits.
      where: the manifest or folder, for the message.

    Raises:
      UserError: a patient, or the same file under two names, is in more than one split.
    """
    patients, copies = leaking_patients(records), leaking_copies(records)
    if patients:
        raise UserError(
            f"{where}: {len(patients)} patients are in more than one split: {summarize(patients)};"
            " every score would leak: keep each patient in one split"
        )
    if copies:
        named = summarize([f"{first} = {second}" for first, second in copies])
        raise UserError(
            f"{where}: {len(copies)} files have a byte-identical copy in another split: {named};"
            " every score would leak: keep copies in one split"
        )


def _is_own(groups: Sequence[_Group], split: str) -> bool:
    """Whether a split exists and shares no group with another."""
    holding = [group for group in groups if split in group.splits]
    return bool(holding) and all(group.splits == {split} for group in holding)


def _check_every_class_is_left(records: Sequence[Record], groups: Sequence[_Group]) -> None:
    left = {label for group in groups for label in group.counts}
    emptied = sorted({record.label for record in records if record.split != "test"} - left)
    if emptied:
        raise UserError(
            f"no training scans of {', '.join(emptied)} are left: all of them are of patients, or"
            " copies of files, that are in test; split the scans by patient instead"
        )


def _by_path(records: Iterable[Record]) -> tuple[Record, ...]:
    return tuple(sorted(records, key=lambda record: record.path))


def _groups(records: Sequence[Record], seed: int) -> list[_Group]:
    """Groups by patient and by content, largest group first."""
    patients = _joined_patients(records)
    members: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        members[patients[record.patient]].append(record)
    groups = [_Group(tuple(scans), _order(patient, seed)) for patient, scans in members.items()]
    return sorted(groups, key=lambda group: (-len(group.records), group.order))


def _joined_patients(records: Sequence[Record]) -> dict[str, str]:
    """Maps each patient to the first of those that are linked to it by byte-identical files."""
    parent = {record.patient: record.patient for record in records}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            patient = parent[patient] = parent[parent[patient]]
        return patient

    first_with: dict[str, str] = {}
    for record in records:
        one, other = (
            root(record.patient),
            root(first_with.setdefault(record.sha256, record.patient)),
        )
        parent[max(one, other)] = min(one, other)
    return {patient: root(patient) for patient in parent}


def _order(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{patient}".encode("utf-8", "surrogatepass")).hexdigest()


def _assigned(groups: Sequence[_Group], shares: Mapping[str, float]) -> tuple[Record, ...]:
    splits = _assign(groups, shares)
    return _by_path(
        replace(record, split=split)
        for group, split in zip(groups, splits, strict=True)
        for record in group.records
    )


def _assign(groups: Sequence[_Group], shares: Mapping[str, float]) -> list[str]:
    """Picks a part for each group; see `split_records` for the algorithm."""
    totals = Counter(record.label for group in groups for record in group.records)
    filled = {part: Counter() for part in shares}
    chosen = _one_of_each_class(groups, shares)
    for index, part in chosen.items():
        filled[part].update(groups[index].counts)

    def change(group: _Group, part: str) -> float:
        # Of the sum over classes of (deficit / total)^2 / share, when the part takes the group.
        share, held = shares[part], filled[part]
        return sum(
            n * (n - 2 * (share * totals[label] - held[label])) / (share * totals[label] ** 2)
            for label, n in sorted(group.counts.items())
        )

    for index, group in enumerate(groups):
        if index not in chosen:
            chosen[index] = min(shares, key=lambda part: change(group, part))
            filled[chosen[index]].update(group.counts)
    return [chosen[index] for index in range(len(groups))]


def _one_of_each_class(groups: Sequence[_Group], shares: Mapping[str, float]) -> dict[int, str]:
    """Reserves for every part a group of every class, the smallest groups of the rarest first."""
    chosen: dict[int, str] = {}
    holders = {
        label: [index for index, group in enumerate(groups) if label in group.counts]
        for label in sorted({label for group in groups for label in group.counts})
    }
    for label, holding in sorted(holders.items(), key=lambda item: len(item[1])):
        small = sorted(holding, key=lambda i: (len(groups[i].records), groups[i].order))
        lacking = set(shares) - {chosen[i] for i in holding if i in chosen}
        free = [i for i in small if i not in chosen]
        if len(free) < len(lacking):
            raise UserError(
                f"class {label} has {len(holding)} patients, too few for disjoint "
                f"{', '.join(shares)}; add scans of more patients"
            )
        chosen.update(zip(free, (part for part in shares if part in lacking), strict=False))
    return chosen
