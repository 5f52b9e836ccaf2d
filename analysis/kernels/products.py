"""Products of a kernel with vectors, without the kernel and without a Jacobian: Θ(x1, x2) v = J(x1) (J(x2)ᵀ v).

Jᵀ v is one reverse pass over all tiles, which adds up a tree of the parameters' size; J of that tree is one forward
pass over all tiles. Memory is that of one tile's passes plus 16 bytes a parameter on the host, whatever n and k are.

The tree is added up across tiles in float64 on the host: it moves p numbers a tile, while the next tile is being
computed, and no compiler can rearrange it. (A compensated sum on the device would stay correct only as long as XLA
keeps (a + b) - a as written.)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator

from analysis.errors import FunctionError
from analysis.kernels.batches import Checked, check_all, one_behind, tile_size, tiles
from analysis.kernels.functions import ApplyFn, Function, Params
from analysis.kernels.jacobian import tile_rows

DEFAULT_TILE = 32
"""Examples in a tile where none is asked for."""


@jax.jit
def _pull(fn: Function, params: Params, x: jax.Array, v: jax.Array) -> Params:
    """J(x)ᵀ v of one tile."""
    with jax.default_matmul_precision("highest"):
        return jax.vjp(lambda p: fn(p, x), params)[1](v)[0]


@jax.jit
def _push(fn: Function, params: Params, x: jax.Array, tangents: Params) -> jax.Array:
    """J(x) t of one tile."""
    with jax.default_matmul_precision("highest"):
        return jax.jvp(lambda p: fn(p, x), (params,), (tangents,))[1]


@jax.jit
def _squares(fn: Function, params: Params, x: jax.Array, output: int | jax.Array) -> jax.Array:
    """Squared length of the Jacobian row of one output, for each example in the tile."""
    leaves = (tuple(range(len(jax.tree.leaves(params)))),)

    def only(params: Params, x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(fn(params, x), output, 1, axis=1)

    (rows,) = tile_rows(Partial(only), params, x, leaves, False)
    return jnp.square(rows[:, 0]).sum(axis=1)


def _finite(array: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    if not np.isfinite(array).all():
        raise FunctionError(
            "expected finite derivatives; a kernel-vector product has NaN or infinity: look for a square root, norm or "
            "logarithm at zero in apply_fn"
        )
    return array


def _transposed_product(
    checked: Checked, x: Any, v: Float[np.ndarray, "n k"], size: int
) -> list[Float[np.ndarray, "..."]]:
    """J(x)ᵀ v, one float64 array a leaf."""

    def parts():
        for rows, tile in tiles(x, size):
            weights = np.zeros((size, v.shape[1]))
            weights[: rows.stop - rows.start] = v[rows]
            yield _pull(checked.fn, checked.params, tile, jnp.asarray(weights, checked.shape.dtype))

    total = [np.zeros(leaf.shape) for leaf in jax.tree.leaves(checked.params)]
    for part in one_behind(parts()):
        for leaf, add in zip(total, jax.tree.leaves(part), strict=True):
            leaf += np.asarray(add, np.float64)
    return total


def _product(
    checked: Checked, x1: Any, x2: Any, v: Float[np.ndarray, "n2 k"], tile: int | None
) -> Float[np.ndarray, "n1 k"]:
    """Θ(x1, x2) v."""
    # By a power of two, and so exactly: solvers hand over vectors far below the smallest float32.
    _, exponent = np.frexp(np.abs(v).max())
    total = _transposed_product(checked, x2, np.ldexp(v, -exponent), tile_size(len(x2), tile, DEFAULT_TILE))
    leaves, structure = jax.tree.flatten(checked.params)
    tangents = structure.unflatten([jnp.asarray(part, leaf.dtype) for part, leaf in zip(total, leaves, strict=True)])
    size = tile_size(len(x1), tile, DEFAULT_TILE)
    results = ((rows, _push(checked.fn, checked.params, batch, tangents)) for rows, batch in tiles(x1, size))
    out = np.empty((len(x1), v.shape[1]))
    for rows, result in one_behind(results):
        out[rows] = np.asarray(result, np.float64)[: rows.stop - rows.start]
    return _finite(np.ldexp(out, exponent))


def _vectors(v: Any, shape: tuple[int, int]) -> Float[np.ndarray, "n k"]:
    v = np.asarray(v, np.float64)
    if v.shape != shape:
        raise FunctionError(
            f"expected v of shape {shape}, one number per example and output; got {v.shape}: reshape it, examples first"
        )
    if not np.isfinite(v).all():
        raise FunctionError("expected finite numbers in v; it has NaN or infinity: look at where it comes from")
    return v


def ntk_vector_product(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    v: Float[Any, "n2 k"],
    *,
    x2: Any = None,
    tile: int | None = None,
) -> Float[np.ndarray, "n k"]:
    """Multiply a kernel with a vector: out[i, c] = Σ_jd Θ(x, x2)[i, j, c, d] v[j, d], without computing Θ.

    For many products with one kernel use `KernelOperator`, which checks its inputs once.

    Args:
        apply_fn: function of parameters and examples to (n, k), rows independent.
        params: a pytree of floating-point arrays.
        x: examples of the kernel's rows, (n, ...).
        v: one number per example and output of the kernel's columns.
        x2: examples of the kernel's columns, (n2, ...); None: x.
        tile: examples in a tile, any number; None: 32.

    Returns:
        The product in float64, correct to the rounding of `params`' own precision.

    Raises:
        FunctionError: inputs that have no kernel, v of another shape, or derivatives that aren't finite.
        PlanError: a tile without examples.

    Example:
        >>> linear = lambda w, x: x @ w  # Θ(x, x') = x·x' for each output
        >>> x = jnp.array([[1.0, 2.0], [0.0, 3.0]])
        >>> ntk_vector_product(linear, jnp.ones((2, 1)), x, np.ones((2, 1))).tolist()
        [[11.0], [15.0]]
    """
    checked = check_all(apply_fn, params, x, x2)
    x2 = x if x2 is None else x2
    return _product(checked, x, x2, _vectors(v, (len(x2), checked.shape.outputs)), tile)


class KernelOperator(LinearOperator):
    """Θ(x, x) as a SciPy operator on float64 vectors of length n·k; entry i*k + c is output c of example i.

    Args:
        apply_fn: function of parameters and examples to (n, k), rows independent.
        params: a pytree of floating-point arrays.
        x: examples, (n, ...).
        tile: examples in a tile, any number; None: 32.
        progress: called with the number of products so far, after each one.

    Attributes:
        products: kernel-vector products so far.
        examples: n.
        outputs: k.
        rounding: relative error to expect of a product.

    Raises:
        FunctionError: inputs that have no kernel.
        PlanError: a tile without examples.

    Example:
        >>> theta = KernelOperator(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.array([[1.0, 2.0], [0.0, 3.0]]))
        >>> theta.shape, (theta @ np.array([1.0, 1.0])).tolist(), theta.diagonal().tolist(), theta.products
        ((2, 2), [11.0, 15.0], [5.0, 9.0], 1)
    """

    def __init__(
        self,
        apply_fn: ApplyFn,
        params: Params,
        x: Any,
        *,
        tile: int | None = None,
        progress: Callable[[int], None] | None = None,
    ):
        self._checked = check_all(apply_fn, params, x)
        self._x = x
        self._tile = tile
        self._progress = progress
        self.products = 0
        self.examples = len(x)
        self.outputs = self._checked.shape.outputs
        self.rounding = self._checked.rounding
        tile_size(len(x), tile, DEFAULT_TILE)
        super().__init__(np.float64, (self.examples * self.outputs,) * 2)

    def _matvec(self, x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "nk"]:
        shape = (self.examples, self.outputs)
        vectors = _vectors(np.reshape(x, shape), shape)
        with jax.enable_x64(self._checked.x64):
            out = _product(self._checked, self._x, self._x, vectors, self._tile)
        self.products += 1
        if self._progress is not None:
            self._progress(self.products)
        return out.reshape(-1)

    def _adjoint(self) -> "KernelOperator":
        return self

    def diagonal(self) -> Float[np.ndarray, "nk"]:
        """The diagonal, exactly: squared lengths of the Jacobian's rows, k reverse passes over the examples.

        Memory is that of one Jacobian row for each example of a tile.
        """
        size = tile_size(self.examples, self._tile, DEFAULT_TILE)
        out = np.empty((self.examples, self.outputs))
        with jax.enable_x64(self._checked.x64):
            for rows, tile in tiles(self._x, size):
                for c in range(self.outputs):
                    squares = _squares(self._checked.fn, self._checked.params, tile, c)
                    out[rows, c] = np.asarray(squares, np.float64)[: rows.stop - rows.start]
        return _finite(out).reshape(-1)
