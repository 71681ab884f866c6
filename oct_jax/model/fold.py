"""BatchNorm folded into the convolutions before it: the one form that inference runs."""

import jax
import numpy as np

from oct_jax.model.protocol import ModelConfig, Tree, Variables


def fold(variables: Variables, config: ModelConfig) -> tuple[Variables, ModelConfig]:
    """Rewrites a trained model as the form that inference runs.

    Evaluation output is that of the unfolded model up to rounding. MobileNetV3 loses its
    BatchNorm; other backbones stay as they are, with BatchNorm in its evaluation form.

    Args:
      variables: of the unfolded model.
      config: of the unfolded model.

    Returns:
      The variables, as NumPy arrays, and the config of the folded model; a folded one is as it was.
    """
    # By NumPy: JAX would compile a small program for each of a hundred shapes.
    return config.fold(jax.tree.map(np.asarray, variables))


def fold_batch_norm(params: Tree, stats: Tree, epsilon: float) -> Tree:
    """Parameters of the same function without BatchNorm.

    With running mean m and variance v, scale g and shift b (Jacob et al. 2018, section 3.2):
    W' = W g / sqrt(v + epsilon) and b' = b - m g / sqrt(v + epsilon).

    Args:
      params: of a unit, `kernel`, `scale` and `bias`, or a tree of units.
      stats: `mean` and `var` of each unit, in the same tree.
      epsilon: that was added to variances.
    """
    if "scale" not in params:
        return {
            name: fold_batch_norm(child, stats[name], epsilon) if name in stats else child
            for name, child in params.items()
        }
    # Every kernel has its output channels last, so one product fits all three shapes. Operators
    # alone, so that NumPy's arrays fold without compiling anything.
    gain = params["scale"] / (stats["var"] + epsilon) ** 0.5
    return {"kernel": params["kernel"] * gain, "bias": params["bias"] - stats["mean"] * gain}
