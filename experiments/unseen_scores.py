"""Outlier scores on the same features, and what each would defer.

Every score is high for what is unusual. Its threshold is the package's own rule
(`outlier_threshold`) on the calibration scans, augmented as the package does or as they are, so
that scores differ in what they see, not in how they are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from oct_jax.decision.calibration import log_softmax, softmax
from oct_jax.decision.conformal import prediction_sets
from oct_jax.decision.outliers import fit_outliers, outlier_threshold, squared_distance
from oct_jax.decision.referral import refer, urgency
from oct_jax.metrics.classification import bootstrap
from oct_jax.task import KERMANY, ClassInfo, Task

Parts = Mapping[str, Any]
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Which calibration scans set a threshold, and the share of them that may be beyond it.
CUTS = {"views, 1 %": ("views", 0.01), "as they are, 10 %": ("calibration", 0.1)}
NEIGHBOURS = 10
TIERS = ("urgent", "routine", "observe")


def normalised(features: np.ndarray) -> np.ndarray:
    """Each row scaled to length 1, float64."""
    long = features.astype(np.float64)
    return long / np.maximum(np.linalg.norm(long, axis=1, keepdims=True), 1e-12)


def gaussian(train: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Score:
    """What the package has: probabilistic PCA of the normalised features, without labels."""
    model = fit_outliers(train)
    return lambda pooled, _: np.asarray(squared_distance(model, pooled))


def class_gaussian(train: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Score:
    """The same Gaussian of the residuals from the class means; distance to the nearest class."""
    unit = normalised(train)
    means = np.stack([unit[labels == label].mean(0) for label in np.unique(labels)])
    place = np.searchsorted(np.unique(labels), labels)
    residuals = unit - means[place]
    directions = min(32, len(unit) - 2)
    pca = PCA(directions, svd_solver="full").fit(residuals)
    precisions, rest = 1 / pca.explained_variance_, 1 / max(pca.noise_variance_, 1e-12)

    def score(pooled: np.ndarray, _: np.ndarray) -> np.ndarray:
        away = normalised(pooled)[:, None] - means
        along = away @ pca.components_.T
        beside = np.maximum((away**2).sum(2) - (along**2).sum(2), 0)
        return ((along**2) @ precisions + rest * beside).min(1)

    return score


def mahalanobis_plus(train: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Score:
    """Mahalanobis++ (Mueller and Hein 2025): class means and one covariance of the normalised
    features; shrunk (Ledoit and Wolf 2004), for there are fewer scans than channels."""
    unit = normalised(train)
    names = np.unique(labels)
    means = np.stack([unit[labels == label].mean(0) for label in names])
    covariance = LedoitWolf(assume_centered=True).fit(unit - means[np.searchsorted(names, labels)])

    def score(pooled: np.ndarray, _: np.ndarray) -> np.ndarray:
        away = normalised(pooled)[:, None] - means
        return np.einsum("scf,fg,scg->sc", away, covariance.precision_, away, optimize=True).min(1)

    return score


def nearest(train: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Score:
    """Distance to the tenth nearest training scan, normalised (Sun et al. 2022)."""
    index = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(normalised(train))
    return lambda pooled, _: index.kneighbors(normalised(pooled))[0][:, -1]


def energy(train: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Score:
    """Negative log-sum-exp of the logits (Liu et al. 2020)."""
    return lambda _, given: -_log_sum_exp(given)


def max_probability(train: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Score:
    """1 less the largest probability (Hendrycks and Gimpel 2017): no features, for comparison."""
    return lambda _, given: 1 - softmax(given).max(1)


def virtual_logit(train: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Score:
    """ViM (Wang et al. 2022): the part of a feature outside of the principal space as one more
    logit. Centred at the training mean, for two dense layers follow the features and there is no
    single matrix to take their origin from."""
    directions = min(64, len(train) - 2)
    pca = PCA(directions, svd_solver="full").fit(train.astype(np.float64))

    def outside(pooled: np.ndarray) -> np.ndarray:
        away = pooled - pca.mean_
        along = away @ pca.components_.T
        return np.sqrt(np.maximum((away**2).sum(1) - (along**2).sum(1), 0))

    scale = logits.max(1).mean() / outside(train).mean()
    return lambda pooled, given: scale * outside(pooled) - _log_sum_exp(given)


SCORES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Score]] = {
    "Gaussian, no labels (default)": gaussian,
    "Gaussian of class residuals": class_gaussian,
    "Mahalanobis++": mahalanobis_plus,
    "kNN": nearest,
    "ViM": virtual_logit,
    "energy": energy,
    "largest probability": max_probability,
}


def report_of(parts: Parts) -> dict[str, Any]:
    """Figures of every score on one model's features."""
    task = _task_of(parts)
    names = list(task.classes)
    train = np.array([names.index(label) for label in parts["train/labels"]])
    figures = {}
    for name, fit in SCORES.items():
        score = fit(parts["train/pooled"], parts["train/logits"].astype(float), train)
        figures[name] = _of_score(score, parts, task)
    return figures


