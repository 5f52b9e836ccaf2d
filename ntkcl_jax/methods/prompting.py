"""What the prompt methods share: the query, cosine similarity to keys, and a pass with prompts.

The query of an image is the class feature of the untouched backbone: nothing trainable is in it, so it costs a forward
pass and no backward pass. Prefix-tuning (Li and Liang, arXiv:2101.00190) gives a block's attention more to read:
`softmax(q [p_k; k]ᵀ / √d) [p_v; v]`, p_k and p_v the prompt's rows in front of the keys and values of the tokens; no
position is embedded in a prompt, so it doesn't matter where in the row it stands.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.heads import unit
from ntkcl_jax.models.vit import Block, KeysValues, ViT

Prefix = tuple[Array, Array]
"""Rows in front of a block's keys and values: (l, d), or (b, l, d) where images have their own."""


def uniform(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw prompts or keys from U(-1, 1)."""
    return jax.random.uniform(key, shape, minval=-1, maxval=1)


def cosine(queries: Float[Array, "b d"], keys: Float[Array, "m d"]) -> Float[Array, "b m"]:
    """Cosine similarity of every query and every key."""
    return unit(queries) @ unit(keys).T


def mean_over(values: Float[Array, "b"], valid: Bool[Array, "b"]) -> Float[Array, ""]:
    """Mean over valid rows.

    Example:
        >>> float(mean_over(jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])))
        2.0
    """
    return jnp.sum(jnp.where(valid, values, 0)) / jnp.maximum(valid.sum(), 1)


def layers_of(wanted: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """Layers of a published recipe that a backbone has; its last one where it has none of them.

    Example:
        >>> layers_of((2, 3, 4), 12), layers_of((2, 3, 4), 4), layers_of((2, 3, 4), 2)
        ((2, 3, 4), (2, 3), (1,))
    """
    return tuple(layer for layer in wanted if layer < depth) or (depth - 1,)


def prefixed(prefix: Prefix) -> KeysValues:
    """Put a prefix in front of a block's keys and values."""

    def change(h: Array, k: Array, v: Array) -> tuple[Array, Array]:
        # [l, d] or [b, l, d] -> [b, l, d]
        rows = [jnp.broadcast_to(p.astype(k.dtype), (len(k), *p.shape[-2:])) for p in prefix]
        return jnp.concatenate([rows[0], k], axis=1), jnp.concatenate([rows[1], v], axis=1)

    return change


def encoded(
    vit: ViT, tokens: Float[Array, "b l d"], rows: int = 1, prefixes: Mapping[int, Prefix] | None = None
) -> Float[Array, "b r d"]:
    """First rows after all blocks and the final norm.

    Args:
        vit: the backbone.
        tokens: what enters the first block: the embedded image, perhaps behind prompt tokens.
        rows: how many rows to compute in the last block.
        prefixes: by block.

    Returns:
        The rows, in float32 at least.
    """
    blocks: list[Block] = list(vit.blocks)

    def block_of(i: int) -> Callable[[Array], Array]:
        change = prefixed(prefixes[i]) if prefixes and i in prefixes else None

        def run(x: Array) -> Array:
            # Of the last block only what is read is computed
            z = blocks[i].attend(x, rows if i == len(blocks) - 1 else None, change)
            return z + blocks[i].mlp(z)

        return run

    for i in range(len(blocks)):
        tokens = vit.checkpointed(block_of(i))(tokens)
    out = vit.norm(tokens)
    return out.astype(jnp.promote_types(out.dtype, jnp.float32))


def query_of(vit: ViT, tokens: Float[Array, "b l d"]) -> Float[Array, "b d"]:
    """Class feature of the untouched backbone from embedded images."""
    return jax.lax.stop_gradient(encoded(vit, tokens)[:, 0])
