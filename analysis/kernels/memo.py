"""Results of tracing, kept by what they depend on: a second kernel of the same function costs no second trace.

What is kept depends on a function's code and on shapes, never on the values in its arrays.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")
KEPT = 256
"""Results kept in all; the oldest goes first."""
_results: OrderedDict[Hashable, Any] = OrderedDict()


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
