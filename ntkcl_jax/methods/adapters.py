"""Sequential fine-tuning of adapters: what parameter-efficient fine-tuning does when nothing is done about forgetting.

A parallel adapter in every block (AdaptFormer, Chen et al., arXiv:2205.13535): the block's output gains
`0.1 * up(relu(down(z)))`, z the tokens after attention, `down` random, `up` zero at start; the class feature goes
through one linear classifier over all classes. Each task trains both on its own images by the cross-entropy over its
own classes. It is the lower bound that the other methods are to beat; no number of its own is published for it.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkcl_jax.methods.base import Learner, Recipe, linear_head
from ntkcl_jax.models.adapters import Key, dropout, uniform_fan_in
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.vit import Block, Levels, ViT

SCALE = 0.1
"""Multiplier of an adapter's output, as in NTK-CL and EASE."""


def init_adapters(key: Key, depth: int, dim: int, rank: int) -> Tree:
    """Adapters of all blocks, stacked: `down` drawn from U(±1/√dim), the rest zero."""
    return {
        # [depth, dim, rank], each block by a key of its own
        "adapters/down": jax.vmap(lambda k: uniform_fan_in(k, (dim, rank)))(jax.random.split(key, depth)),
        "adapters/down_bias": jnp.zeros((depth, rank)),
        "adapters/up": jnp.zeros((depth, rank, dim)),
        "adapters/up_bias": jnp.zeros((depth, dim)),
    }


def adapted_feature(
    vit: ViT, adapters: Tree, images: Float[Array, "b h w c"], key: Key | None = None, rate: float = 0.0
) -> Float[Array, "b d"]:
    """Class feature of the backbone with an adapter beside every block's MLP; arguments as of `adapted_levels`."""
    return adapted_levels(vit, adapters, images, key, rate).final


def adapted_levels(
    vit: ViT, adapters: Tree, images: Float[Array, "b h w c"], key: Key | None = None, rate: float = 0.0
) -> Levels:
    """Class feature, and the tokens that leave each block with an adapter beside its MLP, by one pass.

    Args:
        vit: the backbone.
        adapters: those of all blocks.
        images: pixels in [0, 1].
        key: for dropout within the adapters; None switches it off.
        rate: share of their inner entries that it drops.
    """
    blocks = list(vit.blocks)

    def run(x: Array, i: int) -> Array:
        block: Block = blocks[i]
        # The last block is read at the class row alone
        z = block.attend(x, 1 if i == len(blocks) - 1 else None)
        down, down_bias, up, up_bias = (
            adapters[f"adapters/{name}"][i].astype(z.dtype) for name in ("down", "down_bias", "up", "up_bias")
        )
        # [b, l, rank]; every block drops other units
        inner = dropout(jax.nn.relu(z @ down + down_bias), rate, None if key is None else jax.random.fold_in(key, i))
        return z + block.mlp(z) + SCALE * (inner @ up + up_bias)

    x, tokens = vit.embed(images), []
    for i in range(len(blocks)):
        x = vit.checkpointed(lambda x, i=i: run(x, i))(x)
        tokens.append(x)
    return Levels(vit.class_feature(x), tuple(tokens))


@dataclass(frozen=True)
class AdapterTuning(Learner):
    """One adapter in every block and one linear classifier, trained on task after task.

    Attributes:
        rank: width of the adapters' bottleneck.
    """

    rank: int = 16

    name: ClassVar = "adapters"
    terms: ClassVar = ("ce",)
    parts: ClassVar = {"adapters": ("adapters/",), "head": ("head/",)}
    recipe: ClassVar = Recipe("sgd", learning_rate=0.025, schedule="cosine", weight_decay=5e-4)

    def init(self, key: Key) -> tuple[Tree, Tree]:
        """Draw adapters and classifier; no buffers."""
        keys = jax.random.split(key)
        adapters = init_adapters(keys[0], self.backbone.depth, self.backbone.dim, self.rank)
        return adapters | linear_head(keys[1], self.backbone.dim, self.classes), {}

    def features(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Class feature of the adapted backbone."""
        return adapted_feature(self.vit(frozen), trainable, images)

    def levels(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Levels:
        """Feature and tokens of the adapted backbone, from one pass."""
        return adapted_levels(self.vit(frozen), trainable, images)


@dataclass(frozen=True)
class FirstSession(AdapterTuning):
    """The adapters of task 0, which stay as they are from then on: RanPAC's first session (arXiv:2307.02251)."""

    name: ClassVar = "first-session"
    sessions: ClassVar = 1
    recipe: ClassVar = Recipe("sgd", learning_rate=0.01, schedule="cosine", weight_decay=5e-4)

    def stream(self, purpose: str, *numbers: int) -> tuple[str | int, ...]:
        """Random streams have RanPAC's name, under which this was measured."""
        return ("ranpac", purpose, *numbers)
