"""What is imported, and when: a mistake in the arguments must not wait for JAX to load."""

import subprocess
import sys

import pytest
from narrow_run import make_run

from oct_jax import load

HEAVY = {
    *("jax", "jaxlib", "flax", "optax", "orbax", "grain", "jaxtyping", "tensorflow_datasets"),
    *("numpy", "scipy", "sklearn", "cv2", "PIL", "h5py", "matplotlib", "onnx", "pooch", "rich"),
}


def imported_by(*arguments, code=0):
    """The top-level packages that a Python process imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_importing_the_package_imports_nothing_heavy():
    assert imported_by("-c", "import oct_jax").isdisjoint({*HEAVY, "chz"})


@pytest.mark.parametrize(
    "command",
    [
        *("train", "evaluate", "evaluate recalibrate", "evaluate compare", "benchmark", "explain"),
        *("export", "data audit"),
    ],
)
@pytest.mark.parametrize(("argument", "code"), [("nosuch=1", 2), ("--help", 0)])
def test_a_wrong_argument_and_help_import_nothing_heavy(command, argument, code):
    module, *name = command.split()
    words = ("-m", f"oct_jax.{module}", *name, argument)
    assert imported_by(*words, code=code).isdisjoint(HEAVY)


@pytest.mark.parametrize("command", ["evaluate", "evaluate recalibrate", "explain", "export"])
def test_a_run_that_is_not_there_is_reported_before_anything_heavy_is_imported(command, tmp_path):
    module, *words = command.split()
    words += [f"run={tmp_path}"]
    if module == "explain":
        (tmp_path / "a.png").touch()
        words.insert(0, str(tmp_path / "a.png"))
    assert imported_by("-m", f"oct_jax.{module}", *words, code=2).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "words",
    [
        ("stage=frozen", "data=nosuch"),
        ("stage=frozen", "manifest=no.csv"),
        ("stage=finetune", "run=new"),
    ],
)
def test_training_reports_what_is_not_there_before_anything_heavy_is_imported(words):
    assert imported_by("-m", "oct_jax.train", *words, code=2).isdisjoint(HEAVY)


def test_a_model_file_is_used_without_what_trains_and_with_one_compiled_program(tmp_path):
    load(make_run(tmp_path / "run")).save(tmp_path / "model.safetensors")
    script = f"""
import sys
import jax
import numpy as np
from oct_jax import load
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **rest: compiled.append(event) if "backend_compile" in event else None
)
load({str(tmp_path / "model.safetensors")!r}).predict(np.zeros((32, 48), np.uint8))
unwanted = ("orbax", "grain", "tensorstore", "chz", "pooch", "oct_jax.train", "oct_jax.commands")
print([name for name in sys.modules if name.startswith(unwanted)], len(compiled))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[] 1\n", done.stdout + done.stderr


def test_a_model_file_that_is_not_there_is_reported_before_anything_heavy_is_imported(tmp_path):
    (tmp_path / "a.png").touch()
    words = (str(tmp_path / "a.png"), f"model={tmp_path / 'none.safetensors'}")
    assert imported_by("-m", "oct_jax.explain", *words, code=2).isdisjoint(HEAVY)
