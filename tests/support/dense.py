"""The slow, obvious judge of every kernel, and the small networks that it judges them on.

`dense_ntk` writes down the definition: the whole Jacobian of each example by reverse mode in float64, then one sum.
Nothing here is shared with the code under test.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial


def _double(leaf: Any) -> Any:
    """A leaf in float64, if it is an array of floating-point numbers."""
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return jnp.asarray(np.asarray(leaf), jnp.float64)


@jax.jit
def _jacobian_of_row(params: Any, fn: Callable, row: jax.Array) -> Any:
    return jax.jacrev(lambda p: fn(p, row[None])[0])(params)


@jax.jit
def evaluated(fn: Callable, params: Any, images: Any) -> jax.Array:
    """Outputs of a checkpoint's function (a pytree), by one program for all checkpoints."""
    return fn(params, images)


def dense_jacobian(apply_fn: Callable, params: Any, x: Any) -> np.ndarray:
    """Jacobian of every output with respect to every parameter, (n, k, p) in float64, leaves in tree order."""
    with jax.enable_x64(True):
        plain = jax.tree_util.treedef_is_leaf(jax.tree.structure(apply_fn))
        fn = jax.tree.map(_double, Partial(apply_fn) if plain else apply_fn)
        params = jax.tree.map(_double, params)
        rows = []
        for row in np.asarray(x):
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(_jacobian_of_row(params, fn, _double(row)))]
            rows.append(np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1))
    return np.stack(rows)


def dense_ntk(apply_fn: Callable, params: Any, x1: Any, x2: Any = None) -> np.ndarray:
    """Theta[i, j, c, d] = sum over parameters of d f_c(x1_i) · d f_d(x2_j), (n1, n2, k, k) in float64."""
    first = dense_jacobian(apply_fn, params, x1)
    second = first if x2 is None else dense_jacobian(apply_fn, params, x2)
    return np.einsum("icp,jdp->ijcd", first, second)


def reduced(theta: np.ndarray, outputs: str) -> np.ndarray:
    """What `outputs` asks for, from the full kernel (n1, n2, k, k)."""
    return {
        "full": lambda: theta,
        "trace": lambda: np.einsum("ijcc->ij", theta) / theta.shape[-1],
        "diagonal": lambda: np.einsum("ijcc->ijc", theta),
        "pseudo": lambda: theta.sum(axis=(2, 3)) / theta.shape[-1],
    }[outputs]()


def relative_error(got: Any, want: np.ndarray) -> float:
    """Largest difference over the largest entry; infinite where the shapes differ or something isn't finite."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape or not np.isfinite(got).all():
        return np.inf
    return float(np.abs(got - want).max() / np.abs(want).max())


def examples(n: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Standard normal inputs, (n, *shape) in float32."""
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


def mlp(sizes: tuple[int, ...] = (5, 8, 3), seed: int = 0) -> tuple[Callable, dict]:
    """A tanh network from (n, sizes[0]) to (n, sizes[-1]) and all of its parameters, trainable."""
    rng = np.random.default_rng(seed)
    params = {
        f"layer{i}": {"kernel": _normal(rng, (a, b), a**-0.5), "bias": _normal(rng, (b,), 0.1)}
        for i, (a, b) in enumerate(pairwise(sizes))
    }
    return _mlp, params


def _mlp(params: dict, x: jax.Array) -> jax.Array:
    for i in range(len(params)):
        x = (jnp.tanh(x) if i else x) @ params[f"layer{i}"]["kernel"] + params[f"layer{i}"]["bias"]
    return x