def _of_score(score: Score, parts: Parts, task: Task) -> dict[str, Any]:
    sets = [name.partition("/")[0] for name in parts if name.endswith("/pooled")]
    scores = {
        name: score(parts[f"{name}/pooled"], parts[f"{name}/logits"].astype(float)) for name in sets
    }
    result: dict[str, Any] = {}
    if "unseen" in scores:
        known, strange = scores["test"], scores["unseen"]
        truth = np.repeat([0, 1], [len(known), len(strange)])
        result["auroc"] = float(roc_auc_score(truth, np.concatenate([known, strange])))
        result["fpr95"] = float((strange <= np.quantile(known, 0.95)).mean())
        result["found"] = float((strange > np.quantile(known, 0.9)).mean())
    for cut, (where, rate) in CUTS.items():
        threshold = outlier_threshold(scores[where], rate, parts[f"{where}/patients"])
        result[cut] = {
            name: _referred(parts, name, scores[name] > threshold, task)
            for name in sets
            if name not in ("train", "views", "calibration")
        }
    return result


def _referred(parts: Parts, name: str, outlier: np.ndarray, task: Task) -> dict[str, Any]:
    """Shares of outliers, deferred scans, and tiers less urgent than the label's."""
    probabilities = softmax(parts[f"{name}/logits"], float(parts["temperature"]))
    sets = prediction_sets(probabilities, parts["set_thresholds"].astype(float))
    urgent = urgency(probabilities, task) >= float(parts["urgent_threshold"])
    referred = np.array(refer(sets, urgent, outlier, task))
    labels = np.asarray(parts[f"{name}/labels"])
    deferred = referred == "defer"
    tiers = np.array([_true_tier(label) for label in labels])
    rank = {word: number for number, word in enumerate(TIERS)}
    less = np.array(
        [
            word in rank and tier in rank and rank[word] > rank[tier]
            for word, tier in zip(referred.tolist(), tiers.tolist(), strict=True)
        ]
    )

    def shares(drawn: np.ndarray) -> dict[str, float | None]:
        return {
            "outliers": float(outlier[drawn].mean()),
            "deferred": float(deferred[drawn].mean()),
            "less urgent": float(less[drawn].mean()),
        }

    everything = np.arange(len(labels))
    intervals = bootstrap(list(map(str, parts[f"{name}/patients"])), shares, resamples=200, seed=0)
    return {
        "scans": len(labels),
        "observed": int((referred == "observe").sum()),
        **{key: [value, *(intervals[key] or ())] for key, value in shares(everything).items()},
    }


def _true_tier(label: str) -> str:
    return KERMANY.tier_of(label) or "" if label in KERMANY.classes else ""


def _task_of(parts: Parts) -> Task:
    infos = zip(parts["classes"].tolist(), parts["tiers"].tolist(), strict=True)
    return Task("left", tuple(ClassInfo(name, tier or None) for name, tier in infos))


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    return logits[:, 0] - log_softmax(logits)[:, 0]


def to_markdown(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tables: the class left out, then what the model of all classes defers elsewhere."""
    lines = []
    for cut in CUTS:
        lines += ["", f"threshold on calibration scans: {cut}", "", *_unseen_table(reports, cut)]
    if "all" in reports:
        lines += ["", "model of all classes", "", *_elsewhere_table(reports["all"])]
    return lines


def _unseen_table(reports: Mapping[str, Mapping[str, Any]], cut: str) -> list[str]:
    head = ["score", "left out", "AUROC", "FPR at 95 % TPR", "found at 10 % of known"]
    head += ["outliers", "deferred", "less urgent", "observed", "known: deferred"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for score in SCORES:
        for left, report in reports.items():
            if left == "all":
                continue
            figures = report[score]
            unseen, known = (figures[cut][name] for name in ("unseen", "test"))
            cells = [score, left, *(f"{figures[key]:.3f}" for key in ("auroc", "fpr95", "found"))]
            cells += [_cell(unseen[key]) for key in ("outliers", "deferred", "less urgent")]
            cells += [f"{unseen['observed']} of {unseen['scans']}", _cell(known["deferred"])]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _elsewhere_table(report: Mapping[str, Any]) -> list[str]:
    sets = ("test", "uncurated", "noor", "duke", "pictures")
    lines = [f"| score | threshold | {' | '.join(sets)} |", "|---" * (len(sets) + 2) + "|"]
    for score in SCORES:
        for cut in CUTS:
            cells = [_cell(report[score][cut][name]["deferred"]) for name in sets]
            lines.append(f"| {score} | {cut} | {' | '.join(cells)} |")
    return lines


def _cell(estimate: Sequence[float]) -> str:
    return f"{estimate[0]:.3f} ({estimate[1]:.2f} to {estimate[2]:.2f})"
