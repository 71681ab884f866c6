"""Settings of `demo`."""

from __future__ import annotations

import chz

from oct_jax.commands.fields import not_empty


@chz.chz
class DemoConfig:
    """The whole way on synthetic scans: train both stages, evaluate, explain, export."""

    run: str = chz.field(default="runs/demo", validator=not_empty, doc="the run folder")
