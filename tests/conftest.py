"""Settings that every test shares: deterministic laws, one compilation cache, the real scans."""

import os
import subprocess
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Shared by all workers and by the commands that tests start: XLA compiles a program once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

hypothesis.settings.register_profile(
    "oct_jax",
    max_examples=int(os.environ.get("OCT_EXAMPLES", "20")),
    derandomize=bool(os.environ.get("CI")),
    deadline=None,
    print_blob=True,
)
hypothesis.settings.load_profile("oct_jax")


@pytest.fixture(scope="session")
def real_scans() -> Path:
    """The folder of real scans that `OCT_DATA` names."""
    return _from_environment("OCT_DATA", "real OCT scans, ROOT/{CNV,DME,DRUSEN,NORMAL}/*.jpeg")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """The ImageNet weights that `OCT_WEIGHTS` names."""
    return _from_environment("OCT_WEIGHTS", "a MobileNetV3-Large minimalistic .safetensors file")


@pytest.fixture
def small_disk(tmp_path):
    """An empty file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=500K", "tmpfs", str(folder)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(command, check=False).returncode == 0
    except (OSError, AttributeError):
        mounted = False
    if not mounted:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _from_environment(name: str, what: str) -> Path:
    if name not in os.environ:
        pytest.skip(f"{name} is not set; it names {what}")
    return Path(os.environ[name]).expanduser().resolve()
