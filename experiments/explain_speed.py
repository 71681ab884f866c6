"""What an explanation costs: ours against our forward pass, and against pytorch-grad-cam.

    python experiments/explain_speed.py PYTHON_WITH_TORCH

MobileNetV3-Large at 224x224 with random weights, 1000 classes for the library's and 4 for ours (the
head is 1 % of the work). PYTHON_WITH_TORCH names an interpreter that has torch, torchvision and
grad-cam; it runs in a process of its own that waits while we are timed. Rounds of the three take
turns, so that a busy machine slows them alike; medians of the rounds are printed.
"""

import json
import statistics
import subprocess
import sys
import time

import jax
import numpy as np

from oct_jax.data.preprocess import Preprocess
from oct_jax.explain.gradcam import PREDICTED, make_explain
from oct_jax.model.fold import fold
from oct_jax.model.inference import make_forward
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import build

SIZE = 224
ROUNDS = {1: 30, 32: 9}
PEER = """
import sys, time, warnings
warnings.filterwarnings("ignore")
import torch, torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
torch.manual_seed(0)
model = torchvision.models.mobilenet_v3_large().eval()
cam = GradCAM(model, [model.features[-1]])
for line in sys.stdin:
    batch = int(line)
    images = torch.rand(batch, 3, 224, 224)
    targets = [ClassifierOutputTarget(0)] * batch
    begun = time.perf_counter()
    cam(images, targets)
    print(time.perf_counter() - begun, flush=True)
"""


def seconds(function, *arguments) -> float:
    """Wall time of one call, its result computed."""
    begun = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - begun


def main() -> None:
    """Prints one JSON line for each batch size: milliseconds for an image, and the two ratios."""
    preprocess = Preprocess(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
    unfolded = MobileNetV3Config()
    variables, config = fold(build(unfolded).init(0), unfolded)
    model = build(config)
    forward, explain = make_forward(model, preprocess), make_explain(model, preprocess)
    with subprocess.Popen(
        [sys.argv[1], "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        for batch, rounds in ROUNDS.items():
            scans = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE), np.uint8)
            targets = np.full(batch, PREDICTED, np.int32)
            times: dict[str, list[float]] = {"forward": [], "explain": [], "pytorch-grad-cam": []}
            for _ in range(rounds + 1):
                times["forward"].append(seconds(forward, variables, scans))
                times["explain"].append(seconds(explain, variables, scans, targets))
                print(batch, file=peer.stdin, flush=True)
                times["pytorch-grad-cam"].append(float(peer.stdout.readline()))
            # The first round compiles.
            each = {name: 1e3 * statistics.median(t[1:]) / batch for name, t in times.items()}
            row = {"batch": batch} | {f"{name} ms": round(ms, 2) for name, ms in each.items()}
            row["over forward"] = round(each["explain"] / each["forward"], 2)
            row["over pytorch-grad-cam"] = round(each["explain"] / each["pytorch-grad-cam"], 2)
            print(json.dumps(row))
        peer.stdin.close()


if __name__ == "__main__":
    main()
