"""Figures of parts: by column of the manifest, with intervals over the patients of each part."""

from dataclasses import replace

import numpy as np
import pytest

from oct_jax.data.manifest import Record
from oct_jax.metrics.parts import NOT_GIVEN, Answered, figures_by_column, part_figures
from oct_jax.task import KERMANY
from oct_jax.types import UserError

NAMES = KERMANY.classes


def answered(predicted, truth, patients, referrals=None) -> Answered:
    probabilities = np.full((len(truth), 4), 0.1)
    probabilities[np.arange(len(truth)), predicted] = 0.7
    return Answered(probabilities, np.array(truth), patients, referrals, NAMES, KERMANY.tiers)


def records(**columns) -> list[Record]:
    length = len(next(iter(columns.values())))
    plain = Record("a", "CNV", "1", "test", 8, 8, 1, "0" * 64)
    rows = ([(name, values[row]) for name, values in columns.items()] for row in range(length))
    return [replace(plain, path=f"{n}", more=tuple(more)) for n, more in enumerate(rows)]


def test_a_part_has_its_own_accuracy_patients_and_interval():
    values = part_figures(answered([0, 0, 3, 3], [0, 1, 3, 3], list("aabb")))
    assert (values["count"], values["patients"]) == (4, 2)
    assert values["figures"]["accuracy"]["value"] == 0.75
    low, high = values["figures"]["accuracy"]["interval"]
    assert 0 < low < 0.5
    assert 0.75 < high < 1
    assert values["figures"]["CNV recall"]["value"] == 1
    assert values["figures"]["DRUSEN recall"]["value"] is None
    assert "deferred" not in values["figures"]


def test_four_eyes_all_right_prove_little():
    values = part_figures(answered([0, 0, 3, 3], [0, 0, 3, 3], list("abcd")))
    low, high = values["figures"]["accuracy"]["interval"]
    assert low == pytest.approx(0.51, abs=0.01)
    assert high == 1


def test_referral_is_judged_where_there_is_one():
    referrals = ["urgent", "observe", "defer", "observe"]
    given = answered([0, 3, 3, 3], [0, 1, 2, 3], list("abcd"), referrals)
    figures = part_figures(given)["figures"]
    assert figures["deferred"]["value"] == 0.25
    assert figures["urgent missed"]["value"] == 0.5
    assert figures["tier accuracy when answered"]["value"] == pytest.approx(2 / 3)


def test_columns_of_few_values_are_taken_without_asking():
    scans = records(
        sex=["F", "M", "F", ""], visit=["1", "1", "1", "1"], number=["1", "2", "3", "4"]
    )
    scans = [replace(scan, device="Spectralis") for scan in scans]
    given = answered([0, 0, 3, 3], [0, 1, 3, 3], list("abcd"))
    parts = figures_by_column(given, scans, None)
    assert list(parts) == ["sex", "number"]
    assert list(parts["sex"]) == ["F", "M", NOT_GIVEN]
    assert parts["sex"]["F"]["count"] == 2
    assert parts["sex"]["M"]["figures"]["accuracy"]["value"] == 0
    only = figures_by_column(given, scans, "device")
    assert {name: list(part) for name, part in only.items()} == {"device": ["Spectralis"]}


def test_an_unknown_column_and_one_of_too_many_values_are_one_line():
    given = answered([0] * 60, [0] * 60, [str(n) for n in range(60)])
    scans = records(sex=["F"] * 60)
    with pytest.raises(UserError, match=r"by=age: no such column.*sex"):
        figures_by_column(given, scans, "age")
    with pytest.raises(UserError, match="by=path: 60 different values"):
        figures_by_column(given, scans, "path")
