"""Settings of every command: one frozen chz class each, whose fields are its `key=value` words."""

from oct_jax.commands.settings.benchmark import BenchmarkConfig
from oct_jax.commands.settings.data import AuditConfig, PrepareConfig
from oct_jax.commands.settings.demo import DemoConfig
from oct_jax.commands.settings.evaluate import (
    AdaptConfig,
    CompareConfig,
    EvaluateConfig,
    RecalibrateConfig,
)
from oct_jax.commands.settings.explain import ExplainConfig, ExplainReportConfig
from oct_jax.commands.settings.export import ExportConfig, ViewerConfig
from oct_jax.commands.settings.monitor import MonitorConfig, ReportConfig
from oct_jax.commands.settings.train import (
    FREE_ON_RESUME,
    REFERENCE,
    RUN_WIDE,
    AugmentSettings,
    TrainConfig,
)

__all__ = [
    "FREE_ON_RESUME",
    "REFERENCE",
    "RUN_WIDE",
    "AdaptConfig",
    "AuditConfig",
    "AugmentSettings",
    "BenchmarkConfig",
    "CompareConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "ExplainReportConfig",
    "ExportConfig",
    "MonitorConfig",
    "PrepareConfig",
    "RecalibrateConfig",
    "ReportConfig",
    "TrainConfig",
    "ViewerConfig",
]
