"""What a bundle tells people: `README.md` for who builds with it, `MODEL_CARD.md` for all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from oct_jax.runs.verified import FaithfulnessReport
from oct_jax.types import CLASSES, SPLITS

HOW_TO_DECIDE = (
    "The set holds class c where probabilities[c] >= set_thresholds[c]. Its tiers are those of its"
    " classes; urgent is added where the probabilities of the urgent classes sum to"
    " urgent_threshold or more. The referral is defer (to a person) where the set is empty, where"
    " there is more than one tier, or where outlier_score > 1; else it is the one tier."
)


def readme(about: Mapping[str, Any]) -> str:
    """The bundle's README: what is in it, and complete programs in four languages."""
    files = about["files"]
    any_size, mobile = files["classifier.onnx"], files["classifier_mobile.onnx"]
    decided = about["decision"]["calibrated"]
    scored = "outlier_score" in any_size["outputs"]
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
        "how": HOW_TO_DECIDE if decided else "This run has no decision rule: no referral is given.",
        "calibrated": "calibrated" if decided else "NOT calibrated",
        "python": _python(decided, scored),
        "javascript": _javascript(decided, scored),
        "kotlin": _KOTLIN,
        "swift": _SWIFT,
    }
    return Template(_README).substitute(parts)


def _python(decided: bool, scored: bool) -> str:
    outlier = 'float(outputs["outlier_score"][0]) > 1' if scored else "False"
    end = _PYTHON_DECISION if decided else _PYTHON_LABEL
    return _PYTHON + end.replace("@OUTLIER@", outlier)


def _javascript(decided: bool, scored: bool) -> str:
    outlier = "outputs.outlier_score.data[0] > 1" if scored else "false"
    end = _JAVASCRIPT_DECISION if decided else _JAVASCRIPT_LABEL
    return _JAVASCRIPT.replace("@END@\n", end.replace("@OUTLIER@", outlier))


def model_card(about: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """The model card, after Mitchell et al. 2019, from the run's own evidence."""
    run, model, decision = about["run"], about["model"], about["decision"]
    weights = run["weights"]
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
        f"- run `{run['name']}`, stage `{model['stage']}`, seed {run['seed']}, trained"
        f" {run['trained']}; parameters SHA-256 `{model['sha256']}`",
        f"- licence of the software: {about['licence']}; the training data has its own terms",
        "",
        "## Intended use",
        "",
        "Research on retinal OCT B-scans: which of CNV, DME, DRUSEN or NORMAL a scan looks like,"
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
        _data_table(run["scans"]),
        f"Splits share no patient. Manifest SHA-256 `{run['data_manifest_sha256']}`.",
        "",
        "## Evidence",
        "",
        *_measured(about["test"], about["synthetic"]),
        *_decided(decision),
        *_evaluated(evidence.get("evaluation")),
        *_explained(evidence.get("explanation")),
        *_int8(about["int8"]),
        "",
        "## Limits",
        "",
        "- Figures are of the run's own data, split by patient; another hospital's scans will give"
        " others. Intervals treat scans as independent, which scans of one patient are not.",
        "- A heatmap's resolution is a seventh of the scan's width, its peak is 1 even where the"
        " evidence is weak, and it shows where, not why.",
        "- Coverage of sets and sensitivity of the urgent threshold hold for scans like the"
        " calibration scans, for no others.",
        "- Only the four classes exist for it: a fifth disease gets one of their names or `defer`.",
        "",
    ]
    return "\n".join(lines)


def _measured(test: Mapping[str, Any] | None, synthetic: bool) -> list[str]:
    if test is None:
        return ["Not measured on export: the run's test scans were not at hand."]
    kind = "SYNTHETIC test phantoms" if synthetic else "test scans"
    rows = [
        f"classifier_mobile.onnx on {test['scans']} {kind} (Wilson 95 % intervals over scans):",
        "",
        f"accuracy {_interval(test['accuracy'])}",
        "",
        "| class | sensitivity | specificity |",
        "|---|---|---|",
    ]
    rows += [
        f"| {name} | {_interval(test['sensitivity'][name])}"
        f" | {_interval(test['specificity'][name])} |"
        for name in CLASSES
    ]
    counts = ", ".join(f"{name} {count}" for name, count in test["referrals"].items())
    return [*rows, "", f"Referrals: {counts}."]


