"""What every test shares: settings of Hypothesis and XLA, one compilation cache, the real scans."""

import os
import subprocess
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Shared by all workers and by the commands that tests start: XLA compiles a program once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Most of the time of the tests is XLA's compiler's, for programs that run once on small images:
# without LLVM's optimisations, and with the older emitter of loops, it takes a fifth. For the
# programs that users run: `XLA_FLAGS= JAX_DISABLE_MOST_OPTIMIZATIONS=0 just test`.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

hypothesis.settings.register_profile(
    "oct_jax",
    max_examples=int(os.environ.get("OCT_EXAMPLES", "20")),
    derandomize=bool(os.environ.get("CI")),
    deadline=None,
    print_blob=True,
)
hypothesis.settings.load_profile("oct_jax")


@pytest.fixture
def optimised():
    """Programs as users run them: for tests that run longer than they take to compile."""
    import jax  # reads its settings, which are made above

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


# Groups of tests that take longest: begun first, so that none is left for one worker at the end.
LONGEST = ("commands/test_train.py", "commands/test_real_scans.py", "export")


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # absent with `-p no:xdist`
        config.option.loadscopereorder = False  # groups in the order of the tests


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """The tests of a file run on one worker, which makes what they share once."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group_of(item.path)))
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(_group_of(item.path), len(order)))


def _group_of(path: Path) -> str:
    place = path.relative_to(TESTS)
    # All files of `export` look at one bundle.
    return "export" if place.parts[0] == "export" else place.as_posix()


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
