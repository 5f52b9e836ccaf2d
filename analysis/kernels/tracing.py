"""What a function's program tells before it runs: which parameters it uses, how many operations it has.

Results are kept by what they depend on, a function's code and shapes, never the values in its arrays: a second kernel
of the same function costs no second trace.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

T = TypeVar("T")
KEPT = 256
"""Results kept in all; the oldest goes first."""
_results: OrderedDict[Hashable, Any] = OrderedDict()
CALLED_ONCE = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Names of the parameter that holds the function that an equation calls."""


def remembered(what: str, tree: Any, static: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` gives, or gave for the same code, shapes and settings.

    Args:
        what: name of the result.
        tree: pytree of functions (`jax.tree_util.Partial`) and arrays.
        static: settings that the result depends on.
        make: computes the result; an exception is not kept.

    Returns:
        The result, as `make` returned it.

    Example:
        >>> calls = []
        >>> for value in (1.0, 2.0):
        ...     _ = remembered("example", {"a": np.full(3, value)}, None, lambda: calls.append(1))
        >>> len(calls)
        1
    """
    leaves, structure = jax.tree.flatten(tree)
    shapes = tuple((_shape(leaf), np.dtype(getattr(leaf, "dtype", type(leaf)))) for leaf in leaves)
    # The structure holds the functions themselves; x64 decides what types the trace gets
    key = (what, structure, shapes, static, x64_enabled())
    try:
        known = key in _results
    except TypeError:  # a function that can't be hashed can't be found again
        return make()
    if not known:
        _results[key] = make()
        while len(_results) > KEPT:
            _results.popitem(last=False)
    return _results[key]


def x64_enabled() -> bool:
    """Whether JAX has float64 now.

    Example:
        >>> with jax.enable_x64(True):
        ...     x64_enabled()
        True
    """
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape) if hasattr(leaf, "shape") else np.shape(leaf)


def leaves_used(fn: Callable, first: Any, *rest: Any) -> tuple[int, ...]:
    """Positions of the leaves of `first` that `fn(first, *rest)` uses; one that a loop takes counts as used.

    Args:
        fn: function of pytrees of arrays.
        first: its first argument, whose leaves are asked about.
        *rest: the other arguments; `jax.ShapeDtypeStruct` will do for arrays.

    Example:
        >>> leaves_used(lambda tree, x: x * tree["b"], {"a": 1.0, "b": 2.0}, 3.0)
        (1,)
    """
    traced: Any = jax.make_jaxpr(fn)(first, *rest)
    jaxpr: Jaxpr = getattr(traced, "jaxpr", traced)  # newer versions of JAX make no difference between the two
    used = _arguments_used(jaxpr, [True] * len(jaxpr.outvars))
    return tuple(at for at in range(len(jax.tree.leaves(first))) if used[at])


def _arguments_used(jaxpr: Jaxpr, wanted: Sequence[bool]) -> list[bool]:
    """Which arguments the wanted results depend on, found from the end."""
    # A result may be a constant, which no argument leads to
    alive = {atom for atom, want in zip(jaxpr.outvars, wanted, strict=True) if want and not isinstance(atom, Literal)}
    for eqn in reversed(jaxpr.eqns):
        # From the end: every variable is made before it is used, so that one pass is enough
        results = [var in alive for var in eqn.outvars]
        if not any(results):
            continue
        inner = _called(eqn)
        used = [True] * len(eqn.invars) if inner is None else _arguments_used(inner, results)
        alive |= {atom for atom, use in zip(eqn.invars, used, strict=True) if use and not isinstance(atom, Literal)}
    return [var in alive for var in jaxpr.invars]


def _called(eqn: JaxprEqn) -> Jaxpr | None:
    """The function that an equation calls once, argument by argument, if that is all that it does."""
    # Loops, branches and shares of devices: what depends on what can't be read off one pass through the inner function
    if eqn.primitive.name in ("scan", "while", "cond", "shard_map"):
        return None
    for name in CALLED_ONCE:
        inner = getattr(eqn.params.get(name), "jaxpr", eqn.params.get(name))
        if hasattr(inner, "eqns") and len(inner.invars) == len(eqn.invars):
            return inner
    return None


def operations(lowered: jax.stages.Lowered) -> float:
    """Floating-point operations of a program, by XLA's count before it compiles; the body of a loop counts once.

    Example:
        >>> matrix = jax.ShapeDtypeStruct((100, 100), "float32")
        >>> operations(jax.jit(lambda a, b: a @ b).lower(matrix, matrix))
        2000000.0
    """
    counted = lowered.cost_analysis()
    return float((counted or {}).get("flops", 0.0))


def pass_operations(fn: Callable, params: Any, x: Any) -> tuple[float, float]:
    """Operations of one forward pass of `fn(params, x)`, and of a backward pass after it.

    Only what depends on the parameters has a backward pass.

    Args:
        fn: a pytree of a function of parameters and examples, such as `jax.tree_util.Partial`.
        params: its parameters.
        x: examples; `jax.ShapeDtypeStruct` will do.

    Example:
        >>> fn, matrix = jax.tree_util.Partial(lambda w, x: x @ w), jax.ShapeDtypeStruct((3, 5), "float32")
        >>> pass_operations(fn, matrix, np.ones((1, 3), "float32"))
        (30.0, 30.0)
    """

    def count() -> tuple[float, float]:
        # The backward pass is itself a pytree: of what the forward pass kept, known here by shape only.
        out, back = jax.eval_shape(lambda fn, p, x: jax.vjp(lambda p: fn(p, x), p), fn, params, x)
        forward = jax.jit(lambda fn, p, x: fn(p, x)).lower(fn, params, x)
        return operations(forward), operations(jax.jit(lambda back, out: back(out)).lower(back, out))

    return remembered("passes", (fn, params, x), None, count)
