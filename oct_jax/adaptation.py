"""A classifier for another clinic, from some tens of its scans without labels.

How often each class comes up there is estimated, and moves the bias of the last layer. On scans of
the same devices this makes more of them right; on another hospital's it was measured not to help
(experiments/README.md, "Adaptation without labels"). All else stays: BatchNorm statistics of the
clinic's scans, entropy minimisation and pseudo-labels did not help or did harm, and taking the
clinic's scans as usual made more answers wrong.

Coverage and sensitivity were promised for the calibration scans, and no promise can be renewed
without labels: the rule of an adapted classifier says so until it is fitted to labelled scans.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from oct_jax.classifier import Classifier, Scan
from oct_jax.data.inputs import grey_levels, list_scans
from oct_jax.data.preprocess import resize_scan
from oct_jax.decision.calibration import softmax
from oct_jax.decision.priors import estimate_priors
from oct_jax.decision.rule import decide
from oct_jax.model.inference import Outputs, batch_slices, make_forward, predict_all
from oct_jax.model.mobilenet_v3 import NNXModel
from oct_jax.model.protocol import Variables, fingerprint_of
from oct_jax.types import UserError

FEWEST = 20
"""Scans that show a retina; fewer say too little of how often a class comes up."""


@dataclass(frozen=True)
class Adapted:
    """What `adapt` gives.

    Attributes:
      classifier: the adapted one.
      priors: how often each class is estimated to come up.
      scans: that show a retina and were used.
      unreadable: pictures without a retina, which were left out.
    """

    classifier: Classifier
    priors: dict[str, float]
    scans: int
    unreadable: int


def adapt(classifier: Classifier, scans: Iterable[Scan], *, source: str = "") -> Adapted:
    """Adapts a classifier to unlabelled scans.

    Args:
      classifier: with a decision rule, trained with balanced class weights.
      scans: as `Classifier.predict` takes them; as they come, neither chosen nor sorted.
      source: where they are from, to be written down.

    Raises:
      UserError: no decision rule, another backbone than MobileNetV3, or too few scans.
    """
    rule, model = classifier.rule, classifier.model
    if rule is None or not isinstance(model, NNXModel):
        raise UserError("adapt: needs a calibrated model of backbone=mobilenetv3")
    outputs = _outputs(classifier, scans)
    usable = ~decide(rule, outputs).no_retina
    if usable.sum() < FEWEST:
        raise UserError(
            f"adapt: {int(usable.sum())} scans that show a retina; at least {FEWEST} are needed"
        )
    outputs = Outputs(*(np.asarray(rows)[usable] for rows in outputs))
    assumed = np.full(len(classifier.task.classes), 1 / len(classifier.task.classes))
    priors = estimate_priors(softmax(np.asarray(outputs.logits), rule.temperature), assumed)
    variables = _with_priors(classifier.variables, rule.temperature * np.log(priors / assumed))
    names = dict(zip(classifier.task.classes, priors.tolist(), strict=True))
    described = {"scans": len(outputs.logits), "data": source, "priors": names}
    adapted = replace(
        classifier,
        variables=variables,
        rule=replace(
            rule,
            fitted_on=dict(rule.fitted_on) | {"adapted": described},
            model=fingerprint_of(variables),
        ),
        stored_grid=classifier.grid,
        eye_rule=None,  # of the logits before
    )
    return Adapted(adapted, names, int(usable.sum()), int((~usable).sum()))


def _outputs(classifier: Classifier, scans: Iterable[Scan]) -> Outputs:
    given = list_scans(scans)[0]
    batches = (
        np.stack([resize_scan(grey_levels(scan), classifier.preprocess) for scan in given[rows]])
        for rows in batch_slices(len(given))
    )
    if not given:
        raise UserError(f"adapt: no scans; at least {FEWEST} are needed")
    forward = make_forward(classifier.model, classifier.preprocess)
    return predict_all(forward, classifier.variables, batches)


def _with_priors(variables: Variables, shift: np.ndarray) -> Variables:
    """The variables with shifted logits: in the last layer's bias, so that exports have it too."""
    head = variables.params["head"]
    last = head["classifier"] | {"bias": np.asarray(head["classifier"]["bias"] + shift, np.float32)}
    params = variables.params | {"head": head | {"classifier": last}}
    return variables._replace(params=params)
