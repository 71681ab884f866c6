"""Have scans changed since the model was calibrated? A bet against it, patient by patient.

A conformal test martingale (Vovk, Nouretdinov and Gammerman 2003; Vovk et al. 2021): if the
patients of the calibration scans and of the new ones are exchangeable, each new patient's conformal
p-value is uniform and independent of the earlier ones, and a fair bet against that does not gain.
Capital that reaches `ALARM` times the stake has a probability of at most 1 / `ALARM`, however long
one watches (Ville 1939).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from oct_jax.decision.conformal import Patients

ALARM = 20.0
"""Capital at which exchangeability is given up: false in at most one monitoring of 20."""
DRAWS = 16
"""Choices of one scan from each patient, over which the capital is averaged."""
_POWERS = np.array([1.0, 0.6, 0.35, 0.2])
"""Exponents of the bets e p^(e - 1); with 1 nothing is bet."""
_JUMP = 0.01
"""Share of the capital that changes its bet at each patient, so that a late change is seen."""


def watch(
    reference: Float[np.ndarray, "scans"],
    reference_patients: Patients,
    scores: Float[np.ndarray, "new"],
    patients: Patients,
    *,
    seed: int = 0,
) -> Float[np.ndarray, "_new_patients"]:
    """The capital after each new patient, from a stake of 1.

    One scan is drawn from each patient, for scans of one patient are not independent; the capital
    is the mean over `DRAWS` such draws, which is a martingale as each of them is: every draw bets
    on the same order of patients.

    Args:
      reference: outlier scores of calibration scans.
      reference_patients: of each of them.
      scores: of new scans, in the order in which they came; high is unusual.
      patients: of each of them. A patient who comes back is not asked again.
      seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    known, new = _by_patient(reference_patients), _by_patient(patients)
    drawn = [
        _bet(_p_values(_one_of_each(reference, known, rng), _one_of_each(scores, new, rng)))
        for _ in range(DRAWS)
    ]
    return np.mean(drawn, axis=0)


def _bet(p_values: Float[np.ndarray, "patients"]) -> Float[np.ndarray, "patients"]:
    """Capital of a power martingale that jumps between exponents (Vovk et al. 2021, section 3)."""
    shares = np.full(len(_POWERS), 1 / len(_POWERS))
    capital = []
    for p_value in np.maximum(p_values, 1e-12):
        total = shares.sum()
        shares = (1 - _JUMP) * shares + _JUMP * total / len(_POWERS)
        shares = shares * _POWERS * p_value ** (_POWERS - 1)
        capital.append(shares.sum())
    return np.array(capital)


def _p_values(
    reference: Float[np.ndarray, "patients"], scores: Float[np.ndarray, "new"]
) -> Float[np.ndarray, "new"]:
    """Conformal p-values: of each score, the share of all so far, itself included, as high.

    The earlier new ones are compared with too: that makes the p-values independent. Ties count as
    higher, so that a value is a little too large rather than random; the bets gain from small ones.
    """
    bag = np.sort(reference)
    values = np.zeros(len(scores))
    for number, score in enumerate(scores):
        place = np.searchsorted(bag, score, "left")
        values[number] = (len(bag) - place + 1) / (len(bag) + 1)
        bag = np.insert(bag, place, score)
    return values


def _by_patient(patients: Patients) -> list[np.ndarray]:
    """Indices of the scans of each patient, by the patient's first scan."""
    groups: dict[object, list[int]] = {}
    for index, patient in enumerate(patients):
        groups.setdefault(patient, []).append(index)
    return [np.array(indices) for indices in groups.values()]


def _one_of_each(
    scores: Float[np.ndarray, "scans"],
    groups: Sequence[Int[np.ndarray, "_own"]],
    rng: np.random.Generator,
) -> Float[np.ndarray, "_patients"]:
    picks = rng.random(len(groups))
    return np.array(
        [scores[own[int(pick * len(own))]] for own, pick in zip(groups, picks, strict=True)]
    )
