"""`evaluate report`: checklists for a reviewer, model card and data card from a run's own files.

<run>/report/
  index.html     both checklists
  CLAIM.md, TRIPOD+AI.md, MODEL_CARD.md, DATA_CARD.md
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from oct_jax.commands.settings import ReportConfig
from oct_jax.files import write_together
from oct_jax.reports.sheet.cards import data_card, model_card
from oct_jax.reports.sheet.checklists import SOURCES, counts, fill, to_html, to_markdown
from oct_jax.runs.facts import gather
from oct_jax.runs.load import load_run
from oct_jax.runs.ownership import claim_folder
from oct_jax.runs.paths import find_run


def write_report(config: ReportConfig, console: Console) -> None:
    """Writes the sheet, and says how much of it the run could fill.

    Raises:
      UserError: no trained run, a file of it that is damaged, or a folder with other files.
    """
    run = find_run(config.run)
    out = Path(config.out) if config.out else run / "report"
    facts = gather(run, load_run(run))
    claim_folder(out)
    write_together(
        {
            out / "CLAIM.md": to_markdown("CLAIM 2024", facts),
            out / "TRIPOD+AI.md": to_markdown("TRIPOD+AI", facts),
            out / "MODEL_CARD.md": model_card(facts),
            out / "DATA_CARD.md": data_card(facts),
            out / "index.html": to_html(facts),
        }
    )
    for name, (items, _) in SOURCES.items():
        console.print(f"{name}: {counts(fill(items, facts))}", markup=False)
    if facts.internal is None:
        console.print(
            "the run's test scans were not evaluated with this model: `just evaluate` first fills"
            " more items",
            markup=False,
        )
    console.print(f"{out / 'index.html'}", markup=False)
