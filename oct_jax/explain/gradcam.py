"""Class activation maps: where in the last feature map the evidence for a class lies.

Grad-CAM is `jax.grad` of a logit of the head over the last feature map. `gradcam-dense` weighs, by
the same gradient, the channels of the dense feature map, which has one position more between any
two: logits and weights are the same, and so is the map at the positions that both have. The module
stands beside the other inference forms because all that needs it (classifier, reports, export)
comes after.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

from oct_jax.arrays import AnyArray, FeatureMap, LabelBatch, ScanBatch
from oct_jax.data.preprocess import Preprocess, normalise
from oct_jax.model.inference import Outputs, first_rows, join_rows, pad_batch
from oct_jax.model.layers import Activation, global_average_pool
from oct_jax.model.protocol import DenseModel, Model, Tree, Variables
from oct_jax.types import UserError

Method: TypeAlias = Literal["gradcam-dense", "gradcam", "gradcam++", "hirescam", "eigencam"]
Maps: TypeAlias = Float[Array, "batch _rows _columns"]
OneMap: TypeAlias = Float[Array, "rows columns"]
OneFeatureMap: TypeAlias = Float[Array, "rows columns features"]

PREDICTED = -1
"""As a target: the class with the largest logit."""


class Explained(NamedTuple):
    """What the model makes of scans, and where.

    Attributes:
      outputs: logits and pooled features.
      maps: float32 (scans, rows, columns), as `saliency` gives them.
    """

    outputs: Outputs
    maps: Float32[AnyArray, "scans rows columns"]


Explain: TypeAlias = Callable[
    [Variables, UInt8[AnyArray, "batch size size"], Int32[AnyArray, "batch"]], Explained
]


def gradcam(features: OneFeatureMap, gradients: Float[Array, "_rows _columns features"]) -> OneMap:
    """Sum of the channels, each weighed by its mean gradient (Selvaraju et al. 2017, eq. 1-2)."""
    return features @ gradients.mean((0, 1))


def gradcam_plus_plus(features: OneFeatureMap, gradients: OneFeatureMap) -> OneMap:
    """Weighs positive gradients by position (Chattopadhay et al. 2018, eq. 11 and 19)."""
    square = gradients**2
    denominator = 2 * square + features.sum((0, 1)) * square * gradients
    # A gradient of 0 says nothing; the library that most people compare with adds 1e-6 too.
    alpha = jnp.where(gradients != 0, square / (denominator + 1e-6), 0)
    return features @ (jax.nn.relu(gradients) * alpha).sum((0, 1))


def hirescam(features: OneFeatureMap, gradients: OneFeatureMap) -> OneMap:
    """Products of feature and gradient, summed over channels (Draelos and Carin 2020, eq. 4).

    Under a head that begins with global average pooling every position has the same gradient,
    and this is Grad-CAM.
    """
    return (features * gradients).sum(-1)


def eigencam(features: OneFeatureMap, gradients: OneFeatureMap) -> OneMap:
    """Projection on the first principal direction (Muhammad and Yeasin 2020); of no one class."""
    del gradients
    rows, columns, channels = features.shape
    flat = features.reshape(rows * columns, channels)
    # The first left singular vector, from the small matrix of positions rather than of channels.
    values, vectors = jnp.linalg.eigh(flat @ flat.T)
    first = vectors[:, -1] * jnp.sqrt(jnp.maximum(values[-1], 0))
    # A singular vector has no sign; features are mostly positive, so the map should be.
    return (first * jnp.where(first.sum() < 0, -1, 1)).reshape(rows, columns)


METHODS: dict[Method, Callable[[OneFeatureMap, OneFeatureMap], OneMap]] = {
    "gradcam-dense": gradcam,
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "eigencam": eigencam,
}


def saliency(
    model: Model,
    variables: Variables,
    features: FeatureMap,
    targets: Int32[AnyArray, "batch"],
    method: Method = "gradcam",
) -> Maps:
    """The map of each scan for its own target class.

    Args:
      model: its `head` is differentiated.
      variables: of the model.
      features: the last feature map, (batch, rows, columns, channels); of `gradcam-dense` the
        model's `dense_features`, whose every second row and column are that map.
      targets: indices into the classes.
      method: a name of `METHODS`.

    Returns:
      float32 of (batch, rows, columns): ReLU of the method's sum, divided by its maximum; in
      [0, 1], and all 0 where nothing speaks for the class.
    """

    def logit(one, target):
        return model.head(variables, one[None])[0, target]

    step = step_of(method)

    def one_map(one, target):
        return METHODS[method](one, jax.grad(logit)(one[::step, ::step], target))

    return normalise_maps(jax.vmap(one_map)(features.astype(jnp.float32), jnp.asarray(targets)))


def step_of(method: Method) -> int:
    """Every how many rows and columns of what a method maps are the last feature map."""
    return 2 if method == "gradcam-dense" else 1


def closed_form(
    head: Tree,
    features: FeatureMap,
    targets: Int32[AnyArray, "batch"],
    activation: Activation,
) -> Maps:
    """Grad-CAM of a pool, linear, activation, linear head without automatic differentiation.

    With pooled features p, the gradient of logit t over p is W1 (f'(W1^T p + b1) * W2[:, t]); over
    the feature map it is the same at every position, divided by their number. Plain arithmetic,
    so it can be exported; equal to `saliency` by a test.

    Args:
      head: `variables.params["head"]` of a MobileNetV3.
      features: (batch, rows, columns, channels).
      targets: indices into the classes.
      activation: of the hidden layer.

    Returns:
      As `saliency`.
    """
    hidden, classifier = head["hidden"], head["classifier"]
    pooled = global_average_pool(features.astype(jnp.float32))[:, 0, 0]
    slope = _slope(pooled @ hidden["kernel"] + hidden["bias"], activation)
    weights = (slope * classifier["kernel"].T[jnp.asarray(targets)]) @ hidden["kernel"].T
    positions = features.shape[1] * features.shape[2]
    return normalise_maps(jnp.einsum("bhwk,bk->bhw", features, weights / positions))


def normalise_maps(maps: Maps) -> Maps:
    """ReLU, then division of each map by its maximum; a map without a positive value is 0."""
    positive = jax.nn.relu(maps)
    peak = positive.max((1, 2), keepdims=True)
    return jnp.where(peak > 0, positive / jnp.where(peak > 0, peak, 1), 0)


@functools.lru_cache(maxsize=8)
def make_explain(
    model: Model, preprocess: Preprocess, method: Method = "gradcam", *, flip: bool = False
) -> Explain:
    """The jitted function from resized grey scans and targets to logits, features and maps.

    Logits, features and maps are one program, so the forward pass runs once.

    Args:
      model: the folded model.
      preprocess: how its input is normalised.
      method: a name of `METHODS`.
      flip: average with the map of the mirrored scan, mirrored back.
    """

    step = step_of(method)

    def features_of(variables, scans):
        images = normalise(scans, preprocess)
        if method != "gradcam-dense":
            return model.features(variables, images, train=False)[0]
        if not isinstance(model, DenseModel):
            raise UserError(f"method={method}: only backbone=mobilenetv3 has it; use gradcam")
        return model.dense_features(variables, images)

    @jax.jit
    def explain(variables, scans, targets):
        scans = jnp.asarray(scans)
        features = features_of(variables, scans)
        last = features[:, ::step, ::step]
        logits = model.head(variables, last)
        targets = jnp.where(targets == PREDICTED, logits.argmax(-1), targets).astype(jnp.int32)
        maps = saliency(model, variables, features, targets, method)
        if flip:
            mirrored = features_of(variables, scans[:, :, ::-1])
            mirrored_maps = saliency(model, variables, mirrored, targets, method)
            maps = normalise_maps(maps + mirrored_maps[:, :, ::-1])
        pooled = model.pool(last)[:, 0, 0].astype(jnp.float32)
        return Explained(Outputs(logits, pooled), maps)

    return explain


def explain_all(
    explain: Explain, variables: Variables, batches: Iterable[tuple[ScanBatch, LabelBatch]]
) -> Explained:
    """Outputs and maps for all scans of all (scans, targets); see `inference.predict_all`."""
    parts = []
    for scans, targets in batches:
        padded = pad_batch(scans)
        spare = len(padded) - len(scans)
        explained = explain(variables, padded, np.pad(targets, (0, spare), mode="edge"))
        parts.append(first_rows(explained, len(scans)))
    return join_rows(parts)


def _slope(x: Array, activation: Activation) -> Array:
    if activation == "relu":
        return (x > 0).astype(x.dtype)
    inside = (2 * x + 3) / 6  # of x (x + 3) / 6
    return jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, inside))
