"""What a run's own files say of it, gathered for reports: settings, data, training, evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from oct_jax.classifier import Classifier
from oct_jax.data.manifest import Record, read_manifest
from oct_jax.decision.rule import DecisionRule
from oct_jax.files import read_json
from oct_jax.runs.config import RunConfig, read_run_config
from oct_jax.runs.paths import STAGES
from oct_jax.runs.verified import fingerprint, report_path
from oct_jax.types import SPLITS


@dataclass(frozen=True)
class RunFacts:
    """A run as its folder tells it; paths are relative to the folder.

    Attributes:
      folder: of the run.
      model: fingerprint of the weights of its latest stage.
      parameters: number of values in the weights, BatchNorm folded.
      config: what its stages share.
      provenance: `provenance.json`, as it is.
      records: of its manifest.
      stages: settings of each stage that was begun, by its name.
      rule: the decision rule; None where there is none.
      internal: the evaluation of this very model on the run's own test scans; None where there is
        none.
      external: its evaluations on other scans, by path of the report.
      heatmaps: the faithfulness report of this very model; None where there is none.
    """

    folder: Path
    model: str
    parameters: int
    config: RunConfig
    provenance: Mapping[str, Any]
    records: tuple[Record, ...]
    stages: Mapping[str, Mapping[str, Any]]
    rule: DecisionRule | None
    internal: Mapping[str, Any] | None
    external: Mapping[str, Mapping[str, Any]]
    heatmaps: Mapping[str, Any] | None

    def counts(self, label: str | None = None) -> dict[str, tuple[int, int]]:
        """Scans and patients in each split, of one class or of all."""
        chosen = [r for r in self.records if label in (None, r.label)]
        return {
            split: (
                sum(record.split == split for record in chosen),
                len({record.patient for record in chosen if record.split == split}),
            )
            for split in SPLITS
        }


def gather(folder: Path, classifier: Classifier) -> RunFacts:
    """The facts of a run.

    Args:
      folder: of the run.
      classifier: of its latest stage.

    Raises:
      UserError: a file of the run is damaged or gone.
    """
    model = fingerprint(classifier)
    stages = {
        stage: read_json(folder / stage / "config.json", dict[str, Any])
        for stage in STAGES
        if (folder / stage / "config.json").is_file()
    }
    reports = {
        path.relative_to(folder).as_posix(): report
        for path in sorted((folder / "evaluation").glob("**/report.json"))
        if (report := read_json(path, dict[str, Any])).get("model") == model
    }
    heatmaps = None
    if report_path(folder).is_file():
        heatmaps = read_json(report_path(folder), dict[str, Any])
    provenance = folder / "provenance.json"
    return RunFacts(
        folder=folder,
        model=model,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(classifier.variables.params)),
        config=read_run_config(folder),
        provenance=read_json(provenance, dict[str, Any]) if provenance.is_file() else {},
        records=read_manifest(folder / "manifest.csv"),
        stages=stages,
        rule=classifier.rule,
        internal=reports.pop("evaluation/report.json", None),
        external=reports,
        heatmaps=heatmaps if heatmaps and heatmaps.get("model") == model else None,
    )
