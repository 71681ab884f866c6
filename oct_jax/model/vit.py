"""A Vision Transformer of Flax's layers, without a class token (Beyer et al. 2022).

"Better plain ViT baselines for ImageNet-1k" pools the tokens and adds fixed sine and cosine
positions: then every token of the last layer is a position of a feature map under the same head
as a convolutional network's, the image may have any size that patches tile, and Grad-CAM is what
it is elsewhere. With a class token the gradient over the last layer's patch tokens would be zero.
"""

import functools
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from oct_jax.arrays import FeatureMap, Images
from oct_jax.files import PositiveInt
from oct_jax.model.pooled import PooledModel
from oct_jax.model.protocol import Tree, initial, normal
from oct_jax.types import UserError


@dataclass(frozen=True)
class ViT(PooledModel):
    """ViT-S/16 (Touvron et al. 2021's small): 12 blocks of width 384 with 6 heads."""

    patch: PositiveInt = 16
    width: PositiveInt = 384
    depth: PositiveInt = 12
    heads: PositiveInt = 6

    def backbone_shapes(self) -> tuple[Tree, Tree]:
        """Those of `Transformer`, which has no statistics."""
        return nnx.to_pure_dict(_split(self)[1]), {}

    def fresh(self, path: str, shape: tuple[int, ...], seed: int) -> Array:
        """Kernels N(0, 0.02^2), as timm draws them; biases 0, scales 1."""
        if path.startswith("backbone/") and path.endswith("/kernel"):
            return normal(path, shape, seed, 0.02)
        return initial(path, shape, seed)

    def backbone(
        self, params: Tree, stats: Tree, images: Images, *, train: bool
    ) -> tuple[FeatureMap, Tree]:
        """Maps normalised images to (batch, height/16, width/16, width)."""
        height, width = images.shape[1:3]
        if height % self.patch or width % self.patch:
            raise UserError(
                f"image_size={height}: patches must tile it; give a multiple of {self.patch}"
            )
        transformer = nnx.merge(_split(self)[0], nnx.State(params), copy=True)
        return transformer(images), stats


class Block(nnx.Module):
    """Attention, then two linear layers, each on normalised tokens and added to them."""

    def __init__(self, config: ViT, *, rngs: nnx.Rngs):
        width, dtype = config.width, jnp.dtype(config.dtype)
        self.norm1 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            config.heads, width, dtype=dtype, decode=False, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.widen = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Tokens to tokens."""
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(nnx.gelu(self.widen(self.norm2(x))))


class Transformer(nnx.Module):
    """Images to tokens, laid out as the rows and columns of patches that they come from."""

    def __init__(self, config: ViT, *, rngs: nnx.Rngs):
        width, dtype, patch = config.width, jnp.dtype(config.dtype), (config.patch, config.patch)
        self.embed = nnx.Conv(
            len(config.mean), width, patch, strides=patch, padding="VALID", dtype=dtype, rngs=rngs
        )
        self.blocks = nnx.Dict({str(n): Block(config, rngs=rngs) for n in range(config.depth)})
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)

    def __call__(self, images: Images) -> FeatureMap:
        """Maps normalised images to (batch, height/patch, width/patch, width)."""
        patches = self.embed(images)
        batch, rows, columns, width = patches.shape
        x = (patches + positions(rows, columns, width).astype(patches.dtype)).reshape(
            batch, rows * columns, width
        )
        for number in range(len(self.blocks)):
            x = self.blocks[str(number)](x)
        return self.norm(x).reshape(batch, rows, columns, width)


def positions(rows: int, columns: int, width: int) -> Float[Array, "_rows _columns _width"]:
    """Sines and cosines of the row, then of the column, at width/4 frequencies each."""
    frequencies = 10_000.0 ** -jnp.linspace(0, 1, width // 4)
    y = jnp.arange(rows, dtype=jnp.float32)[:, None, None] * frequencies
    x = jnp.arange(columns, dtype=jnp.float32)[None, :, None] * frequencies
    parts = [jnp.sin(y), jnp.cos(y), jnp.sin(x), jnp.cos(x)]
    shape = (rows, columns, width // 4)
    return jnp.concatenate([jnp.broadcast_to(part, shape) for part in parts], axis=-1)


@functools.lru_cache(maxsize=8)
def _split(config: ViT) -> tuple[nnx.GraphDef, nnx.State]:
    module = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(module, nnx.Param)
    return graph, params
