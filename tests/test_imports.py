"""Imports run one way: a subpackage uses those before it, never those after."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "oct_jax"
LIBRARY = (
    "types",
    "paths",
    "task",
    "arrays",
    "notebook",
    "cache",
    "files",
    "work_folder",
    "data",
    "provenance",
    "starter",
    "model",
    "decision",
    "train",
    "metrics",
    "explain",
    "prediction",
    "explanation",
    "model_file",
    "transfer",
    "classifier",
    "adaptation",
    "eye",
)
APPLICATION = ("runs", "reports", "export", "commands")
ORDER = (*LIBRARY, *APPLICATION)
# Doors: `python -m oct_jax.NAME` outside of a subpackage's `__main__`.
DOORS = ("benchmark", "demo", "evaluate")
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports_of(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return [name for name in found if name.split(".")[0] == "oct_jax"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_earlier_rooms(path):
    relative = path.relative_to(PACKAGE)
    if path.name in ("__init__.py", "__main__.py") and path.parent == PACKAGE:
        return  # the public API gathers from everywhere
    room = relative.parts[0].removesuffix(".py")
    if room in DOORS:
        return
    assert room in ORDER, f"{room} has no place in ORDER"
    # A room's __main__ is the outermost shell: it may use `command`, which ends every order.
    allowed = ORDER if path.name == "__main__.py" else ORDER[: ORDER.index(room) + 1]
    for module in imports_of(path):
        if module != "oct_jax":
            assert room_of(module) in allowed, f"{relative} imports {module}"


def test_nothing_imports_experiments_or_tests():
    for path in FILES:
        tree = ast.parse(path.read_text())
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not any(name.split(".")[0] in ("experiments", "tests") for name in names)
