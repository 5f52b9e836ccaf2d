"""The two adaptation streams through the frozen blocks (docs/method.md, section 2).

Nothing is computed twice: every stream starts from the same block-0 attention and block-0 MLP of the class and patch
rows (the MLP works row by row, so the patch stream only adds its prompt rows). Nothing that can't matter is computed:
the last block yields the class row only, and its prompt generator is not run.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkcl_jax.models.adapters import Adapter, Key, PromptGenerator, Streams
from ntkcl_jax.models.vit import Block, ViT


class Shared(NamedTuple):
    """What all streams share: block 0 up to the point where they part."""

    attended: Float[Array, "b t d"]
    """Post-attention tokens z of block 0."""
    mlp: Float[Array, "b t d"]
    """`mlp(norm2(z))` of block 0."""


def shared_start(vit: ViT, images: Float[Array, "b h w c"]) -> Shared:
    """Run the patch embedding, block 0's attention and block 0's MLP, once for all streams."""
    first = next(iter(vit.blocks))
    # A single block is the last one as well, of which the class row alone is read
    attended = first.attend(vit.embed(images), rows=1 if len(vit.blocks) == 1 else None)
    return Shared(attended, first.mlp(attended))


def channel_block(
    z: Float[Array, "b t d"], mlp: Float[Array, "b t d"], adapter: Adapter | None, key: Key | None = None
) -> Float[Array, "b t d"]:
    """Finish a block of the channel stream: `mlp + z + adapter(z)`; without an adapter, the untouched backbone."""
    out = mlp + z
    return out if adapter is None else out + adapter(z, key)


def channel_stream(vit: ViT, streams: Streams | None, start: Shared, key: Key | None = None) -> Float[Array, "b d"]:
    """Class feature of the channel stream, or of the untouched backbone when `streams` is None."""
    blocks = list(vit.blocks)
    adapters = [None] * len(blocks) if streams is None else list(streams.adapters)
    keys = [None] * len(blocks) if key is None else list(jax.random.split(key, len(blocks)))
    x = channel_block(start.attended, start.mlp, adapters[0], keys[0])
    for i in range(1, len(blocks)):
        rows = 1 if i == len(blocks) - 1 else None  # the class row alone is read of the last block

        def run(x: Array, block: Block = blocks[i], i: int = i, rows: int | None = rows) -> Array:
            z = block.attend(x, rows)
            return channel_block(z, block.mlp(z), adapters[i], keys[i])

        x = vit.checkpointed(run)(x)
    return vit.class_feature(x)


def with_prompts(base: Float[Array, "b t d"], prompts: Float[Array, "b m d"]) -> Float[Array, "b l d"]:
    """Order the rows [class; prompts; patches]."""
    return jnp.concatenate([base[:, :1], prompts, base[:, 1:]], axis=1)


def without_prompts(x: Float[Array, "b l d"], m: int) -> tuple[Float[Array, "b t d"], Float[Array, "b m d"]]:
    """Part [class; prompts; patches] into (class and patch rows, prompt rows)."""
    return jnp.concatenate([x[:, :1], x[:, 1 + m :]], axis=1), x[:, 1 : 1 + m]


class PatchBlock(NamedTuple):
    """What a block of the patch stream yields."""

    tokens: Float[Array, "b l d"]
    prompts: Float[Array, "b m d"]
    """The generated prompts that went through the MLP (not the prompt rows of `tokens`)."""


def patch_block(
    block: Block, z: Float[Array, "b l d"], generator: PromptGenerator, m: int, carry: float, *, first: bool
) -> PatchBlock:
    """Finish a block of the patch stream from its post-attention rows z.

    Block 0 adds prompt rows *without* a residual. A later block sets its incoming prompt rows (`old`) aside, makes
    `new = generator(class and patch rows) + carry * old`, runs the MLP on [class; new; patches], and adds the
    post-attention rows, so a prompt row leaves as `old + mlp(new)`.
    """
    if first:
        new = generator(z)
        return PatchBlock(with_prompts(z + block.mlp(z), block.mlp(new)), new)
    base, old = without_prompts(z, m)
    new = generator(base) + carry * old
    return PatchBlock(z + block.mlp(with_prompts(base, new)), new)


def patch_stream(vit: ViT, streams: Streams, start: Shared, m: int, carry: float) -> Float[Array, "b d"]:
    """Class feature of the patch stream with `m` prompts; `patch_block` says what a block does.

    Block 0 repeats `patch_block(first=True)` with the shared MLP rows; the last block is the backbone's own.
    """
    blocks, generators = list(vit.blocks), list(streams.prompts)
    x = start.attended + start.mlp
    if len(blocks) > 1:
        # Without a residual (docs/method.md, section 2); with one block nothing could read them
        x = with_prompts(x, blocks[0].mlp(generators[0](start.attended)))
    for i in range(1, len(blocks)):
        last = i == len(blocks) - 1

        def run(x: Array, block: Block = blocks[i], i: int = i, last: bool = last) -> Array:
            # No prompts: no attention follows by which they could reach the class row
            if last:
                z = block.attend(x, rows=1)
                return z + block.mlp(z)
            return patch_block(block, block.attend(x), generators[i], m, carry, first=False).tokens

        x = vit.checkpointed(run)(x)
    return vit.class_feature(x)
