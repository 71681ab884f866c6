"""Classifies one scan with the bundle in this folder, and prints the answer as JSON."""

import json
from pathlib import Path

import numpy as np
import onnxruntime


def read_pgm(path):
    """A binary PGM file as uint8 (height, width)."""
    data = path.read_bytes()
    width, height = map(int, data.split(b"\n", 2)[1].split())
    return np.frombuffer(data[-width * height :], np.uint8).reshape(height, width)


about = json.loads(Path("bundle.json").read_text(encoding="utf-8"))
golden = json.loads(Path("golden/golden.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession("classifier.onnx", providers=["CPUExecutionProvider"])
# uint8 (height, width); of other files: numpy.asarray(PIL.Image.open(path).convert("L"))
scan = read_pgm(Path("golden") / golden["scans"][0]["scan"])
names = [output.name for output in session.get_outputs()]
values = map(np.asarray, session.run(names, {"scans": scan[None]}))
outputs = dict(zip(names, values, strict=True))
probabilities = outputs["probabilities"][0]
heatmap = outputs["heatmap"][0]  # float32 (height, width), over the scan
answer = {
    "label": about["labels"][int(np.argmax(probabilities))],
    "probabilities": probabilities.tolist(),
}

rule = about["decision"]
if rule["calibrated"]:
    members = [
        name
        for name, p, threshold in zip(
            about["labels"], probabilities, rule["set_thresholds"], strict=True
        )
        if p >= threshold
    ]
    tiers = {rule["tiers"][name] for name in members}
    urgent = sum(
        float(p)
        for name, p in zip(about["labels"], probabilities, strict=True)
        if rule["tiers"][name] == "urgent"
    )
    if urgent >= rule["urgent_threshold"]:
        tiers.add("urgent")
    outlier = "outlier_score" in outputs and float(outputs["outlier_score"][0]) > 1
    sure = members and len(tiers) == 1 and not outlier
    answer["referral"] = (tiers.pop() if sure else None) or "defer"
    if not any(rule["tiers"].values()):
        answer["referral"] = None  # this task is classified, not referred
print(json.dumps(answer))
