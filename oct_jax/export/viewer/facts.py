"""What the page says of its model: classes, decision rule, training data, measurements."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from oct_jax.classifier import Classifier
from oct_jax.export.decision import describe_decision
from oct_jax.model.mobilenet_v3 import NNXModel


def page_facts(
    classifier: Classifier, name: str, model: bytes, test: Mapping[str, Any] | None
) -> dict[str, Any]:
    """JSON values for the page.

    Args:
      classifier: that the page answers with.
      name: of its run or file.
      model: `classifier.onnx`.
      test: figures of a bundle's test scans; used where the classifier has no evaluation.
    """
    facts = classifier.provenance.facts
    data = facts.get("data") or {}
    architecture = (
        dataclasses.asdict(classifier.model.config)
        if isinstance(classifier.model, NNXModel)
        else {}
    )
    return {
        "name": name,
        "labels": list(classifier.task.classes),
        "meanings": list(classifier.task.meanings),
        "decision": describe_decision(classifier),
        "synthetic": classifier.synthetic,
        "architecture": {key: architecture.get(key) for key in ("variant", "width")},
        "trained": facts.get("created"),
        "scans": (data.get("scans") or {}).get("train"),
        "measured": _measured(facts.get("measured") or [], test),
        "heatmapsVerified": classifier.provenance.is_verified("gradcam", False),
        "modelSha256": hashlib.sha256(model).hexdigest(),
    }


def _measured(
    evaluations: list[Mapping[str, Any]], test: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The first evaluation on test scans, else the bundle's own figures."""
    for evaluation in sorted(evaluations, key=lambda each: each.get("split") != "test"):
        accuracy = evaluation.get("figures", {}).get("accuracy")
        if accuracy:
            kept = {name: evaluation.get(name) for name in ("data", "split", "scans", "patients")}
            return kept | {"accuracy": accuracy}
    if test is None:
        return None
    return {"data": None, "split": "test", "scans": test["scans"], "accuracy": test["accuracy"][:3]}
