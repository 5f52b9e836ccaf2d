"""The frozen vision transformer, cut at the points where the adaptation streams join it.

A block is `z = x + attn(norm1(x))`, then `z + mlp(norm2(z))` (pre-norm; LayerNorm eps 1e-6, exact GELU, qkv bias,
learned positions, class token; Dosovitskiy et al., arXiv:2010.11929). The streams need `attend` and `mlp` apart.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.config.data import NORMALIZATIONS, Normalize

LAYER_NORM_EPS = 1e-6  # of the published ViTs; torch's own default is 1e-5
KeysValues = Callable[[Array, Array, Array], tuple[Array, Array]]
"""Changes what a block attends to: see `Block.attend`."""


class Levels(NamedTuple):
    """What a network makes of images, at every depth.

    Attributes:
        final: what its classifier reads.
        tokens: what comes out of each block, the class token first; out of the last block the class token alone.
    """

    final: Float[Array, "b e"]
    tokens: tuple[Float[Array, "b _ d"], ...]


def layer_norm(dim: int, dtype: Any, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Make a LayerNorm over channels with the variance computed in two passes (the fast formula cancels)."""
    return nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, dtype=dtype, use_fast_variance=False, rngs=rngs)


def attention(
    q: Float[Array, "b r h d"], k: Float[Array, "b l h d"], v: Float[Array, "b l h d"]
) -> Float[Array, "b r h d"]:
    """Softmax attention by JAX's plain implementation.

    Fused kernels save nothing at 200 tokens and have no forward-mode derivative.
    """
    if q.dtype != jnp.float64:
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")
    # JAX's softmax would round to float32 here, and float64 is for checking float32.
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


class Block(nnx.Module):
    """One frozen transformer block."""

    def __init__(self, config: BackboneConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        """Allocate the block's parameters."""
        dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
        init = nnx.initializers.truncated_normal(0.02)

        def linear(fan_in: int, fan_out: int) -> nnx.Linear:
            return nnx.Linear(fan_in, fan_out, dtype=dtype, kernel_init=init, rngs=rngs)

        self.heads = config.heads
        self.norm1 = layer_norm(dim, dtype, rngs)
        self.qkv = linear(dim, 3 * dim)
        self.proj = linear(dim, dim)
        self.norm2 = layer_norm(dim, dtype, rngs)
        self.fc1 = linear(dim, hidden)
        self.fc2 = linear(hidden, dim)

    def attend(
        self, x: Float[Array, "b l d"], rows: int | None = None, change: KeysValues | None = None
    ) -> Float[Array, "b r d"]:
        """Compute `x + attn(norm1(x))` for the first `rows` rows (all when None).

        Keys and values always come from every row, so `rows=1` gives exactly the class row of the full result at a
        fraction of the cost: that is all that the last block is asked for.

        The barriers make XLA keep each sum of the residual stream. Without them it adds up all earlier blocks' terms
        again wherever the sum is read, and a backward pass through ten blocks takes twice as long on a CPU.

        Args:
            x: tokens.
            rows: how many of the first rows to compute.
            change: (norm1(x), keys, values) -> the keys and values to use instead; they may have more rows.
        """
        x = jax.lax.optimization_barrier(x)
        d = x.shape[-1]
        h = self.norm1(x)
        if rows is None:
            q, k, v = jnp.split(self.qkv(h), 3, axis=-1)
        else:
            # The products of `self.qkv`, queries of the first rows only
            x = x[:, :rows]
            assert self.qkv.bias is not None  # nnx.Linear has one unless told otherwise
            kernel, bias = self.qkv.kernel[...].astype(h.dtype), self.qkv.bias[...].astype(h.dtype)
            q = h[:, :rows] @ kernel[:, :d] + bias[:d]
            k, v = jnp.split(h @ kernel[:, d:] + bias[d:], 2, axis=-1)
        if change is not None:
            k, v = change(h, k, v)
        # [b, rows, heads, d / heads]
        heads = [t.reshape(*t.shape[:2], self.heads, d // self.heads) for t in (q, k, v)]
        return jax.lax.optimization_barrier(x + self.proj(attention(*heads).reshape(*q.shape)))

    def mlp(self, u: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Compute `mlp(norm2(u))`, without the residual."""
        return self.fc2(jax.nn.gelu(self.fc1(self.norm2(u)), approximate=False))


class ViT(nnx.Module):
    """Vision transformer without a classification head; its feature is the final-norm class token.

    Attributes:
        normalize: what is done to pixels in [0, 1] before the patch embedding, and nowhere else.
        remat: recompute block activations in the backward pass.
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        normalize: Normalize = "none",
        rngs: nnx.Rngs,
    ) -> None:
        """Allocate a backbone of the given shape; `dtype` is that of the arithmetic, parameters are float32."""
        init = nnx.initializers.truncated_normal(0.02)
        self.patch_size = config.patch_size
        self.dtype = dtype
        self.remat = remat
        self.normalize = normalize
        # A convolution whose stride is its width is a matrix product with the flattened patches
        inputs = config.patch_size**2 * config.channels
        self.patch_embed = nnx.Linear(inputs, config.dim, dtype=dtype, kernel_init=init, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, 1, config.dim)))
        self.positions = nnx.Param(init(rngs.params(), (1, config.tokens, config.dim)))
        self.blocks = nnx.List([Block(config, dtype, rngs) for _ in range(config.depth)])
        self.norm = layer_norm(config.dim, dtype, rngs)

    def embed(self, images: Float[Array, "b h w c"]) -> Float[Array, "b l d"]:
        """Turn images (pixels in [0, 1]) into tokens: class token first, then patches row by row, plus positions."""
        if self.normalize != "none":
            mean, std = (jnp.asarray(values, images.dtype) for values in NORMALIZATIONS[self.normalize])
            images = (images - mean) / std
        b, h, w, c = images.shape
        p = self.patch_size
        # [b, h/p, p, w/p, p, c] -> [b, patches, p p c]
        patches = images.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * p * c)
        tokens = self.patch_embed(patches)
        class_token = jnp.broadcast_to(self.class_token[...].astype(tokens.dtype), (b, 1, tokens.shape[-1]))
        return jnp.concatenate([class_token, tokens], axis=1) + self.positions[...].astype(tokens.dtype)

    def checkpointed(self, f: Callable[..., Array]) -> Callable[..., Array]:
        """Wrap a block's function so that its activations are recomputed when `remat` is set."""
        return jax.checkpoint(f) if self.remat else f

    def class_feature(self, x: Float[Array, "b l d"]) -> Float[Array, "b d"]:
        """Final norm of the class row, in float32 at least."""
        row = self.norm(x[:, 0])  # a norm works row by row
        return row.astype(jnp.promote_types(row.dtype, jnp.float32))

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Feature of the untouched backbone.

        Args:
            images: pixels in [0, 1].

        Returns:
            The final-norm class token of each image, float32.
        """
        return self.levels(images).final

    def levels(self, images: Float[Array, "b h w c"]) -> Levels:
        """The feature and the tokens of every block of the untouched backbone, by one pass.

        Args:
            images: pixels in [0, 1].
        """
        x, tokens = self.embed(images), []
        for i, block in enumerate(self.blocks, start=1):
            # The last block is read at the class row alone
            z = block.attend(x, 1 if i == len(self.blocks) else None)
            x = z + block.mlp(z)
            tokens.append(x)
        return Levels(self.class_feature(x), tuple(tokens))
