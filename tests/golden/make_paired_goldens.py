"""Makes `paired.json`: DeLong, McNemar and net benefit by other people's libraries.

    python -m venv oracles && oracles/bin/pip install MLstatkit statsmodels dcurves
    oracles/bin/python tests/golden/make_paired_goldens.py

DeLong is MLstatkit's, McNemar statsmodels', net benefit dcurves' (by the authors of the method).
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from dcurves import dca
from MLstatkit import Delong_test
from statsmodels.stats.contingency_tables import mcnemar

THRESHOLDS = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7]
MODELS = ("first", "second", "all")


def predictions(seed: int) -> pd.DataFrame:
    """60 scans, two models of unequal skill, probabilities of two digits: many are equal."""
    rng = np.random.default_rng(seed)
    positive = rng.random(60) < 0.4
    signal = positive + rng.normal(0, 1.2, 60)
    logits = {
        "first": signal + rng.normal(0, 0.5, 60),
        "second": 0.6 * signal + rng.normal(0, 1, 60),
    }
    scores = {name: np.round(1 / (1 + np.exp(-logit)), 2) for name, logit in logits.items()}
    return pd.DataFrame({"positive": positive.astype(int), **scores})


def net_benefits(table: pd.DataFrame, prevalence: float | None) -> dict[str, list[float]]:
    """By model, in the order of `THRESHOLDS`."""
    result = dca(
        data=table,
        outcome="positive",
        modelnames=list(MODELS[:2]),
        thresholds=THRESHOLDS,
        prevalence=prevalence,
    )
    rows = {name: result[result.model == name].sort_values("threshold") for name in MODELS}
    return {name: [float(value) for value in row.net_benefit] for name, row in rows.items()}


def golden_case(seed: int) -> dict:
    """Predictions, and what the libraries make of them."""
    table = predictions(seed)
    positive, first, second = (table[name].to_numpy() for name in ("positive", *MODELS[:2]))
    z, p, _, _, area_first, area_second, details = Delong_test(
        positive, first, second, return_ci=True, return_auc=True
    )
    right = [(scores >= 0.5) == positive for scores in (first, second)]
    counts = [
        [
            int(((right[0] == first_right) & (right[1] == second_right)).sum())
            for second_right in (1, 0)
        ]
        for first_right in (1, 0)
    ]
    return {
        "positive": positive.tolist(),
        "first": first.tolist(),
        "second": second.tolist(),
        "areas": [float(area_first), float(area_second)],
        "variance_of_difference": float(details["var_diff"]),
        "delong_z": float(z),
        "delong_p": float(p),
        "mcnemar_p": float(mcnemar(counts, exact=True).pvalue),
        "net_benefit": net_benefits(table, None),
        "net_benefit_at_prevalence_0.1": net_benefits(table, 0.1),
    }


def main() -> None:
    """Writes the file beside this one."""
    versions = {name: version(name) for name in ("MLstatkit", "statsmodels", "dcurves")}
    golden = {
        "versions": versions,
        "thresholds": THRESHOLDS,
        "cases": [*map(golden_case, range(3))],
    }
    path = Path(__file__).parent / "paired.json"
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
