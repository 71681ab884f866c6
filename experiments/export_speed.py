"""What the exported files cost, against torchvision's own export of the same network.

    python experiments/export_speed.py PYTHON_WITH_TORCH BUNDLE [BUNDLE ...]

Batch 1, 224x224 (the any-size file: from 496x512), two threads. Ours gives probabilities, all
heatmaps and the outlier score, torchvision's mobilenet_v3_large (1000 classes, no heatmap) its
logits. PYTHON_WITH_TORCH names an interpreter that has torch, torchvision and onnxscript, to export
it with. Rounds take turns, so that a busy machine slows all alike. Beside the bundles (whose
networks may be minimalistic) a network of torchvision's own architecture with random weights is
exported here: the like-for-like comparison, synthetic. Prints one JSON line for each file: the
median of rounds.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime

from oct_jax.classifier import Classifier
from oct_jax.data.phantom import phantom_scan
from oct_jax.data.preprocess import Preprocess, resize_scan
from oct_jax.export.graph import make_graphs
from oct_jax.export.quantize import RECIPES, quantize
from oct_jax.model.fold import fold
from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Variables, build
from oct_jax.task import KERMANY

ROUNDS, REPEATS = 40, 4
PEER = """
import sys, warnings
warnings.filterwarnings("ignore")
import torch, torchvision
torch.manual_seed(0)
model = torchvision.models.mobilenet_v3_large().eval()
image = torch.rand(1, 3, 224, 224)
torch.onnx.export(model, (image,), sys.argv[1], dynamo=True, external_data=False)
"""


def random_large(folder: Path) -> list[Path]:
    """Our float and int8 files of torchvision's architecture, with random weights."""
    unfolded = MobileNetV3Config("large")
    rng = np.random.default_rng(0)
    params, stats = jax.tree.map(np.asarray, build(unfolded).init(0))
    stats = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            rng.uniform(0.5, 1.5, leaf.shape)
            if path[-1].key == "var"
            else rng.normal(0, 0.1, leaf.shape)
        ).astype(np.float32),
        stats,
    )
    folded, config = fold(Variables(params, stats), unfolded)
    preprocess = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    variables = jax.tree.map(jnp.asarray, folded)
    classifier = Classifier(build(config), variables, preprocess, True, "frozen")
    graphs = make_graphs(classifier)
    mobile = graphs.mobile
    scans = [phantom_scan(name, rng).image for name in KERMANY.classes]
    inputs = np.stack([resize_scan(scan, preprocess) for scan in scans])
    onnx.save(graphs.any_size, folder / "large_random.onnx")
    onnx.save(mobile, folder / "large_random_mobile.onnx")
    onnx.save(quantize(mobile, RECIPES[0], inputs), folder / "large_random_int8.onnx")
    return [folder / f"large_random{form}.onnx" for form in ("", "_mobile", "_int8")]


def opened(path: Path):
    """A function that runs the model once."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tensor = session.get_inputs()[0]
    rng = np.random.default_rng(0)
    if tensor.type == "tensor(uint8)":  # any size: from a scan of the usual one
        values = {tensor.name: rng.integers(0, 256, (1, 496, 512), np.uint8)}
    else:
        image = rng.uniform(size=tensor.shape).astype(np.float32)
        values = {tensor.name: image * (255 if tensor.shape[1] == 1 else 1)}
    return lambda: session.run(None, values)


def main(python: str, bundles: list[Path]) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = folder / "torchvision.onnx"
        subprocess.run([python, "-c", PEER, str(peer)], check=True, stdout=subprocess.DEVNULL)
        paths = [peer, *random_large(folder)]
        for bundle in bundles:
            names = ("classifier.onnx", "classifier_mobile.onnx", "classifier_int8.onnx")
            paths += [bundle / name for name in names if (bundle / name).is_file()]
        functions = {path: opened(path) for path in paths}
        times: dict[Path, list[float]] = {path: [] for path in paths}
        for _ in range(ROUNDS):
            for path, function in functions.items():
                function()  # brings it back into the caches
                for _ in range(REPEATS):
                    begun = time.perf_counter()
                    function()
                    times[path].append(time.perf_counter() - begun)
        median = {path: 1e3 * statistics.median(values) for path, values in times.items()}
        for path in paths:
            row = {
                "file": path.name if path.parent == folder else str(path),
                "ms": round(median[path], 2),
                "fastest ms": round(1e3 * min(times[path]), 2),
                "MB": round(path.stat().st_size / 1e6, 2),
                "over torchvision": round(median[path] / median[peer], 2),
            }
            exact = path.with_name(path.name.replace("int8", "mobile"))
            if exact != path:
                row["over our float"] = round(median[path] / median[exact], 2)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [Path(word) for word in sys.argv[2:]])
