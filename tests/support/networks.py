"""Small networks with all parameters away from zero, and the compiled functions that the tests of `nn` share."""

import functools
import zlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.config import BackboneConfig, ModelConfig
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.ntkcl import Features, Network

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
SHALLOW = replace(MODEL, backbone=replace(BACKBONE, depth=2))
PAPER = replace(SHALLOW, fusion="paper", initialisation="paper")
# The networks run a few times each: compiling quickly counts.
QUICKLY = {"xla_backend_optimization_level": 0}
compiled = functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)

WET = replace(MODEL, prompts=1, pretrained_view=True, adapter_dropout=0.5, fusion_dropout=0.25)
"""Three sections, a single prompt, much dropout."""


def network(model: ModelConfig = MODEL, **kwargs: object) -> Network:
    """A network for tasks of up to 3 classes and a stream of 5."""
    return Network(model, task_classes=3, classes=5, **kwargs)


def random_tree(shapes: Tree) -> Tree:
    """Random numbers in the place of every float of a tree, of a size that keeps activations of order one."""

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        drawn = np.random.default_rng(zlib.crc32(path.encode())).normal(size=shape).astype(np.float32)
        if path.endswith("kernel"):
            return drawn * np.float32(shape[0] ** -0.5)
        return 1 + np.float32(0.3) * drawn if path.endswith("scale") else np.float32(0.3) * drawn

    return {path: draw(path, x.shape) for path, x in shapes.items() if x.dtype != bool}


@functools.cache
def initial(net: Network) -> tuple[Tree, Frozen]:
    """The network's own start, with a random backbone of ordinary size."""
    shapes = jax.eval_shape(net.init, jax.random.key(0))[1].backbone
    return net.init(jax.random.key(0), jax.tree.map(jnp.asarray, random_tree(shapes)))


@functools.cache
def randomised(net: Network) -> tuple[Tree, Frozen]:
    """Random numbers everywhere; classes 0 to 3 of 5 have a prototype."""
    adaptation, frozen = jax.eval_shape(net.init, jax.random.key(0))
    buffers = random_tree(frozen.buffers) | {"prototypes/seen": np.arange(5) < 4}
    buffers["prototypes/kernel"][4] = 0
    trees = random_tree(adaptation), Frozen(random_tree(frozen.backbone), buffers)
    return jax.tree.map(jnp.asarray, trees)


def images(count: int, backbone: BackboneConfig = BACKBONE, seed: int = 0) -> np.ndarray:
    """Noise images with pixels in [0, 1]."""
    shape = (count, backbone.image_size, backbone.image_size, backbone.channels)
    return np.random.default_rng(seed).random(shape, np.float32)


@compiled
def dropped(net: Network, adaptation: Tree, frozen: Frozen, x: jax.Array, key: jax.Array) -> Features:
    """Features with dropout."""
    return net.features(adaptation, frozen, x, key)


@compiled
def everything(net: Network, adaptation: Tree, frozen: Frozen, x: jax.Array) -> tuple[Features, jax.Array, jax.Array]:
    """Features, proxy logits and scores of the hybrid feature."""
    module = net.module(adaptation, frozen)
    views = module.features(x)
    return views, module.proxy(views.hybrid), module.prototypes(views.hybrid)


@compiled
def scores(net: Network, adaptation: Tree, frozen: Frozen, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What `apply_fn` gives: scores, proxy logits and hybrid features."""
    return tuple(net.apply_fn(adaptation, frozen, x, output) for output in ("scores", "proxy", "features"))


@compiled
def gradient(net: Network, adaptation: Tree, frozen: Frozen, x: jax.Array) -> tuple[jax.Array, Tree]:
    """A scalar of all features that no symmetry makes flat, and its gradient."""

    def scalar(adaptation: Tree) -> jax.Array:
        views = net.features(adaptation, frozen, x)
        return sum(jnp.sum(jnp.sin(view + jnp.arange(view.shape[1]))) for view in views)

    return jax.value_and_grad(scalar)(adaptation)


def features(net: Network, adaptation: Tree, frozen: Frozen, x: jax.Array) -> Features:
    """Features without dropout."""
    return everything(net, adaptation, frozen, x)[0]
