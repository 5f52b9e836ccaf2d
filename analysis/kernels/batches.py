"""Examples in tiles of one size, so that one compiled function serves them all; shared by the ways that store no J."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from analysis.errors import FunctionError, PlanError
from analysis.kernels.functions import (
    ApplyFn,
    Function,
    Params,
    Shape,
    as_partial,
    check_images,
    check_params,
    check_rows,
)
from analysis.kernels.functions import inspect as inspect_sizes
from analysis.kernels.tracing import x64_enabled

Result = TypeVar("Result")


@dataclass(frozen=True)
class Checked:
    """A function, parameters and sizes that passed every check.

    Attributes:
        fn: the function, a pytree.
        params: parameters on the device.
        shape: sizes.
        rounding: relative rounding error of one operation at the least precise of outputs and parameters.
        x64: whether JAX had float64 when the checks were made; what was checked must be computed the same way.
    """

    fn: Function
    params: Params
    shape: Shape
    rounding: float
    x64: bool


def check_all(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    x2: Any = None,
    *,
    name: str = "x",
    apply_fn2: ApplyFn | None = None,
) -> Checked:
    """Run every check of `functions` before something is computed.

    Args:
        apply_fn: function of parameters and examples to (n, k).
        params: its parameters.
        x: examples.
        x2: a second set of examples, or None.
        name: what the caller calls the first set.
        apply_fn2: a second function, of the same parameters and the second set (the first where there is none).

    Raises:
        FunctionError: no kernel can be computed from these.

    Example:
        >>> checked = check_all(lambda p, x: x @ p, jnp.ones((3, 2)), jnp.ones((4, 3)))
        >>> checked.shape.outputs, checked.shape.parameters
        (2, 6)
    """
    check_params(params)
    check_images(x, name)
    if x2 is not None:
        check_images(x2, "x2")
        if x2.shape[1:] != x.shape[1:]:
            wanted = f"({', '.join(['n', *map(str, x.shape[1:])])})"
            raise FunctionError(f"expected x2 of shape {wanted} like {name}; got {x2.shape}")
    # Shapes before values: a function that fails on these shapes says so before anything is evaluated
    shape = inspect_sizes(apply_fn, params, x)
    check_rows(apply_fn, params, x)
    if apply_fn2 is not None:
        try:
            inspect_sizes(apply_fn2, params, x if x2 is None else x2)
            check_rows(apply_fn2, params, x if x2 is None else x2)
        except FunctionError as error:
            raise FunctionError(f"apply_fn2: {error}") from error
    # Once, here: every tile's call would copy arrays of the host to the device anew
    params = jax.tree.map(jnp.asarray, params)
    # The least precise of them rules: float32 parameters under float64 outputs still round to float32
    rounding = max(float(jnp.finfo(d).eps) for d in (shape.dtype, *(leaf.dtype for leaf in jax.tree.leaves(params))))
    return Checked(as_partial(apply_fn), params, shape, rounding, x64_enabled())


def tile_size(n: int, tile: int | None, default: int) -> int:
    """Examples in a tile: what was asked for, or the default, and never more than there are.

    Raises:
        PlanError: fewer than one.

    Example:
        >>> tile_size(10, None, 32), tile_size(10, 3, 32)
        (10, 3)
    """
    if tile is not None and tile < 1:
        raise PlanError(f"expected tile to be 1 or more examples; got {tile}: leave it out or choose a larger one")
    return min(n, default if tile is None else tile)


def padded(x: Any, size: int) -> Shaped[np.ndarray, "m ..."]:
    """Fill up with copies of the last example, to a multiple of `size`.

    Finite derivatives are certain there, while a row of zeros may have none (a norm's gradient at zero).

    Args:
        x: examples, (n, ...).
        size: what their number becomes a multiple of.

    Example:
        >>> padded(np.arange(3), 2).tolist()
        [0, 1, 2, 2]
    """
    x = np.asarray(x)
    # What the number lacks to the next multiple
    missing = -len(x) % size
    return np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing else x


def tiles(x: Any, size: int) -> Iterator[tuple[slice, jax.Array]]:
    """Cut examples into tiles of exactly `size` rows, the last one padded.

    Args:
        x: examples, (n, ...).
        size: rows of a tile, at most n.

    Yields:
        Which rows of x the tile begins with, and the tile, (size, ...).

    Example:
        >>> [(rows, tile.tolist()) for rows, tile in tiles(jnp.arange(3.0), 2)]
        [(slice(0, 2, None), [0.0, 1.0]), (slice(2, 3, None), [2.0, 2.0])]
    """
    for start in range(0, len(x), size):
        stop = min(start + size, len(x))
        # Padded on the host, so that the device sees one shape and the function is compiled once
        yield slice(start, stop), jnp.asarray(padded(x[start:stop], size))


def one_behind(results: Iterable[Result]) -> Iterator[Result]:
    """Hand out each result when the next one was asked for: the device works on it while the host reads the last.

    Example:
        >>> list(one_behind([1, 2, 3]))
        [1, 2, 3]
    """
    # JAX hands results out before they are computed; reading one waits for it, so that one is left running meanwhile
    waiting: list[Result] = []
    for result in results:
        waiting.append(result)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting
