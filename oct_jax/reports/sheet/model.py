"""Answers about the model, its training and its use."""

from __future__ import annotations

import json

from oct_jax.reports.sheet.answer import (
    Answer,
    alternatives,
    backbone,
    fitted_on,
    last_stage,
    numbers,
)
from oct_jax.runs.facts import RunFacts
from oct_jax.runs.origin import without_paths


def technology(facts: RunFacts) -> Answer:
    """What kind of AI it is."""
    return Answer(
        f"deep learning: a neural network ({backbone(facts)}) that classifies"
        f" single B-scans of retinal OCT as {alternatives(facts.config.task.classes)}",
        "config.json",
        "target population",
    )


def role(facts: RunFacts) -> Answer:
    """What it is for."""
    return Answer(
        "diagnostic, not prognostic; research use, not a medical device: a scan is given class"
        " probabilities, a prediction set and a referral tier, or is deferred to a person",
        "config.json",
        "clinical background, existing models",
    )


def goal(facts: RunFacts) -> Answer:
    """What was done."""
    evaluations = {"internal": facts.internal, "external": facts.external}
    parts = " and ".join(name for name, reports in evaluations.items() if reports)
    return Answer(
        f"development of a model{f', with {parts} evaluation' if parts else ''}",
        "config.json, evaluation/",
        "objectives and hypotheses",
    )


def preprocessing(facts: RunFacts) -> Answer:
    """From a scan to the model's input."""
    steps = facts.config.preprocess
    words = {
        "retina": "a window of fixed physical size around the retina, white borders filled",
        "squash": "the whole scan, its proportions changed",
        "letterbox": "the whole scan, padded with black",
        "crop": "the central square",
    }
    return Answer(
        f"grey 8-bit scans; resize={steps.resize}: {words[steps.resize]}; {steps.size} x"
        f" {steps.size} pixels, mean {numbers(steps.mean)}, deviation {numbers(steps.std)}",
        "config.json",
        "quality checks by people",
    )


def predictors(facts: RunFacts) -> Answer:
    """The only input."""
    return Answer(
        f"the grey levels of one B-scan, no others; {preprocessing(facts).words}", "config.json"
    )


def model(facts: RunFacts) -> Answer:
    """The network."""
    return Answer(
        f"{backbone(facts)}, {facts.parameters:,} parameters with BatchNorm folded; input a scan of"
        f" {facts.config.preprocess.size} pixels a side, output {len(facts.config.task.classes)}"
        f" logits; weights `{facts.model}`",
        "config.json",
    )


def software(facts: RunFacts) -> Answer | None:
    """Versions."""
    versions = facts.provenance.get("versions")
    if not versions:
        return None
    git = facts.provenance.get("git") or {}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    commit = f"; commit `{git['commit']}`" if git.get("commit") else ""
    changed = " with changes that were not committed" if git.get("dirty") else ""
    return Answer(
        f"Python {facts.provenance.get('python')}, {listed}{commit}{changed}", "provenance.json"
    )


def weights(facts: RunFacts) -> Answer:
    """First weights."""
    source = without_paths(facts.provenance.get("weights", {}))
    return Answer(
        f"`{json.dumps(source, sort_keys=True)}`; seed {facts.config.settings['seed']}",
        "provenance.json, config.json",
    )


def training(facts: RunFacts) -> Answer | None:
    """Settings of the stages."""
    if not facts.stages:
        return None
    names = ("epochs", "batch_size", "learning_rate", "schedule", "weight_decay", "class_weights")
    names += ("label_smoothing", "dropout", "average_weights", "precision", "augment.amount")
    parts = []
    for stage, settings in facts.stages.items():
        chosen = ", ".join(f"{name}={settings[name]}" for name in names if name in settings)
        parts.append(f"{stage}: {chosen}")
    places = ", ".join(f"{stage}/config.json" for stage in facts.stages)
    return Answer("; ".join(parts), f"{places} (all settings)")


