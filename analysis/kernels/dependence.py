"""What a program's results depend on, from tracing it only."""

from collections.abc import Callable
from typing import Any

import jax

from analysis.kernels.costs import Graph, opened


def _graph(fn: Callable, args: tuple[Any, ...]) -> tuple[Graph, list[int], set[int]]:
    """The program of `fn(*args)`, and which of its values are arguments and results."""
    jaxpr = opened(jax.make_jaxpr(fn)(*args))
    graph = Graph()
    arguments = [graph.argument(var.aval) for var in jaxpr.invars]
    return graph, arguments, set(graph.walk(jaxpr, arguments))


def flops_by_dependence(fn: Callable, first: Any, *rest: Any) -> tuple[float, float]:
    """Operations of `fn(first, *rest)`: all of them, and those whose results depend on `first`.

    Args:
        fn: function of pytrees of arrays.
        first: what the second figure must depend on.
        *rest: the other arguments.

    Example:
        >>> vector, matrix = jax.ShapeDtypeStruct((10,), "float32"), jax.ShapeDtypeStruct((10, 10), "float32")
        >>> flops_by_dependence(lambda v, m: (m @ m) @ v, vector, matrix)
        (2200.0, 200.0)
    """
    graph, arguments, outputs = _graph(fn, (first, *rest))
    needed = graph.decide(outputs)
    depends = set(arguments[: len(jax.tree.leaves(first))])
    for i, value in enumerate(graph.values):
        if not depends.isdisjoint(value.inputs):
            depends.add(i)
    flops = [value.flops * wanted for value, wanted in zip(graph.values, needed, strict=True)]
    return sum(flops), sum(flops[i] for i in depends)


def leaves_used(fn: Callable, first: Any, *rest: Any) -> tuple[int, ...]:
    """Positions of the leaves of `first` that `fn(first, *rest)` uses; one that a loop takes counts as used.

    Example:
        >>> leaves_used(lambda tree, x: x * tree["b"], {"a": 1.0, "b": 2.0}, 3.0)
        (1,)
    """
    graph, arguments, outputs = _graph(fn, (first, *rest))
    graph.decide(outputs)
    own = arguments[: len(jax.tree.leaves(first))]
    return tuple(at for at, i in enumerate(own) if graph.values[i].roots or i in outputs)
