"""Google's `.npz` files: the original ViT and augreg checkpoints, and big_vision's naming of the same arrays.

Query, key and value are apart and keep their heads: kernels (dim, heads, width), the output map (heads, width, dim).
Whole training states (`opt/target/...`, `params/...`) hold a backbone as well.
"""

from collections.abc import Mapping

import numpy as np

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.weights.layout import FIXED, KINDS, PATCHES, Block, Layout, Parts, Shape, Table, block_path


def _block(attention: int, norm2: int, mlp: int) -> Block:
    """Make the name table of blocks; the numbers are those that Flax gave to the modules of a block."""

    def names(i: int) -> Table:
        block = f"Transformer/encoderblock_{i}/"
        heads = f"{block}MultiHeadDotProductAttention_{attention}/"
        table: Table = {}
        for kind in KINDS:
            scale = "scale" if kind == "kernel" else kind  # what Flax calls a norm's weights
            table |= {
                block_path(i, "norm1", kind): (f"{block}LayerNorm_0/{scale}",),
                block_path(i, "qkv", kind): tuple(f"{heads}{part}/{kind}" for part in ("query", "key", "value")),
                block_path(i, "proj", kind): (f"{heads}out/{kind}",),
                block_path(i, "norm2", kind): (f"{block}LayerNorm_{norm2}/{scale}",),
                block_path(i, "fc1", kind): (f"{block}MlpBlock_{mlp}/Dense_0/{kind}",),
                block_path(i, "fc2", kind): (f"{block}MlpBlock_{mlp}/Dense_1/{kind}",),
            }
        return table

    return names


def _to_ours(path: str, parts: Parts) -> np.ndarray:
    # Flax has (in, out) as we do, convolutions (height, width, in, out): only axes of the input are joined
    if path == PATCHES or path.endswith("/proj/kernel"):
        return parts[0].reshape(-1, parts[0].shape[-1])
    if path.endswith("/qkv/kernel"):
        # [dim, heads, width] each, to [dim, 3 dim]
        return np.concatenate([x.reshape(len(x), -1) for x in parts], axis=1)
    if path.endswith("/qkv/bias"):
        return np.concatenate([x.reshape(-1) for x in parts])
    return parts[0]


def _to_theirs(path: str, value: np.ndarray, config: BackboneConfig, count: int) -> Parts:
    heads = (config.heads, config.dim // config.heads)
    if path == PATCHES:
        return (value.reshape(config.patch_size, config.patch_size, config.channels, -1),)
    if path.endswith("/proj/kernel"):
        return (value.reshape(*heads, -1),)
    if "/qkv/" in path:
        return tuple(x.reshape(*x.shape[:-1], *heads) for x in np.split(value, count, axis=-1))
    return (value,)


def _heads(query: str, shapes: Mapping[str, Shape]) -> int | None:
    # (dim, heads, width): the only kind of file whose shapes tell the heads
    shape = shapes.get(query, ())
    return shape[1] if len(shape) == 3 else None


def _layout(name: str, title: str, positions: str, block: Block) -> Layout:
    outside = ("cls", positions, "embedding/kernel", "embedding/bias")
    norm = ("Transformer/encoder_norm/scale", "Transformer/encoder_norm/bias")
    query = block(0)[block_path(0, "qkv", "kernel")][0]
    return Layout(
        name=name,
        title=title,
        fixed=dict(zip(FIXED, outside + norm, strict=True)),
        block=block,
        to_ours=_to_ours,
        to_theirs=_to_theirs,
        patch=lambda shape: shape,
        prefixes=("opt/target/", "optimizer/target/", "params/"),
        ignored=r"(head|pre_logits|opt|optimizer)/.*",
        heads=lambda shapes: _heads(query, shapes),
    )


# The original counts all modules of a block together, big_vision those of each type by itself
GOOGLE = _layout("google", "Google's names", "Transformer/posembed_input/pos_embedding", _block(1, 2, 3))
BIG_VISION = _layout("big_vision", "big_vision's names", "pos_embedding", _block(0, 1, 0))