def selection(facts: RunFacts) -> Answer:
    """How the epoch was chosen."""
    return Answer(
        "of each stage the latest epoch whose balanced accuracy on the validation split is within a"
        " standard error, over patients, of the highest",
        f"{last_stage(facts)}/metrics.jsonl",
        "how the settings were chosen",
    )


def ensemble(facts: RunFacts) -> Answer:
    """Ensembles."""
    averaged = facts.stages.get("finetune", {}).get("average_weights")
    return Answer(
        "none" + (f"; average_weights={averaged} (one model)" if averaged else ""),
        f"{last_stage(facts)}/config.json",
    )


def building(facts: RunFacts) -> Answer | None:
    """Model, training, choice and internal validation in one."""
    trained = training(facts)
    if trained is None:
        return None
    words = f"{model(facts).words}; {trained.words}; {selection(facts).words}"
    return Answer(words, f"config.json, {trained.place}", "rationale, tuning")


def imbalance(facts: RunFacts) -> Answer | None:
    """Weights of the classes."""
    settings = facts.stages.get(last_stage(facts), {})
    if "class_weights" not in settings:
        return None
    return Answer(
        f"class_weights={settings['class_weights']}: balanced weighs each class N / (K n) in the"
        " loss; probabilities are calibrated after training",
        f"{last_stage(facts)}/config.json",
    )


def output(facts: RunFacts) -> Answer | None:
    """Probabilities, sets, tiers, thresholds."""
    rule = facts.rule
    if rule is None:
        return Answer("class probabilities, not calibrated; no referral", "config.json")
    thresholds = ", ".join(
        f"{name} {value:.3g}"
        for name, value in zip(rule.task.classes, rule.set_thresholds.tolist(), strict=True)
    )
    return Answer(
        f"calibrated probabilities; a prediction set of coverage {rule.coverage:g} by class-wise"
        f" conformal thresholds ({thresholds}); urgent at {rule.urgent_threshold:.3g} or more, for"
        f" a sensitivity of {rule.sensitivity:g}; deferred where the set spans tiers or is empty,"
        f" and where the scan is an outlier; fitted on {fitted_on(facts)}",
        f"{last_stage(facts)}/decision/rule.json",
    )


def predictions(facts: RunFacts) -> Answer:
    """How to get predictions."""
    return Answer(
        f"`oct_jax.load(RUN).predict(scan)`, weights `{facts.model}`; `Classifier.save` writes the"
        " model as one file, `just export` as ONNX with the preprocessing inside",
        "config.json, <stage>/",
        "restrictions of access",
    )


def practice(facts: RunFacts) -> Answer:
    """What it is not for."""
    return Answer(
        "research use, not a medical device: not for diagnosis, treatment or sorting of patients",
        "MODEL_CARD.md",
        "intended users, place in the care pathway",
    )


def protocol(facts: RunFacts) -> Answer:
    """How to do it again."""
    command = " ".join(facts.provenance.get("command", [])) or "unknown"
    return Answer(
        f"technical details: this run folder; command `{command}`, created"
        f" {facts.provenance.get('created', 'unknown')}",
        "provenance.json, */config.json",
        "a study protocol, if there is one",
    )


def availability(facts: RunFacts) -> Answer:
    """Software, model, data."""
    return Answer(
        "software: oct_jax, Apache-2.0",
        "provenance.json",
        "where the model and the data can be had, under what terms",
    )


def poor_input(facts: RunFacts) -> Answer | None:
    """What is refused or deferred."""
    if facts.rule is None or facts.rule.outliers is None:
        return None
    return Answer(
        "unreadable files are refused by name; pictures that show no retina, and scans unlike the"
        " training scans, are deferred to a person",
        f"{last_stage(facts)}/decision/rule.json",
    )


def users(facts: RunFacts) -> Answer:
    """What a user does."""
    return Answer(
        "none: a scan goes in as the device exported it", "config.json", "expertise of the users"
    )
