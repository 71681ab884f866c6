"""A split never parts a patient, uses every scan once, and depends on scans and seed alone."""

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oct_jax.data.kermany import list_scans
from oct_jax.data.manifest import Record
from oct_jax.data.split import (
    Fractions,
    grouped_folds,
    keep_official,
    leaking_patients,
    split_records,
)
from oct_jax.task import KERMANY
from oct_jax.types import SPLITS, UserError

CLASSES = KERMANY.classes


def make_record(label, patient, index, split="", content=None):
    # Types are checked at random places, and Hypothesis refuses a strategy that moves `random`.
    state = random.getstate()
    content = content or f"{label} {patient} {index} {split}"
    record = Record(
        path=f"{split}/{label}/{label}-{patient}-{index}.jpeg".lstrip("/"),
        label=label,
        patient=str(patient),
        split=split,
        width=512,
        height=496,
        bytes=1,
        sha256=hashlib.sha256(content.encode()).hexdigest(),
    )
    random.setstate(state)
    return record


def scans_of(classes_of_patients, split=""):
    return [
        make_record(label, patient, index, split)
        for patient, labels in classes_of_patients.items()
        for index, label in enumerate(labels)
    ]


# A patient is a list of the classes of its scans, mostly one class; five of each class at least.
patients = st.one_of(
    st.builds(lambda label, n: [label] * n, st.sampled_from(CLASSES), st.integers(1, 6)),
    st.lists(st.sampled_from(CLASSES), min_size=1, max_size=5),
)


def data_sets_of(least):
    alone = [[label] for label in CLASSES * least]
    return st.lists(patients, max_size=40).map(
        lambda drawn: scans_of(dict(enumerate(drawn + alone)))
    )


data_sets = data_sets_of(5)


def paths_of(records):
    return sorted(record.path for record in records)


def fingerprint(records):
    return {record.path: record.split for record in records}


@given(records=data_sets, seed=st.integers(0, 5))
def test_split_laws(records, seed):
    split = split_records(records, seed=seed)
    assert paths_of(split) == paths_of(records)
    assert leaking_patients(split) == ()
    assert {(r.split, r.label) for r in split} == {(s, c) for s in SPLITS for c in CLASSES}


@given(records=data_sets, random=st.randoms(use_true_random=False))
def test_split_ignores_order_and_earlier_split(records, random):
    # Three patients tied by one file: a chain that may be found from either end.
    records += [make_record("CNV", patient, 0, content="same") for patient in (501, 502, 503)]
    shuffled = list(records)
    random.shuffle(shuffled)
    assert split_records(shuffled, seed=0) == split_records(records, seed=0)
    assert split_records(split_records(records, seed=1), seed=0) == split_records(records, seed=0)


def test_seeds_differ():
    records = scans_of({patient: [CLASSES[patient % 4]] for patient in range(80)})
    assert split_records(records, seed=0) != split_records(records, seed=1)


def test_the_split_is_fixed_for_ever():
    # A run is reproduced from its seed on any platform, so these digits must never change.
    records = scans_of({patient: [CLASSES[patient % 4]] for patient in range(24)})
    split = split_records(records, seed=0)
    by_patient = sorted(split, key=lambda record: int(record.patient))
    assert (
        "".join(str(SPLITS.index(record.split)) for record in by_patient)
        == "230010320101301300200200"
    )


@given(records=data_sets, copies=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 19))))
def test_identical_files_stay_together(records, copies):
    originals = {index % len(records) for index, _ in copies}
    copied = [
        make_record(records[i].label, f"{1000 + i}", 0, content=records[i].path) for i in originals
    ]
    first = [
        make_record(r.label, r.patient, r.path, content=r.path) if i in originals else r
        for i, r in enumerate(records)
    ]
    split = split_records([*first, *copied], seed=0)
    found = {}
    for record in split:
        assert found.setdefault(record.sha256, record.split) == record.split


@pytest.mark.parametrize("seed", range(5))
def test_fractions_are_met_in_every_class(seed):
    sizes = [1] * 60 + [2] * 20 + [5] * 6 + [15] * 2
    everyone = [(label, size) for label in CLASSES for size in sizes]
    records = scans_of({n: [label] * size for n, (label, size) in enumerate(everyone)})
    fractions = Fractions(train=0.5, val=0.2, calibration=0.05, test=0.25)
    split = split_records(records, fractions=fractions, seed=seed)
    for (name, _), count in Counter((r.split, r.label) for r in split).items():
        assert abs(count - getattr(fractions, name) * sum(sizes)) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_what_is_reserved_counts_towards_the_shares(seed):
    fractions = Fractions(train=0.22, val=0.25, calibration=0.25, test=0.28)
    sizes = [1, 5, 5, 5, 5]  # the first of four goes to train, whose share only the fifth fills
    everyone = [(label, size) for label in CLASSES for size in sizes]
    records = scans_of({n: [label] * size for n, (label, size) in enumerate(everyone)})
    split = split_records(records, fractions=fractions, seed=seed)
    assert Counter(r.split for r in split) == {
        "train": 24,
        "val": 20,
        "calibration": 20,
        "test": 20,
    }


