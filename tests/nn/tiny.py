"""Small networks with all parameters away from zero, and the compiled functions that the tests of `nn` share."""

import functools
import zlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.config import BackboneConfig, ModelConfig
from ntkcl_jax.nn.model import Features, Frozen, Network, Tree

BACKBONE = BackboneConfig(image_size=8, patch_size=4, dim=8, depth=3, heads=2, mlp_ratio=2.0)
MODEL = ModelConfig(
    backbone=BACKBONE,
    adapter_rank=3,
    adapter_scale=0.3,
    prompts=2,
    prompt_carry=0.2,
    fusion_heads=4,
    fusion_attention_scale=0.6,
    fusion_patch_scale=0.2,
)
PAPER = replace(MODEL, fusion="paper", initialisation="paper")
# The networks run a few times each: compiling quickly counts.
QUICKLY = {"xla_backend_optimization_level": 0}
compiled = functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)


def network(model: ModelConfig = MODEL, **kwargs: object) -> Network:
    """A network for tasks of up to 3 classes and a stream of 5."""
    return Network(model, task_classes=3, classes=5, **kwargs)


def random_tree(tree: Tree, seed: int = 0) -> Tree:
    """Random numbers in the place of every float of a tree, of a size that keeps activations of order one."""

    def draw(path: str, value: jax.Array) -> jax.Array:
        if value.dtype == bool:
            return value
        rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
        drawn = rng.normal(size=value.shape)
        if path.endswith("kernel"):
            drawn *= value.shape[0] ** -0.5
        elif path.endswith("scale"):
            drawn = 1 + 0.3 * drawn
        else:
            drawn *= 0.3
        return jnp.asarray(drawn, jnp.float32)

    return {path: draw(path, value) for path, value in tree.items()}


@functools.cache
def initial(net: Network) -> tuple[Tree, Frozen]:
    """The network's own start, with a random backbone of ordinary size."""
    adaptation, frozen = net.init(jax.random.key(0))
    return adaptation, frozen._replace(backbone=random_tree(frozen.backbone))


@functools.cache
def randomised(net: Network) -> tuple[Tree, Frozen]:
    """Random numbers everywhere; classes 0 to 3 of 5 have a prototype."""
    adaptation, frozen = net.init(jax.random.key(0))
    prototypes = random_tree(frozen.prototypes) | {"prototypes/seen": jnp.arange(5) < 4}
    prototypes["prototypes/kernel"] = prototypes["prototypes/kernel"].at[4].set(0.0)
    return random_tree(adaptation), Frozen(random_tree(frozen.backbone), random_tree(frozen.mean), prototypes)


def images(count: int, backbone: BackboneConfig = BACKBONE, seed: int = 0) -> np.ndarray:
    """Noise images with pixels in [0, 1]."""
    shape = (count, backbone.image_size, backbone.image_size, backbone.channels)
    return np.random.default_rng(seed).random(shape, np.float32)


@compiled
def features(net: Network, adaptation: Tree, frozen: Frozen, x: jax.Array, key: jax.Array | None = None) -> Features:
    """Features, dropout on with a key."""
    return net.features(adaptation, frozen, x, key)


@compiled
def scores(net: Network, adaptation: Tree, frozen: Frozen, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores, proxy logits and hybrid features."""
    return tuple(net.apply_fn(adaptation, frozen, x, output) for output in ("scores", "proxy", "features"))


@compiled
def gradient(net: Network, adaptation: Tree, frozen: Frozen, x: jax.Array) -> tuple[jax.Array, Tree]:
    """A scalar of all features that no symmetry makes flat, and its gradient."""

    def scalar(adaptation: Tree) -> jax.Array:
        views = net.features(adaptation, frozen, x)
        return sum(jnp.sum(jnp.sin(view + jnp.arange(view.shape[1]))) for view in views)

    return jax.value_and_grad(scalar)(adaptation)
