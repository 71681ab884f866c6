"""How Sphinx makes the book: `just docs`."""

from __future__ import annotations

import re
import textwrap
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from oct_jax.commands import parsing, settings

project = "oct_jax"
author = "the oct_jax authors"
copyright = "the oct_jax authors; Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = "oct_jax"
html_static_path: list[str] = []
html_theme_options = {
    "announcement": "Research use. Not a medical device: not fit to diagnose or to treat.",
}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
# The tutorial is committed with its outputs, and run again by a test.
nb_execution_mode = "off"
nb_merge_streams = True
# Prompts are no part of a command.
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# A name in single backquotes is code, as the docstrings mean it.
default_role = "code"


# A shape such as Float["rows columns"] looks like names to refer to; the notebook's lexer knows no
# shell command of several lines.
suppress_warnings = ["ref.python", "misc.highlighting_failure"]


def as_rst(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Mends what our docstrings write otherwise than reStructuredText has it."""
    # `Name`s: the end of a literal must be told apart from what follows it.
    text = re.sub(r"`[^`]+`(?:\w)?", _parted, "\n".join(lines).strip())
    if what == "module":  # a table of files or commands, its columns set by spaces
        parts = text.split("\n\n")
        tables = [
            all(re.search(r"\S  +\S|^ ", line) for line in part.split("\n")) for part in parts
        ]
        text = "\n\n".join(
            "::\n\n" + textwrap.indent(part, "    ") if table else part
            for part, table in zip(parts, tables, strict=True)
        )
    lines[:] = [*text.split("\n"), ""]


def _parted(literal: re.Match[str]) -> str:
    text = literal[0]
    return text if text.endswith("`") else f"{text[:-1]}\\ {text[-1]}"


def experiments_in_the_book(app: Sphinx, name: str, source: list[str]) -> None:
    """Leads links to the experiments' README to the page that includes it."""
    source[0] = source[0].replace("](../experiments/README.md", "](experiments.md")


class Settings(SphinxDirective):
    """Every setting of a command, from its configuration: ``{settings} TrainConfig``."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """A definition list, as `--help` tells it."""
        rows = nodes.definition_list()
        for key in parsing.keys_of(getattr(settings, self.arguments[0])):
            name = nodes.term("", "", nodes.literal(text=key.name))
            told = f"{key.doc} ({key.choices}; default: {key.default})"
            rows += nodes.definition_list_item(
                "", name, nodes.definition("", nodes.paragraph(text=told))
            )
        return [rows]


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the directive and the mending."""
    app.add_directive("settings", Settings)
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("source-read", experiments_in_the_book)
    return {"parallel_read_safe": True}
