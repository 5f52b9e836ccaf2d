"""Products of a kernel with vectors, without the kernel and without a Jacobian: Θ(x1, x2) v = J(x1) (J(x2)ᵀ v).

Both passes are those of `linearized`, where memory is explained.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator

from analysis.kernels.batches import Checked, check_all, tile_size, tiles
from analysis.kernels.functions import ApplyFn, Function, Params
from analysis.kernels.jacobian import tile_rows
from analysis.kernels.linearized import DEFAULT_TILE, finite, pulled, pushed, vectors


@jax.jit
def _squares(fn: Function, params: Params, x: jax.Array, output: int | jax.Array) -> jax.Array:
    """Squared length of the Jacobian row of one output, for each example in the tile."""
    leaves = (tuple(range(len(jax.tree.leaves(params)))),)

    def only(params: Params, x: jax.Array) -> jax.Array:
        # Sliced at a traced place: one program serves all outputs
        return jax.lax.dynamic_slice_in_dim(fn(params, x), output, 1, axis=1)

    # [tile, 1, p]
    (rows,) = tile_rows(Partial(only), params, x, leaves, False)
    return jnp.square(rows[:, 0]).sum(axis=1)


def _product(
    checked: Checked, x1: Any, x2: Any, v: Float[np.ndarray, "n2 k"], tile: int | None
) -> Float[np.ndarray, "n1 k"]:
    """Θ(x1, x2) v."""
    # By a power of two, and so exactly: solvers hand over vectors far below the smallest float32.
    _, exponent = np.frexp(np.abs(v).max())
    total = pulled(checked, x2, np.ldexp(v, -exponent), tile_size(len(x2), tile, DEFAULT_TILE))
    out = pushed(checked, x1, total, tile_size(len(x1), tile, DEFAULT_TILE))
    return finite(np.ldexp(out, exponent))


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
    return _product(checked, x, x2, vectors(v, (len(x2), checked.shape.outputs)), tile)


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
        # SciPy hands over (nk,) or (nk, 1)
        v = vectors(np.reshape(x, shape), shape)
        with jax.enable_x64(self._checked.x64):
            out = _product(self._checked, self._x, self._x, v, self._tile)
        self.products += 1
        if self._progress is not None:
            self._progress(self.products)
        return out.reshape(-1)

    def _adjoint(self) -> "KernelOperator":
        # Θ is symmetric
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
        return finite(out).reshape(-1)
