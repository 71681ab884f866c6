"""The starter model: a small classifier in the package, `load("starter")`; see its CARD.md."""

from pathlib import Path

NAME = "starter"
"""What it is called wherever a model is asked for."""
MODEL = Path(__file__).with_name("model.safetensors")
CARD = Path(__file__).with_name("CARD.md")
