"""Our heatmaps beside pytorch-grad-cam's, of the same weights on the same scans.

    python gradcam_peer.py RUN PYTHON masks=FOLDER [lesion=DME] [rounds=9]

RUN is a run of the minimalistic network; PYTHON an interpreter that has torch, timm and grad-cam.
timm's network gets the run's weights and the very inputs; both explain the class of the lesions.
Printed: the agreement of the maps before either is drawn over the scan, who finds the outlined
lesions once they are drawn, and the time of both for a batch of 32. Intervals are 95 % and draw
patients.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from heatmaps import TOLERANCE, outlined

from oct_jax import load
from oct_jax.classifier import Classifier
from oct_jax.data.preprocess import normalise, to_input_coordinates
from oct_jax.explain.faithfulness import patient_interval
from oct_jax.explain.gradcam import explain_all, make_explain
from oct_jax.explain.outlines import FIGURES, compare
from oct_jax.model.inference import make_forward
from oct_jax.model.porting import LAYOUTS, key_map
from oct_jax.model.protocol import path_name

BATCH = 32
PEER = """
import sys, time
import numpy as np, timm, torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

class Keeping(GradCAM):
    def get_cam_image(self, *args, **kwargs):
        self.unscaled = super().get_cam_image(*args, **kwargs)
        return self.unscaled

torch.set_num_threads(int(sys.argv[2]))
given = dict(np.load(sys.argv[1] + "/given.npz"))
images, targets, rounds = (given.pop(name) for name in ("images", "targets", "rounds"))
model = timm.create_model("tf_mobilenetv3_large_minimal_100", num_classes=int(given.pop("classes")))
state = model.state_dict()
for key, value in state.items():
    if key in given:
        value.copy_(torch.from_numpy(given.pop(key)).reshape(value.shape))
    elif key.endswith("running_var"):
        value.fill_(1 - 1e-3)  # with its epsilon: BatchNorm as the folded network has it
    elif key.endswith("running_mean"):
        value.zero_()
    elif "bn" in key and key.endswith("weight"):
        value.fill_(1)
    elif not key.endswith("num_batches_tracked"):
        raise SystemExit("no value for " + key)
assert not given, given.keys()
model.eval()
images = torch.from_numpy(images)
with torch.inference_mode():
    logits = model(images).numpy()
wanted = [ClassifierOutputTarget(int(target)) for target in targets]
with Keeping(model, [model.blocks[-1]]) as cam:
    drawn = cam(images, wanted)
    unscaled = cam.unscaled
    seconds = []
    for _ in range(int(rounds)):
        begun = time.perf_counter()
        cam(images[:32], wanted[:32])
        seconds.append(time.perf_counter() - begun)
np.savez(sys.argv[1] + "/made.npz", logits=logits, unscaled=unscaled, drawn=drawn, seconds=seconds)
"""


def timm_state(classifier: Classifier) -> dict[str, np.ndarray]:
    """The folded variables by timm's names, in torch's layouts."""
    layout = next(one for one in LAYOUTS if one.name == "timm")
    paths, _ = jax.tree_util.tree_flatten_with_path(classifier.variables.params)
    leaves = {path_name(path): np.asarray(leaf) for path, leaf in paths}
    back = {
        "conv": lambda w: w.transpose(3, 2, 0, 1),
        "depthwise": lambda w: w.transpose(3, 2, 0, 1),
        "matrix": lambda w: w.T,
        "vector": lambda w: w,
    }
    rows = key_map(layout, classifier.model.config)
    return {row.key: back[row.transform](leaves[row.leaf]) for row in rows}


def ask_peer(python: str, threads: int, **given: np.ndarray) -> dict[str, np.ndarray]:
    """What the library makes of it, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "given.npz", **given)
        subprocess.run([python, "-W", "ignore", "-c", PEER, folder, str(threads)], check=True)
        return dict(np.load(Path(folder) / "made.npz"))


def milliseconds(function, *arguments, rounds: int) -> float:
    """Median wall time of a call, after one that compiles."""
    times = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times[1:])


def main(words: list[str]) -> None:
    """Prints one JSON line for each comparison."""
    settings = dict(word.split("=", 1) for word in words[2:])
    rounds = int(settings.get("rounds", 9))
    classifier = load(words[0])
    lesion = settings.get("lesion", "DME")
    case = outlined(Path(settings["masks"]), classifier, lesion)
    assert case.lesions is not None
    images = np.asarray(normalise(case.inputs, classifier.preprocess)).transpose(0, 3, 1, 2)
    peer = ask_peer(
        words[1],
        len(os.sched_getaffinity(0)),
        **timm_state(classifier),
        images=images,
        targets=case.targets,
        classes=np.int64(len(classifier.task.classes)),
        rounds=np.int64(rounds),
    )
    explain = make_explain(classifier.model, classifier.preprocess)
    outputs, cells = explain_all(
        explain,
        classifier.variables,
        [
            (case.inputs[start : start + BATCH], case.targets[start : start + BATCH])
            for start in range(0, len(case.inputs), BATCH)
        ],
    )
    theirs = np.maximum(peer["unscaled"], 0)
    theirs = theirs / np.maximum(theirs.max((1, 2), keepdims=True), 1e-12)
    agreement = {
        "scans": len(cells),
        "logits, worst": float(np.abs(np.asarray(outputs.logits) - peer["logits"]).max()),
        "maps before drawing, worst of the peak": float(np.abs(np.asarray(cells) - theirs).max()),
    }
    print(json.dumps(agreement), flush=True)

    grid, size = classifier.grid, classifier.preprocess.size
    ours = [to_input_coordinates(one, grid, size) for one in np.asarray(cells)]
    hits = {
        name: np.array(
            [
                compare(heat, mask, round(TOLERANCE * size), np.random.default_rng(0))
                for heat, mask in zip(heats, case.lesions, strict=True)
            ],
            np.float64,
        )
        for name, heats in (("ours", ours), ("pytorch-grad-cam", peer["drawn"]))
    }
    hits["ours less theirs"] = hits["ours"] - hits["pytorch-grad-cam"]
    for name, rows in hits.items():
        intervals = {
            figure: patient_interval(column, case.patients, np.random.default_rng(0))
            for figure, column in zip(FIGURES[:4], rows.T, strict=False)
        }
        print(json.dumps({"maps": name} | intervals), flush=True)

    forward = make_forward(classifier.model, classifier.preprocess)
    scans, targets = case.inputs[:BATCH], case.targets[:BATCH]
    times = {
        "forward": milliseconds(forward, classifier.variables, scans, rounds=rounds),
        "explanation": milliseconds(explain, classifier.variables, scans, targets, rounds=rounds),
        "pytorch-grad-cam": 1e3 * float(np.median(peer["seconds"])),
    }
    ratios = {
        f"explanation / {name}": round(times["explanation"] / times[name], 2)
        for name in ("forward", "pytorch-grad-cam")
    }
    print(json.dumps({f"{name}, ms": round(ms, 1) for name, ms in times.items()} | ratios))


if __name__ == "__main__":
    main(sys.argv[1:])
