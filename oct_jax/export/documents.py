"""What a bundle tells people: `README.md` for who builds with it, `MODEL_CARD.md` for all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from oct_jax.decision.referral import NOT_REFERRED
from oct_jax.decision.rule import PROMISE
from oct_jax.provenance import FaithfulnessResult
from oct_jax.types import SPLITS

_HOW_TO_MAKE_A_SET = "The set holds class c where probabilities[c] >= set_thresholds[c]."
HOW_TO_DECIDE = (
    f"{_HOW_TO_MAKE_A_SET} Its tiers are those of its"
    " classes; urgent is added where the probabilities of the urgent classes sum to"
    " urgent_threshold or more. The referral is defer (to a person) where the set is empty, where"
    " there is more than one tier, or where outlier_score > 1; else it is the one tier."
)


def readme(about: Mapping[str, Any]) -> str:
    """The bundle's README: what is in it, and complete programs in four languages."""
    files = about["files"]
    any_size, mobile = files["classifier.onnx"], files["classifier_mobile.onnx"]
    decided = about["decision"]["calibrated"]
    size = about["preprocessing"]["size"]
    parts = {
        "research_use": about["research_use"],
        "name": about["run"]["name"],
        "files": _table_of_files(about),
        "input": _tensor_rows(any_size["inputs"]),
        "outputs": _tensor_rows(any_size["outputs"]),
        "mobile_input": _tensor_rows(mobile["inputs"]),
        "size": size,
        "resize": _RESIZES[about["preprocessing"]["resize"]],
        "resize_yourself": _RESIZE_YOURSELF[about["preprocessing"]["resize"] == "retina"],
        "lowest": about["lowest_onnxruntime"],
        "opset": about["opset"],
        "labels": ", ".join(about["labels"]),
        "usability": _usability(about["mobile_usability"]),
        "how": _how_to_decide(about["decision"]),
        "calibrated": "calibrated" if decided else "NOT calibrated",
        "classes": _one_of(about["labels"]),
        "python": _program("classify.py"),
        "javascript": _program("classify.js"),
        "kotlin": _program("OctClassifier.kt"),
        "swift": _program("OctClassifier.swift"),
    }
    return Template(_program("README.template.md")).substitute(parts)


def _how_to_decide(decision: Mapping[str, Any]) -> str:
    if not decision["calibrated"]:
        return "This model has no decision rule: no referral is given."
    if not _refers(decision):
        return f"{_HOW_TO_MAKE_A_SET} Scans are {NOT_REFERRED}."
    return HOW_TO_DECIDE


def _refers(decision: Mapping[str, Any]) -> bool:
    return any(decision["tiers"].values())