def attention_net(
    k: int = 3, *, size: int = 8, patch: int = 4, channels: int = 1, d: int = 8, heads: int = 2, blocks: int = 2,
    bottleneck: int = 2, seed: int = 0,
) -> tuple[Partial, dict]:  # fmt: skip
    """A small frozen vision transformer with trainable adapters and head.

    Args:
        k: outputs.
        size: height and width of the images in pixels.
        patch: height and width of a patch.
        channels: channels of the images.
        d: features.
        heads: attention heads.
        blocks: transformer blocks.
        bottleneck: features inside of an adapter.
        seed: of all weights; none is zero, so that every parameter has a gradient.

    Returns:
        A function of `params` and images (n, size, size, channels) to (n, k), its frozen weights bound with `Partial`;
        and the trainable parameters `{"adapters": {"block0": {"down", "up"}, ...}, "head": {"kernel", "bias"}}`.
    """
    rng = np.random.default_rng(seed)
    frozen = {
        "embed": _normal(rng, (patch * patch * channels, d), (patch * patch * channels) ** -0.5),
        "class": _normal(rng, (1, 1, d), 1.0),
        "position": _normal(rng, (1, (size // patch) ** 2 + 1, d), 0.5),
        "norm": _norm(rng, d),
    }
    adapters = {}
    for i in range(blocks):
        frozen[f"block{i}"] = {
            "norm1": _norm(rng, d),
            "qkv": _normal(rng, (d, 3 * d), d**-0.5),
            "out": _normal(rng, (d, d), d**-0.5),
            "norm2": _norm(rng, d),
            "up": _normal(rng, (d, 2 * d), d**-0.5),
            "down": _normal(rng, (2 * d, d), (2 * d) ** -0.5),
        }
        adapters[f"block{i}"] = {
            "down": _normal(rng, (d, bottleneck), d**-0.5),
            "up": _normal(rng, (bottleneck, d), 0.5),
        }
    head = {"kernel": _normal(rng, (d, k), d**-0.5), "bias": _normal(rng, (k,), 0.1)}
    return Partial(_Attention(patch, heads), frozen=frozen), {"adapters": adapters, "head": head}


class _Attention:
    """The network's function; equal settings are equal functions, so that compiled programs are found again."""

    def __init__(self, patch: int, heads: int):
        self.settings = (patch, heads)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Attention) and self.settings == other.settings

    def __hash__(self) -> int:
        return hash(self.settings)

    def __call__(self, params: dict, x: jax.Array, *, frozen: dict) -> jax.Array:
        patch, heads = self.settings
        n, size, _, channels = x.shape
        side = size // patch
        x = x.reshape(n, side, patch, side, patch, channels).transpose(0, 1, 3, 2, 4, 5).reshape(n, side * side, -1)
        x = x @ frozen["embed"]
        d = x.shape[-1]
        x = jnp.concatenate([jnp.broadcast_to(frozen["class"], (n, 1, d)), x], axis=1) + frozen["position"]
        for i in range(len(params["adapters"])):
            adapter, block = params["adapters"][f"block{i}"], frozen[f"block{i}"]
            qkv = _layer_norm(x, block["norm1"]) @ block["qkv"]
            q, key, v = (part.reshape(n, -1, heads, d // heads) for part in jnp.split(qkv, 3, axis=-1))
            weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, key) * (d // heads) ** -0.5, axis=-1)
            x = x + jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(n, -1, d) @ block["out"]
            h = _layer_norm(x, block["norm2"])
            x = x + jax.nn.gelu(h @ block["up"], approximate=False) @ block["down"]
            x = x + jax.nn.gelu(h @ adapter["down"], approximate=False) @ adapter["up"]
        return _layer_norm(x, frozen["norm"])[:, 0] @ params["head"]["kernel"] + params["head"]["bias"]


def _layer_norm(x: jax.Array, norm: dict) -> jax.Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6) * norm["scale"] + norm["bias"]


def _norm(rng: np.random.Generator, d: int) -> dict:
    return {"scale": 1 + _normal(rng, (d,), 0.1), "bias": _normal(rng, (d,), 0.1)}


def _normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> jax.Array:
    return jnp.asarray(rng.standard_normal(shape) * scale, jnp.float32)
