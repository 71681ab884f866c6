"""BatchNorm folded into the convolutions before it: the one form that inference runs."""

import dataclasses

from oct_jax.model.mobilenet_v3 import MobileNetV3Config
from oct_jax.model.protocol import Tree, Variables


def fold(variables: Variables, config: MobileNetV3Config) -> tuple[Variables, MobileNetV3Config]:
    """Rewrites a trained model as the same function without BatchNorm.

    With running mean m and variance v, scale g and shift b (Jacob et al. 2018, section 3.2):
    W' = W g / sqrt(v + epsilon) and b' = b - m g / sqrt(v + epsilon). Evaluation output is that
    of the unfolded model up to rounding; `stats` is left without a leaf.

    Args:
      variables: of the unfolded model.
      config: of the unfolded model.

    Returns:
      The variables and the config of the folded model; a folded one is returned as it is.
    """
    if config.folded:
        return variables, config
    backbone = _fold(variables.params["backbone"], variables.stats["backbone"], config.bn_epsilon)
    params = {**variables.params, "backbone": backbone}
    return Variables(params, {"backbone": {}}), dataclasses.replace(config, folded=True)


def _fold(params: Tree, stats: Tree, epsilon: float) -> Tree:
    if "scale" not in params:
        return {
            name: _fold(child, stats[name], epsilon) if name in stats else child
            for name, child in params.items()
        }
    # Every kernel has its output channels last, so one product fits all three shapes. Operators
    # alone, so that NumPy's arrays fold without compiling anything.
    gain = params["scale"] / (stats["var"] + epsilon) ** 0.5
    return {"kernel": params["kernel"] * gain, "bias": params["bias"] - stats["mean"] * gain}
