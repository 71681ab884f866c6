"""Writes the page that answers scans in a browser."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from oct_jax.commands.settings import ViewerConfig
from oct_jax.export.description import name_of
from oct_jax.export.golden import make_golden
from oct_jax.export.graph import make_graphs
from oct_jax.export.viewer import build_viewer
from oct_jax.export.viewer.packages import read_packages
from oct_jax.export.viewer.page import GENERATOR
from oct_jax.files import write_atomic
from oct_jax.paths import expand_home
from oct_jax.runs.source import ModelSource
from oct_jax.types import UserError

_BEGINNING = 1000


def write_viewer(config: ViewerConfig, source: ModelSource, console: Console) -> Path:
    """Writes the page of a run or a model, whole or not at all.

    Raises:
      UserError: no such model, one that cannot be exported, a place that the page cannot take, or
        packages that cannot be had.
    """
    if source.note:
        console.print(source.note, markup=False)
    out = Path(expand_home(config.out))
    _check_place(out)
    read_packages()  # before the minutes of work
    classifier = source.load()
    model = make_graphs(classifier).any_size.SerializeToString(deterministic=True)
    page = build_viewer(model, classifier, make_golden(classifier), name_of(source))
    write_atomic(out, page)
    console.print(f"{out}: {len(page) / 1e6:.1f} MB; open it in a browser", markup=False)
    return out


def _check_place(out: Path) -> None:
    if not out.absolute().parent.is_dir():
        raise UserError(f"out={out}: there is no folder {out.absolute().parent}; make it first")
    if not out.exists():
        return
    if not out.is_file() or GENERATOR.encode() not in out.read_bytes()[:_BEGINNING]:
        raise UserError(f"out={out}: exists and is no page of oct_jax; give another out=")