def _decided(decision: Mapping[str, Any]) -> list[str]:
    if not decision["calibrated"]:
        return ["", "Probabilities are not calibrated, and there is no referral rule."]
    thresholds = ", ".join(
        f"{name} {value:.4g}"
        for name, value in zip(CLASSES, decision["set_thresholds"], strict=True)
    )
    return [
        "",
        f"Decision rule: temperature {decision['temperature']:.4g}; sets with a coverage of"
        f" {decision['coverage']:.0%} asked in every class ({thresholds}); urgent from"
        f" {decision['urgent_threshold']:.4g} for a sensitivity of"
        f" {decision['sensitivity']:.0%} asked. Fitted on"
        f" `{json.dumps(decision['fitted_on'].get('scans'))}` calibration scans.",
    ]


def _evaluated(lines: Sequence[str] | None) -> list[str]:
    if lines is None:
        return ["", "The run was not evaluated with `just evaluate`: no intervals over patients."]
    return ["", "The run's own evaluation:", "", "```", *lines, "```"]


def _explained(report: FaithfulnessReport | None) -> list[str]:
    if report is None:
        return ["", "Heatmaps: **unverified**, the run has no faithfulness report of this model."]
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


def _data_table(counts: Mapping[str, Mapping[str, int]] | None) -> str:
    if not counts:
        return "The run does not say how many scans it had."
    rows = [
        f"| {split} | {' | '.join(str(counts[split][name]) for name in CLASSES)} |"
        for split in SPLITS
    ]
    return "\n".join([f"| scans | {' | '.join(CLASSES)} |", "|---" * 5 + "|", *rows, ""])


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
        f"| `{name}.onnx`, `{name}.ort` | {told} |"
        for name, told in kinds.items()
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


def _usability(found: Mapping[str, Mapping[str, int]] | None) -> str:
    if found is None:
        return "not checked"
    return "; ".join(
        f"{name}: {parts['supported_nodes']} of {parts['nodes']} operators in"
        f" {parts['partitions']} partition(s)"
        for name, parts in found.items()
    )


