"""The public API: every name is there, typed and described, and on a page of the reference."""

import ast
import dataclasses
import inspect
import re
import typing
from pathlib import Path

import pytest

import oct_jax
import oct_jax.train

PAGES = Path(__file__).parent.parent / "docs/api"
MODULES = (oct_jax, oct_jax.train)
NAMES = [
    pytest.param(module, name, id=f"{module.__name__}.{name}")
    for module in MODULES
    for name in module.__all__
]


def functions_of(value):
    """A function, or the public methods of a class."""
    if inspect.isfunction(value):
        return [value]
    if not inspect.isclass(value):
        return []
    plain = [getattr(member, "__func__", member) for member in vars(value).values()]
    return [
        member
        for member in plain
        if inspect.isfunction(member) and not member.__name__.startswith("_")
    ]


def fields_of(value):
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return getattr(value, "_fields", ())


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_name_says_what_it_takes_and_gives(module, name):
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value)
    for field in fields_of(value) if inspect.isclass(value) else ():
        assert re.search(rf"^ *{field}:", inspect.getdoc(value) or "", re.MULTILINE), field
    for function in functions_of(value):
        text, signature = inspect.getdoc(function), inspect.signature(function)
        assert text, function
        assert signature.return_annotation is not inspect.Signature.empty, function
        for parameter in signature.parameters.values():
            if parameter.name in ("self", "cls"):
                continue
            assert parameter.annotation is not inspect.Parameter.empty, (function, parameter)
            described = re.search(rf"^ *{parameter.name}:|`{parameter.name}`", text, re.MULTILINE)
            assert described, f"{function.__qualname__} does not describe {parameter.name}"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_names_are_listed_once_for_readers_for_checkers_and_for_python(module):
    lazy = {name for name in module.__all__ if name in module._HOMES}
    assert lazy | {"UserError"} >= set(module.__all__)
    assert lazy == set(module._HOMES)
    tree = ast.parse(Path(module.__file__).read_text())
    checked = {alias.name for node in ast.walk(tree) for alias in getattr(node, "names", ())}
    assert lazy <= checked
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        module.nosuch  # noqa: B018


def modules_of_the_reference():
    text = "\n".join(page.read_text() for page in PAGES.glob("*.md"))
    return set(re.findall(r"automodule:: (\S+)", text))


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_name_is_in_the_reference(module, name):
    home = getattr(module, "_HOMES", {}).get(name, "oct_jax.types")
    home = home if home.startswith("oct_jax") else f"{module.__name__}.{home}"
    described = modules_of_the_reference()
    value = getattr(module, name)
    defined = getattr(value, "__module__", home)
    assert {home, defined} & described, f"{home} is on no page of docs/api"


def test_public_annotations_can_be_resolved():
    for module in MODULES:
        for name in module.__all__:
            for function in functions_of(getattr(module, name)):
                assert isinstance(function.__annotations__, dict)
    assert typing.get_type_hints(oct_jax.from_arrays)["return"] is oct_jax.Scans
