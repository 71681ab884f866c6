"""ECMAScript modules as one classic script: a page opened from a disk can load no modules."""

from __future__ import annotations

import re
from pathlib import Path

_FOLDER = Path(__file__).parent
_IMPORT = re.compile(r'^import [^;]*? from "\./([\w-]+\.mjs)";\n', re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let)\b)", re.MULTILINE)
_DECLARED = re.compile(r"^(?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)


def join_modules(entry: str) -> str:
    """One script of a module and all that it imports, each after what it needs.

    The modules share one scope, so each top-level name must be declared once; names are imported
    as they are exported.

    Args:
      entry: file name of the module that starts everything.

    Raises:
      ValueError: a name is declared in two modules, or a line is neither kind of import or export
        that is known here.
    """
    joined: dict[str, str] = {}
    _add(entry, joined)
    script = "\n".join(joined.values())
    names = _DECLARED.findall(script)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{entry}: {repeated[0]} is declared in two modules")
    left = re.search(r"^(?:import|export)\b.*", script, re.MULTILINE)
    if left:
        raise ValueError(f"{entry}: cannot join {left.group()!r}")
    return f'(() => {{\n"use strict";\n{script}\n}})();\n'


def _add(name: str, joined: dict[str, str]) -> None:
    if name in joined:
        return
    source = (_FOLDER / name).read_text(encoding="utf-8")
    for needed in _IMPORT.findall(source):
        _add(needed, joined)
    joined[name] = _EXPORT.sub("", _IMPORT.sub("", source))