_TENSORS = {
    "scans": "grey levels 0 to 255, rows from vitreous to choroid",
    "scan": "grey levels 0 to 255 of the resized scan, not normalised",
    "resized": "the scan as the network sees it; what the mobile models eat",
    "probabilities": "in the order of the labels; sum to 1",
    "logits": "before temperature and softmax",
    "heatmap": "where the predicted class shows, over the input; peak about 1, or 0 throughout",
    "heatmaps": "the same for every class, at the network's own resolution",
    "outlier_score": "above 1: unlike the training scans, defer",
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

_README = """\
# $name: retinal OCT B-scans as CNV, DME, DRUSEN or NORMAL

**$research_use**

$files

`.ort` is onnxruntime's own format, for its reduced mobile builds; where you use the full library,
take `.onnx`. Labels, in this order: $labels. ONNX opset $opset, onnxruntime $lowest or newer. Each
`.onnx` file carries the content of `bundle.json` as metadata (`oct_jax.labels`, `oct_jax.decision`,
...). `MODEL_CARD.md` says what the model is fit for, and what it is not.

    python verify.py    # nothing changed, and the golden answers come out (numpy, onnxruntime)

## classifier.onnx

$input

$outputs

The preprocessing is in the graph: $resize to $size x $size by antialiased bicubic interpolation in
8-bit steps as Pillow does it, grey to channels, z-score. Give it the scan as it is. Colour becomes
grey before: (19595 R + 38470 G + 7471 B + 32768) >> 16.

## classifier_mobile.onnx, classifier_int8.onnx

$mobile_input

The outputs have the same names, `heatmap` is over the resized scan. The input is float32 and of
one fixed size because accelerators take nothing else. $resize_yourself
`golden/*.resized.pgm` show what should come out. By onnxruntime's checker: $usability.

## From probabilities to a referral

Probabilities are $calibrated. $how All numbers are in `bundle.json` under `decision`.

## Golden scans

`golden/*.pgm` are synthetic scans; `golden/golden.json` has what the original program makes of
them: logits, probabilities, heatmaps, outlier score, referral. Your program should give the same
(probabilities within 0.001). The Python and JavaScript programs below are tested as they stand
here; the Kotlin and Swift ones are not compiled by our tests.

## Python

`pip install numpy onnxruntime`

```python
$python```

## JavaScript

`npm install onnxruntime-node`; in a browser, `onnxruntime-web` has the same interface.

```javascript
$javascript```

## Kotlin

`implementation("com.microsoft.onnxruntime:onnxruntime-android:$lowest")` or newer;
`classifier.onnx` in `assets`.

```kotlin
$kotlin```

## Swift

The Swift package `onnxruntime-swift-package-manager`, $lowest or newer; `classifier.onnx` in the
app.

```swift
$swift```
"""

_PYTHON = """\
import json

import numpy as np
import onnxruntime


def read_pgm(path):
    data = open(path, "rb").read()
    width, height = map(int, data.split(b"\\n", 2)[1].split())
    return np.frombuffer(data[-width * height :], np.uint8).reshape(height, width)


about = json.load(open("bundle.json", encoding="utf-8"))
session = onnxruntime.InferenceSession("classifier.onnx", providers=["CPUExecutionProvider"])
# uint8 (height, width); of other files: numpy.asarray(PIL.Image.open(path).convert("L"))
scan = read_pgm("golden/cnv.pgm")
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(names, {"scans": scan[None]})))
probabilities = outputs["probabilities"][0]
heatmap = outputs["heatmap"][0]  # float32 (height, width), over the scan
label = about["labels"][int(np.argmax(probabilities))]
"""

_PYTHON_DECISION = """\

rule = about["decision"]
members = [
    name
    for name, p, threshold in zip(about["labels"], probabilities, rule["set_thresholds"])
    if p >= threshold
]
tiers = {rule["tiers"][name] for name in members}
urgent = sum(
    float(p)
    for name, p in zip(about["labels"], probabilities)
    if rule["tiers"][name] == "urgent"
)
if urgent >= rule["urgent_threshold"]:
    tiers.add("urgent")
outlier = @OUTLIER@
referral = tiers.pop() if members and len(tiers) == 1 and not outlier else "defer"
print(json.dumps({"label": label, "referral": referral, "probabilities": probabilities.tolist()}))
"""

_PYTHON_LABEL = """\
print(json.dumps({"label": label, "probabilities": probabilities.tolist()}))
"""

_JAVASCRIPT = """\
const fs = require("node:fs");
const ort = require("onnxruntime-node");

function readPgm(path) {
  const file = fs.readFileSync(path);
  const [width, height] = file.toString("latin1", 0, 64).split("\\n")[1].split(" ").map(Number);
  return { width, height, pixels: new Uint8Array(file.subarray(file.length - width * height)) };
}

async function main() {
  const about = JSON.parse(fs.readFileSync("bundle.json", "utf8"));
  const session = await ort.InferenceSession.create("classifier.onnx");
  const { width, height, pixels } = readPgm("golden/cnv.pgm"); // grey levels, row by row
  const scans = new ort.Tensor("uint8", pixels, [1, height, width]);
  const outputs = await session.run({ scans });
  const probabilities = Array.from(outputs.probabilities.data);
  const heatmap = outputs.heatmap.data; // Float32Array, height * width, over the scan
  const label = about.labels[probabilities.indexOf(Math.max(...probabilities))];
@END@
}

main();
"""

_JAVASCRIPT_DECISION = """\

  const rule = about.decision;
  const members = about.labels.filter((_, c) => probabilities[c] >= rule.set_thresholds[c]);
  const tiers = new Set(members.map((name) => rule.tiers[name]));
  const urgent = about.labels
    .map((name, c) => (rule.tiers[name] === "urgent" ? probabilities[c] : 0))
    .reduce((a, b) => a + b);
  if (urgent >= rule.urgent_threshold) tiers.add("urgent");
  const outlier = @OUTLIER@;
  const sure = members.length > 0 && tiers.size === 1 && !outlier;
  const referral = sure ? [...tiers][0] : "defer";
  console.log(JSON.stringify({ label, referral, probabilities }));
"""

_JAVASCRIPT_LABEL = """\
  console.log(JSON.stringify({ label, probabilities }));
"""

_KOTLIN = """\
import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.content.Context
import android.graphics.Bitmap
import java.nio.ByteBuffer
import java.nio.ByteOrder

class Answer(val probabilities: FloatArray, val heatmap: Array<FloatArray>)

class OctClassifier(context: Context) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val session: OrtSession =
        environment.createSession(context.assets.open("classifier.onnx").use { it.readBytes() })

    /** Probabilities of CNV, DME, DRUSEN, NORMAL, and a heatmap as large as the scan. */
    fun classify(scan: Bitmap): Answer {
        val shape = longArrayOf(1, scan.height.toLong(), scan.width.toLong())
        OnnxTensor.createTensor(environment, grey(scan), shape, OnnxJavaType.UINT8).use { scans ->
            session.run(mapOf("scans" to scans)).use { outputs ->
                @Suppress("UNCHECKED_CAST")
                val probabilities = outputs.get("probabilities").get().value as Array<FloatArray>
                @Suppress("UNCHECKED_CAST")
                val heatmap = outputs.get("heatmap").get().value as Array<Array<FloatArray>>
                return Answer(probabilities[0], heatmap[0])
            }
        }
    }

    private fun grey(scan: Bitmap): ByteBuffer {
        val colours = IntArray(scan.width * scan.height)
        scan.getPixels(colours, 0, scan.width, 0, 0, scan.width, scan.height)
        val levels = ByteBuffer.allocateDirect(colours.size).order(ByteOrder.nativeOrder())
        for (colour in colours) {
            val red = colour shr 16 and 0xff
            val green = colour shr 8 and 0xff
            val blue = colour and 0xff
            levels.put((19595 * red + 38470 * green + 7471 * blue + 32768 shr 16).toByte())
        }
        levels.rewind()
        return levels
    }

    override fun close() = session.close()
}
"""

_SWIFT = """\
import CoreGraphics
import Foundation
import OnnxRuntimeBindings

struct Answer {
    let probabilities: [Float]  // of CNV, DME, DRUSEN, NORMAL
    let heatmap: [Float]  // height * width, row by row, over the scan
}

final class OctClassifier {
    private let environment: ORTEnv
    private let session: ORTSession

    init(modelPath: String) throws {
        environment = try ORTEnv(loggingLevel: .warning)
        session = try ORTSession(env: environment, modelPath: modelPath, sessionOptions: nil)
    }

    func classify(_ scan: CGImage) throws -> Answer {
        let (width, height) = (scan.width, scan.height)
        let levels = NSMutableData(length: width * height)!
        // The space that the grey levels are in already, so that they are copied as they are.
        let space = scan.colorSpace?.model == .monochrome
            ? scan.colorSpace! : CGColorSpaceCreateDeviceGray()
        let context = CGContext(
            data: levels.mutableBytes, width: width, height: height, bitsPerComponent: 8,
            bytesPerRow: width, space: space, bitmapInfo: CGImageAlphaInfo.none.rawValue)!
        context.draw(scan, in: CGRect(x: 0, y: 0, width: width, height: height))

        let shape = [1, height, width].map { NSNumber(value: $0) }
        let scans = try ORTValue(tensorData: levels, elementType: .uInt8, shape: shape)
        let outputs = try session.run(
            withInputs: ["scans": scans], outputNames: ["probabilities", "heatmap"],
            runOptions: nil)
        return Answer(
            probabilities: try floats(outputs["probabilities"]!),
            heatmap: try floats(outputs["heatmap"]!))
    }

    private func floats(_ value: ORTValue) throws -> [Float] {
        let data = try value.tensorData() as Data
        return data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}
"""
