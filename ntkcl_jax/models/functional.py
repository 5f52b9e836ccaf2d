"""The pure form of networks: parameters are flat dictionaries, and there is one way to put them back into a module.

What an optimizer updates, a checkpoint stores and a kernel differentiates is the same trainable dictionary. Everything
else that a network reads is an argument too, never closed over: a closed-over ViT would become a constant of the
compiled program.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.config.data import Normalize
from ntkcl_jax.models.vit import ViT

Tree = dict[str, Array]
"""Flat parameters: path of the variable, parts joined by `/`, to its value."""


class Frozen(NamedTuple):
    """All that a trainable tree needs to become a function, and that a training step reads and doesn't change."""

    backbone: Tree
    """Pre-trained ViT."""
    buffers: Tree
    """The learner's own: class means, modules of earlier tasks, running means, bases."""
    origin: Tree | None = None
    """Where a first-order model of the network is expanded; the network itself has no use for it."""


def path_of(parts: tuple) -> str:
    """Path of a Flax variable."""
    return "/".join(map(str, parts))


def merged(graph: nnx.GraphDef, variables: list[tuple[tuple, nnx.Variable]], values: Mapping[str, Array]) -> Any:
    """Put values back into a module's variables (cheap; works on tracers).

    Args:
        graph: of the module, as `nnx.split` gives it.
        variables: its variables by path; their own values aren't read.
        values: the new ones, by path.
    """
    # `replace` keeps a variable's type, which says what its number is for
    return nnx.merge(graph, nnx.from_flat_state([(at, v.replace(values[path_of(at)])) for at, v in variables]))


def rebuilt(
    backbone: Mapping[str, Array],
    config: BackboneConfig,
    dtype: str = "float32",
    remat: bool = False,
    normalize: Normalize = "none",
) -> ViT:
    """Put weights back into a backbone.

    Args:
        backbone: flat tree, paths beginning with `backbone/`.
        config: its shape.
        dtype: as `ViT` takes it, as are the rest.
        remat: recompute activations in the backward pass.
        normalize: what is done to pixels first.
    """
    values = {path.removeprefix("backbone/"): value for path, value in backbone.items()}
    return merged(*_skeleton(config, dtype, remat, normalize), values)


# Kept: making a module abstractly is most of the time of tracing a step, and every tracing asks for it
@functools.lru_cache(maxsize=16)
def _skeleton(
    config: BackboneConfig, dtype: str, remat: bool, normalize: Normalize
) -> tuple[nnx.GraphDef, list[tuple[tuple, nnx.Variable]]]:
    """The module without values, and its variables; no array is made."""
    rngs = lambda: nnx.Rngs(params=0)  # noqa: E731 - only the structure is taken, so the seed draws nothing
    make = lambda: ViT(config, dtype=jnp.dtype(dtype), remat=remat, normalize=normalize, rngs=rngs())  # noqa: E731
    graph, abstract = nnx.split(nnx.eval_shape(make))
    return graph, list(nnx.to_flat_state(abstract))


@functools.partial(jax.jit, static_argnames="config")
def drawn_backbone(key: Array, config: BackboneConfig) -> Tree:
    """Draw a random backbone: one program, where each array alone would be several."""
    vit = ViT(config, dtype=jnp.float32, rngs=nnx.Rngs(params=key))
    return {f"backbone/{path_of(path)}": v[...] for path, v in nnx.to_flat_state(nnx.state(vit))}
