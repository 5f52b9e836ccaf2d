"""The trainable parts inside a block: the channel stream's adapter and the patch stream's prompt generator."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ntkcl_jax.config import ModelConfig
from ntkcl_jax.models.vit import LAYER_NORM_EPS

Key = Any
VariableType = type[nnx.Variable]


def uniform_fan_in(key: Key, shape: tuple[int, int]) -> Float[Array, "i o"]:
    """Draw a kernel (fan_in, fan_out) from U(±1/√fan_in), PyTorch's default (Kaiming uniform with a=√5)."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def dropout(x: Array, rate: float, key: Key | None) -> Array:
    """Zero entries with probability `rate` and rescale the rest; the identity without a key (evaluation)."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


class Linear(nnx.Module):
    """`x @ kernel + bias` whose variables are of a given type."""

    def __init__(self, kernel: Array, bias: Array, variable: VariableType) -> None:
        """Wrap the initial values."""
        self.kernel = variable(kernel)
        self.bias = variable(bias)

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        """Apply the map in the dtype of `x`."""
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class Adapter(nnx.Module):
    """Parallel bottleneck across channels: `0.1 * up(dropout(relu(down(z))))`, zero at start."""

    def __init__(self, config: ModelConfig, variable: VariableType, rngs: nnx.Rngs) -> None:
        """Start with a random `down` and a zero `up`, so that the block's function is the backbone's."""
        d, r = config.backbone.dim, config.adapter_rank
        self.scale = config.adapter_scale
        self.rate = config.adapter_dropout
        self.down = Linear(uniform_fan_in(rngs.params(), (d, r)), jnp.zeros(r), variable)
        self.up = Linear(jnp.zeros((r, d)), jnp.zeros(d), variable)

    def __call__(self, z: Float[Array, "b l d"], key: Key | None = None) -> Float[Array, "b l d"]:
        """Adapt the un-normalised post-attention tokens; dropout only when a key is given."""
        return self.scale * self.up(dropout(jax.nn.relu(self.down(z)), self.rate, key))


class PromptGenerator(nnx.Module):
    """New prompt tokens from the class and patch tokens: a linear map over the token axis, then a LayerNorm.

    `initialisation="reference"` starts everything at zero, as the authors' release does; the token map and the norm's
    scale then never receive a gradient (each is multiplied by the other) and all prompts of a block are one constant.
    `"paper"` starts with random mixtures of the tokens and a unit scale: the prompts depend on the image and train.
    """

    def __init__(self, config: ModelConfig, variable: VariableType, rngs: nnx.Rngs) -> None:
        """Allocate the token map (tokens -> prompts) and the norm (channels)."""
        d, m, tokens = config.backbone.dim, config.prompts, config.backbone.tokens
        key = rngs.params()
        # The key is drawn in both forms, so that later parts start alike in both
        alive = config.initialisation == "paper"
        kernel = jax.random.normal(key, (tokens, m)) / tokens**0.5 if alive else jnp.zeros((tokens, m))
        self.token_map = Linear(kernel, jnp.zeros(m), variable)
        self.norm_scale = variable(jnp.ones(d) if alive else jnp.zeros(d))
        self.norm_bias = variable(jnp.zeros(d))

    def __call__(self, z: Float[Array, "b t d"]) -> Float[Array, "b m d"]:
        """Generate prompts from the class and patch rows (the norm in float32 at least, whatever the compute dtype)."""
        # [b, t, d] -> [b, d, m] -> [b, m, d]: tokens are mixed, channel by channel
        q = jnp.swapaxes(self.token_map(jnp.swapaxes(z, 1, 2)), 1, 2)
        q = q.astype(jnp.promote_types(q.dtype, jnp.float32))
        # Centred before it is squared: a mean of squares less a squared mean would cancel
        q = q - q.mean(axis=-1, keepdims=True)
        normed = q * jax.lax.rsqrt(jnp.mean(q * q, axis=-1, keepdims=True) + LAYER_NORM_EPS)
        return (normed * self.norm_scale[...] + self.norm_bias[...]).astype(z.dtype)


class Streams(nnx.Module):
    """One parameter set of both streams: an adapter and a prompt generator for every block.

    The last block's generator can't reach the class token and is never run. It is allocated because the authors'
    release regularises and decays it.
    """

    def __init__(self, config: ModelConfig, variable: VariableType, rngs: nnx.Rngs) -> None:
        """Allocate the set with variables of the given type."""
        depth = config.backbone.depth
        self.adapters = nnx.List([Adapter(config, variable, rngs) for _ in range(depth)])
        self.prompts = nnx.List([PromptGenerator(config, variable, rngs) for _ in range(depth)])
