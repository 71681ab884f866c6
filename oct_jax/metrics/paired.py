"""Two models on the same scans: tests and areas that respect that scans are paired, in patients.

Everything here is a pure function of NumPy arrays. A patient's scans are alike, so where a test
assumes independent units (McNemar, DeLong) its form for clusters stands beside it; with one scan a
patient the two forms are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri
from scipy.stats import binomtest, norm, rankdata

from oct_jax.types import UserError

Patients = Sequence[object] | np.ndarray


class McNemar(NamedTuple):
    """The scans on which two models differ, and how likely that is by chance.

    Attributes:
      only_first: scans that only the first model has right.
      only_second: scans that only the second has right.
      p_scans: exact McNemar test, two-sided; every scan counts as independent.
      p_patients: the same for clusters: the two models' answers are swapped a patient at a time.
    """

    only_first: int
    only_second: int
    p_scans: float
    p_patients: float


class AreaDifference(NamedTuple):
    """Areas under two ROC curves of the same scans, and their difference.

    Attributes:
      areas: of the first and the second model, in [0, 1].
      difference: first minus second.
      low: of the 95 % interval of the difference.
      high: of the same.
      p: two-sided; 1 where both areas and their variance do not differ at all.
    """

    areas: tuple[float, float]
    difference: float
    low: float
    high: float
    p: float


def mcnemar(
    first: Bool[np.ndarray, "scans"], second: Bool[np.ndarray, "scans"], patients: Patients
) -> McNemar:
    """Compares which scans two models have right.

    The exact test of McNemar (1947) asks whether the scans that only one model has right are split
    as by a coin. For several scans a patient the coin is thrown once for each patient: under the
    hypothesis the models' answers may be swapped patient by patient, and the distribution of the
    difference over all swaps is computed exactly. It is the permutation form of the test of
    Durkalski et al. 2003 (Statistics in Medicine 22:2417-2428).

    Args:
      first: whether the first model has each scan right.
      second: the same of the second.
      patients: of each scan.
    """
    difference = first.astype(int) - second.astype(int)
    only_first, only_second = int((difference > 0).sum()), int((difference < 0).sum())
    differing = only_first + only_second
    p_scans = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    sums = np.bincount(_owners(patients), weights=difference).astype(int)
    return McNemar(only_first, only_second, p_scans, _sign_flip_p(sums))


def delong(
    scores: Float[np.ndarray, "models scans"],
    positive: Bool[np.ndarray, "scans"],
    patients: Patients | None = None,
) -> tuple[Float[np.ndarray, "models"], Float[np.ndarray, "models models"]]:
    """Areas under ROC curves of the same scans, and their covariance.

    DeLong et al. 1988 (Biometrics 44:837-845), by the midranks of Sun and Xu 2014 (IEEE Signal
    Processing Letters 21:1389-1393), in O(n log n). It takes scans as independent. With `patients`
    the covariance is that of Obuchowski 1997 (Biometrics 53:567-578), for clusters that may hold
    positive and negative scans; with one scan a patient it equals DeLong's.

    Args:
      scores: higher where a scan is more likely to be positive.
      positive: the truth; at least two positive and two negative scans (patients).
      patients: of each scan; None for DeLong's form.

    Raises:
      UserError: too few positive or negative scans, or patients of them.
    """
    owners = np.arange(len(positive)) if patients is None else _owners(patients)
    with_positive = len(np.unique(owners[positive]))
    with_negative = len(np.unique(owners[~positive]))
    if min(with_positive, with_negative) < 2:
        raise UserError(
            f"{with_positive} patients with and {with_negative} without: a variance of the area"
            " under the ROC curve needs two of each"
        )
    count, m, n = int(owners.max()) + 1, int(positive.sum()), int((~positive).sum())
    of_positive, of_negative = _placements(scores, positive)
    areas = of_positive.mean(1)
    # Sums over each patient of how far its scans' placements are from the area.
    ill = _sums(of_positive - areas[:, None], owners[positive], count)
    well = _sums(of_negative - areas[:, None], owners[~positive], count)
    s10 = with_positive / ((with_positive - 1) * m) * ill @ ill.T
    s01 = with_negative / ((with_negative - 1) * n) * well @ well.T
    s11 = count / (count - 1) * ill @ well.T
    return areas, s10 / m + s01 / n + (s11 + s11.T) / (m * n)


def compare_areas(
    first: Float[np.ndarray, "scans"],
    second: Float[np.ndarray, "scans"],
    positive: Bool[np.ndarray, "scans"],
    patients: Patients | None = None,
) -> AreaDifference:
    """Areas under the ROC curves of two models, with a 95 % interval of their difference.

    Args:
      first: the first model's scores, higher where a scan is more likely to be positive.
      second: the second model's.
      positive: the truth.
      patients: as for `delong`.

    Raises:
      UserError: as for `delong`.
    """
    areas, covariance = delong(np.stack([first, second]), positive, patients)
    difference = float(areas[0] - areas[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    spread = float(np.sqrt(max(variance, 0.0)))
    half = float(ndtri(0.975)) * spread
    p = 2 * float(norm.sf(abs(difference) / spread)) if spread else float(difference == 0)
    return AreaDifference(
        (float(areas[0]), float(areas[1])), difference, difference - half, difference + half, p
    )


def net_benefit(
    probabilities: Float[np.ndarray, "scans"],
    positive: Bool[np.ndarray, "scans"],
    thresholds: Float[np.ndarray, "thresholds"],
    prevalence: float | None = None,
) -> Float[np.ndarray, "thresholds"]:
    """Net benefit of acting on every scan whose probability is at or above a threshold.

    True positives less false positives, each of these at the odds of the threshold, a scan (Vickers
    and Elkin 2006, Medical Decision Making 26:565-574). Acting on all scans has the net benefit of
    probabilities that are all 1, acting on none has 0.

    Args:
      probabilities: of being positive, in [0, 1].
      positive: the truth; both kinds.
      thresholds: in [0, 1).
      prevalence: share of positive scans where the models are to be used; None: that of these.
    """
    share = float(positive.mean()) if prevalence is None else prevalence
    called = probabilities >= thresholds[:, None]
    sensitivity, false_alarms = called[:, positive].mean(1), called[:, ~positive].mean(1)
    odds = thresholds / (1 - thresholds)
    return share * sensitivity - (1 - share) * false_alarms * odds


def area_under_curve(
    scores: Float[np.ndarray, "scans"], positive: Bool[np.ndarray, "scans"]
) -> float | None:
    """Area under the ROC curve; None where all scans are positive, or none is."""
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return None
    return float((rankdata(scores)[positive].sum() - m * (m + 1) / 2) / (m * n))


def _placements(
    scores: Float[np.ndarray, "models scans"], positive: Bool[np.ndarray, "scans"]
) -> tuple[Float[np.ndarray, "models positives"], Float[np.ndarray, "models negatives"]]:
    """Of each positive scan the share of negatives below it, and the reverse; ties count half."""
    m, n = int(positive.sum()), int((~positive).sum())
    everywhere = rankdata(scores, axis=1)
    ill, well = rankdata(scores[:, positive], axis=1), rankdata(scores[:, ~positive], axis=1)
    return (everywhere[:, positive] - ill) / n, 1 - (everywhere[:, ~positive] - well) / m


def _sums(
    values: Float[np.ndarray, "models scans"], owners: Int[np.ndarray, "scans"], count: int
) -> Float[np.ndarray, "models patients"]:
    return np.stack([np.bincount(owners, weights=row, minlength=count) for row in values])


def _owners(patients: Patients) -> Int[np.ndarray, "scans"]:
    """Number of each scan's patient, from 0."""
    return np.unique(np.asarray(patients).astype(str), return_inverse=True)[1]


def _sign_flip_p(sums: Int[np.ndarray, "patients"]) -> float:
    """How often the sum is at least as far from 0 when each term's sign is drawn by a coin."""
    sizes = np.abs(sums[sums != 0])
    reach = int(sizes.sum())
    chances = np.zeros(2 * reach + 1)  # of each sum, from -reach to reach
    chances[reach] = 1.0
    for size in sizes:
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    distance = abs(np.arange(-reach, reach + 1))
    return float(min(1.0, chances[distance >= abs(int(sums.sum()))].sum()))