def _one_of(names: Sequence[str]) -> str:
    """`A, B or C`."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _program(name: str) -> str:
    """A program or template of `oct_jax/export/programs`."""
    return Path(__file__).with_name("programs").joinpath(name).read_text(encoding="utf-8")


def model_card(about: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """The model card, after Mitchell et al. 2019, from the evidence that the model has."""
    run, model, decision = about["run"], about["model"], about["decision"]
    weights = run["weights"]
    *_, rows, columns = about["files"]["classifier.onnx"]["outputs"]["heatmaps"]["shape"]
    lines = [
        "# Model card",
        "",
        f"**{about['research_use']}**",
        "",
        "## Model details",
        "",
        f"- {model['architecture']['variant']} MobileNetV3 (width"
        f" {model['architecture']['width']:g}), from ImageNet or other weights:"
        f" `{json.dumps(weights, sort_keys=True)}`",
        f"- {run.get('kind', 'run')} `{run['name']}`, stage `{model['stage']}`, seed"
        f" {run['seed']}, trained {run['trained']}; parameters SHA-256 `{model['sha256']}`",
        f"- licence of the software: {about['licence']}; the training data has its own terms",
        "",
        "## Intended use",
        "",
        f"Research on retinal OCT B-scans: which of {_one_of(about['labels'])} a scan looks like,"
        " how sure that is, and where in the scan it looks so. For researchers, and developers of"
        " research tools. Not to diagnose, to treat, or to sort patients: it has no approval"
        " as a medical device, and was not tested in a clinic.",
        "",
        "## Factors",
        "",
        "One scan of one eye from macular spectral-domain OCT, exported in 8 bits. Other devices,"
        " volumes, en-face pictures, other diseases and pictures of anything else are outside;"
        + (
            " the outlier score is meant to catch some of them, not all."
            if decision.get("outlier_threshold")
            else " nothing in the model notices them."
        ),
        "",
        "## Data",
        "",
        _data_table(run["scans"], about["labels"]),
        f"Splits share no patient. Manifest SHA-256 `{run['data_manifest_sha256']}`.",
        "",
        "## Evidence",
        "",
        *_measured(about["test"], about["synthetic"]),
        *_decided(decision, about["labels"]),
        *_evaluated(evidence.get("evaluation")),
        *_explained(evidence.get("explanation")),
        *_int8(about["int8"]),
        "",
        "## Limits",
        "",
        "- Figures are of the data that they name, split by patient; another hospital's scans will"
        " give others.",
        f"- A heatmap has {rows} by {columns} cells over the scan, its peak is 1 even where the"
        " evidence is weak, and it shows where, not why.",
        "- Coverage of sets and sensitivity of the urgent threshold hold for scans like the"
        " calibration scans, for no others.",
        f"- Only its {len(about['labels'])} classes exist for it: any other disease gets one of"
        " their names or `defer`.",
        "",
    ]
    return "\n".join(lines)


def _measured(test: Mapping[str, Any] | None, synthetic: bool) -> list[str]:
    if test is None:
        return ["Not measured on export: no test scans were at hand."]
    kind = "SYNTHETIC test phantoms" if synthetic else "test scans"
    rows = [
        f"classifier_mobile.onnx on {test['scans']} {kind} of {test['of']}, of {test['patients']}"
        " patients (95 % intervals over patients):",
        "",
        f"accuracy {_interval(test['accuracy'])}",
        "",
        "| class | sensitivity | specificity |",
        "|---|---|---|",
    ]
    rows += [
        f"| {name} | {_interval(test['sensitivity'][name])}"
        f" | {_interval(test['specificity'][name])} |"
        for name in test["sensitivity"]
    ]
    if not any(test["referrals"].values()):
        return [*rows, "", f"Scans are {NOT_REFERRED}."]
    counts = ", ".join(f"{name} {count}" for name, count in test["referrals"].items())
    return [*rows, "", f"Referrals: {counts}."]


def _decided(decision: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    if not decision["calibrated"]:
        return ["", "Probabilities are not calibrated, and there is no referral rule."]
    thresholds = ", ".join(
        f"{name} {value:.4g}"
        for name, value in zip(labels, decision["set_thresholds"], strict=True)
    )
    adapted = decision["fitted_on"].get("adapted")
    warning = (
        f" **Since then the model was adapted to {adapted['scans']} scans without labels: the"
        " coverage and the sensitivity asked are not promised any more.**"
        if adapted
        else ""
    )
    referral = (
        f"urgent from {decision['urgent_threshold']:.4g} for a sensitivity of"
        f" {decision['sensitivity']:.0%} asked"
        if _refers(decision)
        else NOT_REFERRED
    )
    return [
        "",
        f"Decision rule: temperature {decision['temperature']:.4g}; sets with a coverage of"
        f" {decision['coverage']:.0%} asked in every class ({thresholds}); {referral}. Fitted on"
        f" `{json.dumps(decision['fitted_on'].get('scans'))}` calibration scans." + warning,
        "",
        PROMISE,
    ]


def _evaluated(lines: Sequence[str] | None) -> list[str]:
    if lines is None:
        return ["", "Not evaluated with `just evaluate`: no intervals over patients."]
    return ["", "Evaluated with `just evaluate`:", "", "```", *lines, "```"]


def _explained(report: FaithfulnessResult | None) -> list[str]:
    if report is None:
        return ["", "Heatmaps: **unverified**, there is no faithfulness report of this model."]
    result = "passed" if report.passed else "**not passed**"
    return ["", f"Heatmaps: the faithfulness report is {result} ({report.scans} scans)."]


def _int8(report: Mapping[str, Any]) -> list[str]:
    if not report["shipped"]:
        return ["", f"int8: left out, {report['reason']}."]
    gate = report["gate"]
    chosen = report["chosen"]
    return [
        "",
        f"int8 ({chosen['weights']} weights, {chosen['activations']}-bit activations,"
        f" {chosen['in_float']} in float), on {report['gate_on']}: accuracy"
        f" {gate['accuracy']:.4f} where float has {gate['float_accuracy']:.4f};"
        f" {gate['referral_agreement']:.2%} of the referrals are the same; its heatmaps correlate"
        f" {gate['mean_heatmap_correlation']:.3f} with float's.",
    ]


def _data_table(counts: Mapping[str, Mapping[str, int]] | None, labels: Sequence[str]) -> str:
    if not counts:
        return "The model does not say how many scans it had."
    rows = [
        f"| {split} | {' | '.join(str(counts.get(split, {}).get(name, 0)) for name in labels)} |"
        for split in SPLITS
    ]
    return "\n".join(
        [f"| scans | {' | '.join(labels)} |", "|---" * (len(labels) + 1) + "|", *rows, ""]
    )


def _interval(share: list[float]) -> str:
    value, low, high, scans = share
    return f"{value:.1%} ({low:.1%} to {high:.1%}; {scans} scans)"


def _table_of_files(about: Mapping[str, Any]) -> str:
    kinds = {
        "classifier": "scans of any size, as many as you like; the preprocessing is inside",
        "classifier_mobile": "one resized scan, all shapes fixed: for CoreML, NNAPI, XNNPACK",
        "classifier_int8": "the same in 8-bit integers",
    }
    rows = [
        f"| `{name}.onnx` | {purpose} |"
        for name, purpose in kinds.items()
        if f"{name}.onnx" in about["files"]
    ]
    if "classifier_int8.onnx" not in about["files"]:
        rows.append(f"| no int8 model | {about['int8']['reason']} |")
    return "\n".join(["| file | for |", "|---|---|", *rows])


def _tensor_rows(tensors: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        f"| `{name}` | {tensor['type']} | [{', '.join(map(str, tensor['shape']))}]"
        f" | {_TENSORS[name]} |"
        for name, tensor in tensors.items()
    ]
    return "\n".join(["| tensor | type | shape | |", "|---|---|---|---|", *rows])


def _usability(checked: Mapping[str, Mapping[str, int]] | None) -> str:
    if checked is None:
        return "not checked"
    return "; ".join(
        f"{name}: {parts['supported_nodes']} of {parts['nodes']} operators in"
        f" {parts['partitions']} partition(s)"
        for name, parts in checked.items()
    )


_TENSORS = {
    "scans": "grey levels 0 to 255, rows from vitreous to choroid",
    "scan": "grey levels 0 to 255 of the resized scan, not normalised",
    "resized": "the scan as the network sees it; what the mobile models take",
    "probabilities": "in the order of the labels; sum to 1",
    "logits": "before temperature and softmax",
    "heatmap": "where the predicted class shows, over the input; peak about 1, or 0 throughout",
    "heatmaps": "the same for every class, at the network's own resolution",
    "outlier_score": "above 1: unlike the training scans, defer; above no_retina_threshold (in"
    " metadata.json): shows no retina at all",
}

_RESIZES = {
    "squash": "squash",
    "letterbox": "letterbox (the aspect ratio kept, black bands)",
    "crop": "the central square, resized",
    "retina": "white borders filled, a window of fixed physical size around the retina, resized",
}
_RESIZE_YOURSELF = (
    "Resize with an antialiased bicubic filter (a\nplain bilinear one changes the answers), or take"
    " `resized` of `classifier.onnx`;",
    "Take `resized` of `classifier.onnx`;",
)
