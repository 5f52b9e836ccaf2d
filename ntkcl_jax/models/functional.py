"""The pure form of networks: parameters are flat dictionaries, and there is one way to put them back into a module.

What an optimizer updates, a checkpoint stores and a kernel differentiates is the same trainable dictionary. Everything
else that a network reads is an argument too, never closed over: a closed-over ViT would become a constant of the
compiled program.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array

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


def rebuilt(backbone: Mapping[str, Array], make: Callable[[], ViT]) -> ViT:
    """Put weights back into a backbone.

    Args:
        backbone: flat tree, paths beginning with `backbone/`.
        make: makes a backbone of the same shape; never computed.
    """
    # The structure alone: no array is made
    graph, abstract = nnx.split(nnx.eval_shape(make))
    values = {path.removeprefix("backbone/"): value for path, value in backbone.items()}
    return merged(graph, list(nnx.to_flat_state(abstract)), values)
