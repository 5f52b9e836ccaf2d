"""The hybrid feature: channel and patch features joined (docs/method.md, section 2)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ntkcl_jax.config import ModelConfig
from ntkcl_jax.models.adapters import Key, Linear, VariableType, dropout, uniform_fan_in


class Fusion(nnx.Module):
    """`0.5 * attention(query=patch, key=value=channel) + channel + 0.1 * patch`.

    `reference`: the authors reshape each feature to a sequence of length one, so the softmax is 1, query and key never
    receive a gradient, and the attention is a linear map of the channel feature. `paper`: the attention runs over the
    stack of sections (S tokens of width D from each stream), so query and key matter.
    """

    def __init__(self, config: ModelConfig, variable: VariableType, rngs: nnx.Rngs) -> None:
        """Allocate query, key and value maps; `initialisation="paper"` starts with a zero value map."""
        paper = config.fusion == "paper"
        width = config.backbone.dim if paper else config.feature_dim
        self.config = config

        def linear() -> Linear:
            kernel, bias = rngs.params(), rngs.params()
            # torch draws biases by the kernel's bound too
            return Linear(uniform_fan_in(kernel, (width, width)), uniform_fan_in(bias, (width, width))[0], variable)

        self.query = linear()
        self.key = linear()
        self.value = linear()
        # In the place of a map that was drawn all the same, so that later parts start alike in both forms
        if config.initialisation == "paper":
            zero = jnp.zeros((width, width))
            self.value = Linear(zero, zero[0], variable)

    def attend(self, channel: Float[Array, "b e"], patch: Float[Array, "b e"], key: Key | None) -> Float[Array, "b e"]:
        """Attended channel features."""
        c, heads = self.config, self.config.fusion_heads
        b, e = channel.shape
        if c.fusion == "reference":
            value = self.value(channel).reshape(b, heads, e // heads)
            # The softmax over one entry is 1; what remains of the attention is its dropout, per image and head
            ones = jnp.ones((b, heads, 1), value.dtype)
            return (value * dropout(ones, c.fusion_dropout, key)).reshape(b, e)
        # [b, S, heads, D / heads]
        split = (b, c.sections, heads, c.backbone.dim // heads)
        tokens = [x.reshape(b, c.sections, c.backbone.dim) for x in (patch, channel, channel)]
        q, k, v = (f(x).reshape(split) for f, x in zip((self.query, self.key, self.value), tokens, strict=True))
        # [b, heads, S, S]: sections of the patch stream ask, those of the channel stream answer
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * split[-1] ** -0.5, axis=-1)
        return jnp.einsum("bhqk,bkhd->bqhd", dropout(weights, c.fusion_dropout, key), v).reshape(b, e)

    def __call__(
        self, channel: Float[Array, "b e"], patch: Float[Array, "b e"], key: Key | None = None
    ) -> Float[Array, "b e"]:
        """Hybrid feature of each image; dropout only when a key is given."""
        mixed = self.attend(channel, patch, key)
        return self.config.fusion_attention_scale * mixed + channel + self.config.fusion_patch_scale * patch
