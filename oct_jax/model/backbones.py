"""Which backbone a name means, and where its first variables come from."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from oct_jax.model.mobilenet_v3 import Variant
from oct_jax.model.protocol import Pretrained, check_variables
from oct_jax.model.weights import load_weights
from oct_jax.types import UserError

DEFAULT = "mobilenetv3"
# Name -> module and class, imported when they are asked for: Keras takes seconds.
BACKBONES = {
    DEFAULT: "oct_jax.model.mobilenet_v3:MobileNetV3Config",
    "resnet50": "oct_jax.model.keras_backbone:ResNet50",
    "resnet152": "oct_jax.model.keras_backbone:ResNet152",
    "efficientnetb0": "oct_jax.model.keras_backbone:EfficientNetB0",
    "efficientnetb3": "oct_jax.model.keras_backbone:EfficientNetB3",
    "vit": "oct_jax.model.vit:ViT",
}


def config_class(name: str) -> Any:
    """The class of a backbone's configs: a `ModelConfig`.

    Args:
      name: a key of `BACKBONES`, or MODULE:CLASS of any `ModelConfig` that can be imported.

    Raises:
      UserError: there is no such backbone.
    """
    module, colon, attribute = BACKBONES.get(name, name).partition(":")
    if not colon:
        raise UserError(
            f"backbone={name}: choose one of {', '.join(BACKBONES)}, or MODULE:CLASS of your own"
        )
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"backbone={name}: cannot be imported ({error})") from error
    missing = [part for part in ("build", "fold") if not hasattr(kind, part)]
    if name != DEFAULT and not hasattr(kind, "load"):
        missing.append("load")
    if not dataclasses.is_dataclass(kind) or missing:
        raise UserError(
            f"backbone={name}: is no ModelConfig of oct_jax.model.protocol"
            f" (it must be a dataclass with build, fold and load); see docs/backbones.md"
        )
    return kind


def load_backbone(
    name: str = DEFAULT,
    weights: str = "random",
    *,
    num_classes: int = 4,
    seed: int = 0,
    variant: Variant = "large",
    width: float = 1.0,
) -> Pretrained:
    """First variables of a backbone.

    Args:
      name: of the backbone, as for `config_class`.
      weights: `random`, the path of a file, or a publisher's name: for MobileNetV3 as for
        `oct_jax.model.weights.load_weights`, for the others see docs/backbones.md.
      num_classes: length of the logits.
      seed: of whatever is fresh.
      variant: of random MobileNetV3.
      width: of random MobileNetV3.

    Raises:
      UserError: there is no such backbone, it has no such weights, or they are damaged.
    """
    if name == DEFAULT:
        pretrained = load_weights(
            weights, num_classes=num_classes, seed=seed, variant=variant, width=width
        )
    else:
        pretrained = config_class(name).load(weights, num_classes=num_classes, seed=seed)
    check_variables(pretrained.variables, pretrained.source.get("path", f"weights={weights}"))
    return pretrained
