"""`evaluate adapt`: a model file for a clinic, from its scans without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from oct_jax.adaptation import adapt as adapt_classifier
from oct_jax.commands.settings import AdaptConfig
from oct_jax.data.readers import UnreadableScan, read_scan
from oct_jax.paths import expand_home
from oct_jax.runs.source import find_source
from oct_jax.types import UserError


def adapt(config: AdaptConfig, scans: Sequence[Path], console: Console) -> None:
    """Adapts a model and writes it as one file.

    Unreadable files are named and left out.

    Raises:
      UserError: no model, too few scans, or `out` is there already.
    """
    out = Path(expand_home(config.out))
    if out.exists():
        raise UserError(f"out={out}: exists; name another file")
    source = find_source(config.run, config.model)
    if source.note:
        console.print(source.note, markup=False)
    classifier = source.load()
    readable = []
    for path in scans:
        try:
            readable.append(read_scan(path))
        except UnreadableScan as error:
            console.print(f"skipped: {error}", markup=False)
    adapted = adapt_classifier(classifier, readable, source=Path(config.data).name)
    adapted.classifier.save(out)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in adapted.priors.items())
    console.print(
        f"adapted to {adapted.scans} scans; {adapted.unreadable} pictures show no retina and were"
        f" left out\nestimated share of each class: {shares}\nwhat was promised for coverage and"
        f" sensitivity is not valid here: `just recalibrate model={out} data=FOLDER` fits it to"
        f" labelled scans\n{out}",
        markup=False,
    )