@pytest.mark.parametrize("seed", range(5))
def test_a_large_patient_goes_to_the_large_split(seed):
    records = scans_of(
        {
            n: [label] * size
            for n, (label, size) in enumerate(
                (label, size) for label in CLASSES for size in (1, 1, 1, 1, 40)
            )
        }
    )
    split = split_records(records, seed=seed)
    assert Counter(r.split for r in split)["train"] == 4 * 41


def test_too_few_patients():
    records = scans_of({n: [label] * 3 for n, label in enumerate((*CLASSES * 4, "DME"))})
    split_records(records, seed=0)
    fewer = [record for record in records if record.patient not in ("2",)]
    with pytest.raises(UserError, match="class DRUSEN has 3 patients, too few for disjoint train"):
        split_records(fewer, seed=0)


@pytest.mark.parametrize(
    "shares",
    [(0.5, 0.1, 0.1, 0.1), (0.9, 0.1, 0, 0), (1.2, -0.4, 0.1, 0.1), (float("nan"), 0.1, 0.1, 0.1)],
)
def test_impossible_fractions(shares):
    with pytest.raises(UserError, match="fractions train"):
        Fractions(*shares)


@given(records=data_sets_of(12), k=st.integers(2, 4), seed=st.integers(0, 3))
def test_fold_laws(records, k, seed):
    folds = grouped_folds(records, k, seed=seed)
    assert len(folds) == k
    for fold in folds:
        assert paths_of(fold) == paths_of(records)
        assert leaking_patients(fold) == ()
        assert {record.split for record in fold} == set(SPLITS)
    tested = [r.path for fold in folds for r in fold if r.split == "test"]
    assert sorted(tested) == paths_of(records)


def test_impossible_folds():
    records = scans_of({n: [label] for n, label in enumerate(CLASSES * 5)})
    with pytest.raises(UserError, match="at least 2"):
        grouped_folds(records, 1, seed=0)
    with pytest.raises(UserError, match="has 5 patients, too few for disjoint fold 1, fold 2"):
        grouped_folds(records, 6, seed=0)


official_sets = st.lists(
    st.tuples(
        st.sampled_from(["train", "val", "test"]),
        st.integers(0, 60),
        st.sampled_from(CLASSES),
    ),
    max_size=60,
    unique=True,
).map(
    lambda drawn: (
        [make_record(label, patient, 0, split) for split, patient, label in drawn]
        + scans_of({100 + n: [label] for n, label in enumerate(CLASSES * 4)}, "train")
    )
)


@given(records=official_sets, seed=st.integers(0, 3))
def test_official_laws(records, seed):
    kept, removed = keep_official(records, seed=seed)
    assert paths_of([*kept, *removed]) == paths_of(records)
    assert leaking_patients(kept) == ()
    in_test = {record.path for record in records if record.split == "test"}
    assert {record.path for record in kept if record.split == "test"} == in_test
    tested = {record.patient for record in records if record.split == "test"}
    assert {r.path for r in removed} == {
        r.path for r in records if r.split != "test" and r.patient in tested
    }
    assert {"train", "val", "calibration"} <= {record.split for record in kept}


def official_train():
    return scans_of({n: [label] * 2 for n, label in enumerate(CLASSES * 10)}, "train")


def test_a_clean_official_val_is_kept():
    val = scans_of({100 + n: [label] for n, label in enumerate(CLASSES)}, "val")
    test = scans_of({200 + n: [label] for n, label in enumerate(CLASSES)}, "test")
    kept, removed = keep_official([*official_train(), *val, *test], seed=0)
    assert removed == ()
    assert paths_of(r for r in kept if r.split == "val") == paths_of(val)


@pytest.mark.parametrize("shared_with", ["train", "test"])
def test_an_overlapping_official_val_is_carved_anew(shared_with):
    patient = {"train": 0, "test": 200}[shared_with]
    val = scans_of({100: ["DME"], patient: ["CNV"]}, "val")
    test = scans_of({200 + n: [label] for n, label in enumerate(CLASSES)}, "test")
    kept, removed = keep_official([*official_train(), *val, *test], seed=0)
    assert {record.label for record in kept if record.split == "val"} == set(CLASSES)
    assert paths_of(removed) == ([val[1].path] if shared_with == "test" else [])


def test_a_copy_of_a_test_file_is_removed_whatever_its_patient():
    copy = make_record("CNV", 77, 0, "train", content="same")
    test = make_record("CNV", 200, 0, "test", content="same")
    _, removed = keep_official([*official_train(), copy, test], seed=0)
    assert removed == (copy,)


def test_leaking_patients():
    records = [make_record("CNV", 1, 0, "train"), make_record("CNV", 1, 1, "test")]
    assert leaking_patients([*records, make_record("CNV", 2, 0, "val")]) == ("1",)


def test_real_scans_are_balanced(real_scans):
    records = list_scans(real_scans).records
    totals = Counter(record.label for record in records)
    for seed in range(3):
        split = split_records(records, seed=seed)
        assert leaking_patients(split) == ()
        for (name, label), count in Counter((r.split, r.label) for r in split).items():
            assert abs(count / totals[label] - getattr(Fractions(), name)) < 0.02
