"""Bundles with each file missing, cut or changed, and with files added: `verify` names it."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np

from fault_parts.runs import DAMAGES
from fault_parts.tally import Tally, attempt
from oct_jax.export import verify

ADDED = {
    "numpy.py": b"raise SystemExit(0)\n",
    "golden/extra.pgm": b"P5\n1 1\n255\n\0",
    "classifier_new.onnx": b"",
    ".hidden": b"",
}


def damaged_bundle(bundle: Path, seed: int) -> Tally:
    """Damages every file of a copy of a bundle, one at a time, and verifies it.

    A damaged bundle that verifies counts as wrong.
    """
    rng = np.random.default_rng(seed)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(bundle, Path(folder) / "bundle"))
        sums = copy / verify.SUMS
        for path in sorted(path for path in copy.rglob("*") if path.is_file()):
            data = path.read_bytes()
            for label, damage in DAMAGES.items():
                changed = damage(data, rng)
                path.unlink() if changed is None else path.write_bytes(changed)
                _verify(tally, copy, f"{path.relative_to(copy)} {label}")
                path.write_bytes(data)
        for name, content in ADDED.items():
            (copy / name).write_bytes(content)
            _verify(tally, copy, f"{name} added")
            (copy / name).unlink()
        lines = sums.read_text().splitlines(keepends=True)
        for number, line in enumerate(lines):
            sums.write_text("".join(lines[:number] + lines[number + 1 :]))
            _verify(tally, copy, f"{line.split()[1]} not in {verify.SUMS}")
            sums.write_text("".join(lines))
        (copy / "other.txt").write_text("")
        for name in ("/etc/hostname", "../other.txt", "."):
            sums.write_text("".join(lines) + f"{'0' * 64}  {name}\n")
            _verify(tally, copy, f"{name} in {verify.SUMS}")
    return tally


def _verify(tally: Tally, bundle: Path, label: str) -> None:
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = attempt(tally, label, lambda: verify.main([str(bundle)]))
    if code == 0:
        tally.add("wrong", f"{label}: verified")
    elif code is not None:
        tally.refused += 1
        lines = errors.getvalue().splitlines()
        if not lines or not all(line.startswith("error: ") for line in lines):
            tally.add("tracebacks", f"{label}: exit code {code}, {lines[:1]}")
