"""The page as one file: template, styles, scripts, and the model as base64 of gzip."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from PIL import Image

from oct_jax.arrays import ScanArray
from oct_jax.classifier import Classifier
from oct_jax.data.readers import decode_scan
from oct_jax.export.golden import Golden
from oct_jax.export.viewer.facts import page_facts
from oct_jax.export.viewer.modules import join_modules
from oct_jax.export.viewer.packages import PackedFile, read_packages

_FOLDER = Path(__file__).parent
_PLANES = 4  # bytes of a float32
GENERATOR = '<meta name="generator" content="oct_jax viewer">'
"""Tells a page of ours, near its beginning."""
_LIBRARIES = (
    "pako/dist/pako_inflate.min.js",
    "utif2/UTIF.js",
    "dicom-parser/dist/dicomParser.min.js",
)


def build_viewer(
    model: bytes,
    classifier: Classifier,
    golden: Golden,
    name: str,
    test: Mapping[str, Any] | None = None,
) -> str:
    """The page, as text of one HTML file.

    Args:
      model: `classifier.onnx`, which takes raw scans.
      classifier: that it was made of.
      golden: scans and answers for the self-test.
      name: of its run or file.
      test: figures of a bundle's test scans, where they were measured.

    Raises:
      MissingPackages: see `read_packages`.
    """
    packages = read_packages()
    assets = {
        "worker": _pack(_worker_script(packages).encode()),
        "glue": packages["onnxruntime-web/dist/ort-wasm-simd-threaded.mjs"],
        "wasm": packages["onnxruntime-web/dist/ort-wasm-simd-threaded.wasm"],
        "model": PackedFile(model, _gzip(_split_planes(model))),
        "golden": _pack(json.dumps(_self_test(golden)).encode()),
    }
    config = {
        "about": page_facts(classifier, name, model, test),
        "assets": {
            key: {"sha256": hashlib.sha256(asset.content).hexdigest()}
            | ({"planes": _PLANES} if key == "model" else {})
            for key, asset in assets.items()
        },
        "colours": base64.b64encode(_heat_colours().tobytes()).decode(),
    }
    script = f"const CONFIG = {_for_script(config)};\n{join_modules('main.mjs')}"
    styles = _source("styles.css")
    return Template(_source("template.html")).substitute(
        policy=_policy(script, styles),
        title="Retinal OCT screening",
        styles=styles,
        script=script,
        licences=_escaped(_licences(packages)),
        assets="\n".join(_element(key, asset.packed) for key, asset in assets.items()),
    )


def _policy(script: str, styles: str) -> str:
    """A content security policy under which nothing is fetched or sent."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash_source(script)} 'wasm-unsafe-eval' blob:",
            f"style-src {_hash_source(styles)}",
            "worker-src blob:",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash_source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _worker_script(packages: Mapping[str, PackedFile]) -> str:
    names = (
        "pako/dist/pako_inflate.min.js",
        "utif2/UTIF.js",
        "dicom-parser/dist/dicomParser.min.js",
    )
    libraries = [_quiet(packages[name].text) for name in names]
    runtime = _quiet(packages["onnxruntime-web/dist/ort.wasm.min.js"].text)
    return "\n".join([*libraries, f"{runtime}\nself.ort = ort;", join_modules("worker.mjs")])


def _quiet(script: str) -> str:
    """Without the link to a source map; with a `process`, for want of which UTIF logs."""
    lines = [line for line in script.splitlines() if not line.startswith("//# sourceMappingURL=")]
    return "self.process ??= { env: {} };\n" * ("UTIF" in script) + "\n".join(lines)


def _split_planes(content: bytes) -> bytes:
    """All first bytes of four, then all second ones, ...: so floats compress better.

    Weights that float16 holds exactly take half the space so, and none is changed.
    """
    levels = np.frombuffer(content, np.uint8)
    return b"".join(levels[plane::_PLANES].tobytes() for plane in range(_PLANES))


def _self_test(golden: Golden) -> dict[str, Any]:
    kept = ("logits", "heatmaps", "outlier_score", "label", "prediction_set", "referral")
    scans = [
        {name: case[name] for name in kept} | _grey(scan)
        for case, scan in zip(golden.answers, golden.scans.values(), strict=True)
    ]
    return {"scans": scans, "pictures": _test_pictures(next(iter(golden.scans.values())))}


def _test_pictures(scan: ScanArray) -> list[dict[str, Any]]:
    """Small files of each format that a browser may decode its own way, and their grey levels."""
    height, width = scan.shape
    grey = Image.fromarray(scan[height // 3 :, width // 3 :][:45, :61])
    levels = np.asarray(grey)
    colour = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.ROTATE_180), grey])
    deep = Image.fromarray(levels.astype(np.uint16) * 16 + 7)
    pictures: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", grey, {"quality": 90}),
        ("JPEG", grey, {"quality": 60, "progressive": True}),
        ("colour JPEG", colour, {"quality": 90, "subsampling": 2}),
        ("colour JPEG", colour, {"quality": 90, "subsampling": 0}),
        ("PNG", grey, {}),
        ("PNG", deep, {}),
        ("TIFF", deep, {"compression": "tiff_lzw"}),
        ("TIFF", grey, {"compression": "tiff_adobe_deflate"}),
        ("BMP", colour, {}),
    ]
    cases = []
    for kind, picture, options in pictures:
        file = io.BytesIO()
        picture.save(file, kind.rpartition(" ")[2], **options)
        data = file.getvalue()
        encoded = base64.b64encode(data).decode()
        cases.append({"format": kind, "file": encoded} | _grey(decode_scan(data, kind)))
    return cases


def _grey(scan: ScanArray) -> dict[str, Any]:
    encoded = base64.b64encode(scan.tobytes()).decode()
    return {"height": scan.shape[0], "width": scan.shape[1], "grey": encoded}


def _heat_colours() -> np.ndarray:
    """256 RGB triples of the colour map of `oct_jax.reports.overlay`."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    return cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[0, :, ::-1]


def _licences(packages: Mapping[str, PackedFile]) -> str:
    return "\n\n".join(
        [_source("licences.txt").strip()]
        + [
            f"{name}\n\n{packages[f'{name}/LICENSE'].text.strip()}"
            for name in ("utif2", "pako", "dicom-parser")
        ]
    )


def _element(name: str, packed: bytes) -> str:
    content = base64.b64encode(packed).decode()
    return f'<script type="text/plain" id="asset-{name}">{content}</script>'


def _pack(content: bytes) -> PackedFile:
    return PackedFile(content, _gzip(content))


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


def _for_script(value: Any) -> str:
    """JSON that may stand inside of a script element."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _source(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8").replace("\r\n", "\n")
