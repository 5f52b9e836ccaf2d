"""Cosine heads: the proxy head that trains with a task, and the prototype head that classifies at test time."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ntkcl_jax.config import ModelConfig
from ntkcl_jax.models.adapters import VariableType

NORM_FLOOR = 1e-12  # that of torch.nn.functional.normalize


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Scale rows to length one, `x / max(||x||, 1e-12)`; a zero row stays zero and gets a zero gradient.

    Example:
        >>> unit(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    # Two `where`s: the square root's slope at zero is infinite, and infinity times zero is NaN.
    positive = square > 0
    norm = jnp.sqrt(jnp.where(positive, square, 1.0))
    return jnp.where(positive, x / jnp.maximum(norm, NORM_FLOOR), 0.0)


class ProxyHead(nnx.Module):
    """Cosine classifier over one task's own classes, new for every task: `scale * cos(feature, w_c)`."""

    def __init__(self, classes: int, features: int, variable: VariableType, rngs: nnx.Rngs) -> None:
        """Allocate rows for the largest task; smaller tasks mask what they don't use."""
        bound = features**-0.5
        init = jax.random.uniform(rngs.params(), (classes, features), minval=-bound, maxval=bound)
        self.kernel = variable(init)
        self.scale = variable(jnp.ones(1))

    def __call__(self, x: Float[Array, "b e"]) -> Float[Array, "b n"]:
        """Logits over the task's classes."""
        return self.scale[...] * unit(x) @ unit(self.kernel[...]).T


class PrototypeHead(nnx.Module):
    """Class means of hybrid features, compared section by section.

    Score of class c = σ Σ_s m_s cos(feature_s, w_{c,s}), each section s normalised on its own.
    """

    def __init__(self, config: ModelConfig, classes: int, variable: VariableType) -> None:
        """Allocate zero rows for all classes of the stream, none of them seen."""
        self.config = config
        self.kernel = variable(jnp.zeros((classes, config.feature_dim)))
        self.scale = variable(jnp.ones(1))
        self.seen = variable(jnp.zeros(classes, dtype=bool))

    def scores(self, x: Float[Array, "b e"]) -> Float[Array, "b c"]:
        """Scores of all rows, seen or not (a zero row scores 0)."""
        s, d = self.config.sections, self.config.backbone.dim
        weights = jnp.asarray(self.config.section_weights)
        # [b, S, D]; a section's weight multiplies its cosine
        features = unit(x.reshape(-1, s, d)) * weights[:, None]
        rows = unit(self.kernel[...].reshape(-1, s, d))
        return self.scale[...] * jnp.einsum("bsd,csd->bc", features, rows)

    def __call__(self, x: Float[Array, "b e"]) -> Float[Array, "b c"]:
        """Scores; classes not yet seen get -σ Σ m_s, the lowest score that a cosine can give."""
        floor = -self.scale[...] * sum(self.config.section_weights)  # every cosine at -1
        seen: Bool[Array, "c"] = self.seen[...]
        return jnp.where(seen, self.scores(x), floor)
