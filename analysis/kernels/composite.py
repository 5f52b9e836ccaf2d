"""Functions that end in a cheap head: their Jacobian through that of the features.

With d features and k > d outputs, `df/dp = dhead/dfeatures · dfeatures/dp + dhead/dp` needs d backward passes through
the network instead of k.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float


@partial(jax.tree_util.register_dataclass, data_fields=["features", "head"], meta_fields=[])
@dataclass(frozen=True)
class Composite:
    """`apply_fn(params, x) = head(params, features(params, x))`, a pytree like `jax.tree_util.Partial`.

    Attributes:
        features: function of parameters and inputs to (n, d).
        head: function of parameters and features (n, d) to (n, k); rows independent.

    Example:
        >>> double = Composite(Partial(lambda p, x: x * p), Partial(lambda p, z: jnp.concatenate([z, 2 * z], axis=1)))
        >>> double(3.0, jnp.ones((1, 1))).tolist()
        [[3.0, 6.0]]
    """

    features: Partial
    head: Partial

    def __call__(self, params: Any, x: Float[Array, "n ..."]) -> Float[Array, "n k"]:
        """Evaluate the whole function."""
        return self.head(params, self.features(params, x))


def composite(features: Callable, head: Callable) -> Composite:
    """Put features and head together; plain functions are made pytrees."""
    return Composite(*(fn if isinstance(fn, Partial) else Partial(fn) for fn in (features, head)))


def example_factors(fn: Composite, params: Any, image: Float[Array, "..."]) -> tuple[Float[Array, "k d"], Any, Any]:
    """Jacobian of one example in factors: lift · inner + direct.

    Args:
        fn: the function.
        params: where to differentiate.
        image: one example.

    Returns:
        Derivative of the head with respect to the features, the lift (k, d); of the features with respect to the
        parameters, a tree like `params` with leaves (d, *leaf); of the head with respect to the parameters at fixed
        features, leaves (k, *leaf).
    """
    features, pull = jax.vjp(lambda p: fn.features(p, image[None])[0], params)
    # A backward pass for each feature, d instead of k: leaves [d, *leaf]
    (inner,) = jax.vmap(pull)(jnp.eye(len(features), dtype=features.dtype))
    # Both arguments apart: `direct` at fixed features, `lift` at fixed parameters, so that the chain rule adds them up
    direct, lift = jax.jacrev(lambda p, z: fn.head(p, z[None])[0], argnums=(0, 1))(params, features)
    return lift, inner, direct


def product(lift: Float[Array, "k d"], inner: Any, direct: Any) -> Any:
    """The Jacobian from its factors, a tree of leaves (k, *leaf)."""
    # [k, *leaf] + [k, d] · [d, *leaf]
    return jax.tree.map(lambda own, rows: own + jnp.tensordot(lift, rows, axes=1), direct, inner)


@partial(jax.tree_util.register_dataclass, data_fields=["lift", "inner", "outer"], meta_fields=[])
@dataclass(frozen=True)
class Factored:
    """Jacobian rows of a tile, those of most parameters as d rows of the features instead of k rows of the outputs.

    Attributes:
        lift: derivative of the head with respect to the features (b, k, d).
        inner: per group, rows of the features (b, d, p) for parameters that reach the outputs through them only.
        outer: per group, rows of the outputs (b, k, p) for parameters that the head takes.
    """

    lift: Array
    inner: tuple[Array, ...]
    outer: tuple[Array, ...]
