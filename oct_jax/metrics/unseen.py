"""Scans of diseases that a model has never seen: are they deferred, and if not, what are they told?

The right answer to them is `defer`. What counts is how often it is given, how well the outlier
score tells them from known classes, and how often one is answered with a less urgent tier than
its disease should have: a person who knows the disease says which that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score

from oct_jax.decision.referral import REFERRALS
from oct_jax.decision.rule import Decisions
from oct_jax.metrics.classification import bootstrap
from oct_jax.task import TIERS, Task, Tier
from oct_jax.types import UserError

_KEPT = 0.95
"""Share of known scans that are kept where the rate of accepted unseen scans is read off."""


@dataclass(frozen=True)
class Unseen:
    """Scans of classes outside of a task, with what a rule says of them.

    Attributes:
      names: of the files.
      labels: of the diseases, one for each scan.
      patients: of each scan.
      tiers: that each disease should have.
      decisions: of the rule, one for each scan.
    """

    names: Sequence[str]
    labels: Sequence[str]
    patients: Sequence[str]
    tiers: Mapping[str, Tier]
    decisions: Decisions


def parse_unseen(text: str | None, task: Task) -> dict[str, Tier]:
    """`MH:urgent,ERM:routine` as the tier of each disease outside of a task.

    Raises:
      UserError: not of this form, a class of the task, or a disease that is named twice.
    """
    tiers: dict[str, Tier] = {}
    folded = {name.casefold() for name in task.classes}
    for part in text.split(",") if text else ():
        name, _, tier = (word.strip() for word in part.partition(":"))
        if not name or tier not in TIERS:
            raise UserError(
                f"unseen={text}: write FOLDER:TIER,... with the tier that each disease should have:"
                f" {', '.join(TIERS)}"
            )
        if name.casefold() in folded:
            raise UserError(
                f"unseen={text}: {name} is a class that the model knows, or named twice"
            )
        folded.add(name.casefold())
        tiers[name] = tier
    return tiers


def unseen_figures(
    unseen: Unseen,
    known: Decisions,
    known_patients: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Figures of each disease and of all together, as JSON values, with intervals over patients.

    `outlier AUROC` is that of unseen scans against the known ones, by the outlier score; `accepted
    at 95 % of known` is the share of unseen scans below the score that 95 % of the known ones are
    below (in the literature, the false positive rate at 95 % true positives).

    Args:
      unseen: at least one scan.
      known: decisions on scans of the task's classes.
      known_patients: of each of these.
      resamples: draws of patients for the intervals.
      seed: of these draws.
    """
    labels = np.array(unseen.labels)
    result = {}
    for name in (*dict.fromkeys(unseen.labels), "all"):
        own = np.flatnonzero((labels == name) | (name == "all"))
        result[name] = _figures_of(own, unseen, known, known_patients, resamples, seed)
    return result


def _figures_of(
    own: Int[np.ndarray, "own"],
    unseen: Unseen,
    known: Decisions,
    known_patients: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    referred = np.array([unseen.decisions.referrals[index] for index in own], object)
    wanted = np.array([unseen.tiers[unseen.labels[index]] for index in own])
    order = {tier: number for number, tier in enumerate(TIERS)}
    less = np.array(
        [
            answer in order and order[answer] > order[tier]
            for answer, tier in zip(referred.tolist(), wanted.tolist(), strict=True)
        ]
    )
    scores = unseen.decisions.outlier_scores[own]
    usual = known.outlier_scores

    def of(drawn: Int[np.ndarray, "drawn"]) -> dict[str, float | None]:
        inside = drawn[drawn < len(own)]
        beside = drawn[drawn >= len(own)] - len(own)
        return {
            **_separation(scores[inside], usual[beside]),
            "outliers": _mean(scores[inside] > 1),
            "deferred": _mean(referred[inside] == "defer"),
            "less urgent tier": _mean(less[inside]),
        }

    # A patient may have known and unseen scans: drawn together.
    patients = [*(unseen.patients[index] for index in own), *known_patients]
    values = of(np.arange(len(patients)))
    intervals = bootstrap(patients, of, resamples=resamples, seed=seed)
    return {
        "scans": len(own),
        "patients": len({unseen.patients[index] for index in own}),
        "figures": {
            name: {"value": value, "interval": intervals[name]} for name, value in values.items()
        },
        "referrals": {word: int((referred == word).sum()) for word in REFERRALS},
        "urgent_observed": int(((wanted == "urgent") & (referred == "observe")).sum()),
    }


def _separation(
    unseen: Float[np.ndarray, "unseen"], known: Float[np.ndarray, "known"]
) -> dict[str, float | None]:
    """How well scores tell unseen scans from known ones; None without scans, or without scores."""
    names = ("outlier AUROC", "accepted at 95 % of known")
    if not len(unseen) or not len(known) or np.isnan([*unseen, *known]).any():
        return dict.fromkeys(names)
    truth = np.repeat([1, 0], [len(unseen), len(known)])
    area = float(roc_auc_score(truth, np.concatenate([unseen, known])))
    accepted = float((unseen <= np.quantile(known, _KEPT)).mean())
    return dict(zip(names, (area, accepted), strict=True))


def _mean(holds: np.ndarray) -> float | None:
    return float(holds.mean()) if len(holds) else None
