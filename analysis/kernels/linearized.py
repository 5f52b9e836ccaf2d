"""A function's first-order model around its parameters, f(θ + δ, x) ≈ f(θ, x) + J(x) δ, without storing a Jacobian.

J(x) δ is one forward pass over all tiles, J(x)ᵀ v one reverse pass, which adds up a tree of the parameters' size.
Memory is that of one tile's passes plus 16 bytes a parameter on the host, whatever n and k are.

The tree is added up across tiles in float64 on the host: it moves p numbers a tile, while the next tile is being
computed, and no compiler can rearrange it. (A compensated sum on the device would stay correct only as long as XLA
keeps (a + b) - a as written.)
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from analysis.errors import FunctionError
from analysis.kernels.batches import Checked, check_all, one_behind, tile_size, tiles
from analysis.kernels.functions import ApplyFn, Function, Params

DEFAULT_TILE = 32
"""Examples in a tile where none is asked for."""


@jax.jit
def _values(fn: Function, params: Params, x: jax.Array) -> jax.Array:
    """Outputs of one tile."""
    # TF32 would cost three digits (docs/theory.md, section 5)
    with jax.default_matmul_precision("highest"):
        return fn(params, x)


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


def finite(array: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Refuse derivatives that are NaN or infinite.

    Raises:
        FunctionError: there are such.
    """
    if not np.isfinite(array).all():
        raise FunctionError(
            "expected finite derivatives; a product with the Jacobian has NaN or infinity: look for a square root, "
            "norm or logarithm at zero in apply_fn"
        )
    return array


def vectors(v: Any, shape: tuple[int, int], name: str = "v") -> Float[np.ndarray, "n k"]:
    """One number per example and output, float64.

    Raises:
        FunctionError: another shape, or not finite.
    """
    v = np.asarray(v, np.float64)
    if v.shape != shape:
        raise FunctionError(
            f"expected {name} of shape {shape}, one number per example and output; got {v.shape}: reshape it, examples "
            "first"
        )
    if not np.isfinite(v).all():
        raise FunctionError(f"expected finite numbers in {name}; it has NaN or infinity: look at where it comes from")
    return v


def pulled(checked: Checked, x: Any, v: Float[np.ndarray, "n k"], size: int) -> list[Float[np.ndarray, "..."]]:
    """J(x)ᵀ v, one float64 array a leaf."""

    def parts():
        for rows, tile in tiles(x, size):
            weights = np.zeros((size, v.shape[1]))
            # Zero at the padded examples: they add nothing to the sum
            weights[: rows.stop - rows.start] = v[rows]
            # A pullback takes cotangents of the outputs' own type only
            yield _pull(checked.fn, checked.params, tile, jnp.asarray(weights, checked.shape.dtype))

    total = [np.zeros(leaf.shape) for leaf in jax.tree.leaves(checked.params)]
    for part in one_behind(parts()):
        for leaf, add in zip(total, jax.tree.leaves(part), strict=True):
            leaf += np.asarray(add, np.float64)
    return total


def pushed(
    checked: Checked, x: Any, step: Sequence[Float[Array | np.ndarray, "..."]], size: int
) -> Float[np.ndarray, "n k"]:
    """J(x) δ for a step of one array a leaf."""
    leaves, structure = jax.tree.flatten(checked.params)
    # A tangent has to have its parameter's type
    tangents = structure.unflatten([jnp.asarray(part, leaf.dtype) for part, leaf in zip(step, leaves, strict=True)])
    results = ((rows, _push(checked.fn, checked.params, batch, tangents)) for rows, batch in tiles(x, size))
    return _gathered(results, len(x), checked.shape.outputs)


def _gathered(results: Any, n: int, outputs: int) -> Float[np.ndarray, "n k"]:
    out = np.empty((n, outputs))
    for rows, result in one_behind(results):
        # Without the padding
        out[rows] = np.asarray(result, np.float64)[: rows.stop - rows.start]
    return out


class Linearized:
    """f_lin(x; δ) = f(θ, x) + J(θ, x) δ: the model that the theory of a lazily trained network is about.

    Its tangent kernel is Θ at every δ, so that what it learns and forgets follows from kernels alone.

    Args:
        apply_fn: function of parameters and examples to (n, k), rows independent.
        params: θ, a pytree of floating-point arrays.
        x: some examples, to check the function with.
        tile: examples in a tile, any number; None: 32.

    Attributes:
        outputs: k.

    Raises:
        FunctionError: the function can't be differentiated example by example.
        PlanError: a tile without examples.

    Example:
        >>> square = lambda w, x: jnp.square(x @ w)
        >>> x = jnp.array([[1.0, 2.0], [0.0, 3.0]])
        >>> model = Linearized(square, jnp.array([[1.0], [1.0]]), x)
        >>> model.values(x).ravel().tolist(), model.change(x, jnp.array([[1.0], [0.0]])).ravel().tolist()
        ([9.0, 9.0], [6.0, 0.0])
    """

    def __init__(self, apply_fn: ApplyFn, params: Params, x: Any, *, tile: int | None = None) -> None:
        """Check the function once, for all that follows."""
        self._checked = check_all(apply_fn, params, x)
        self._tile = tile
        self.outputs = self._checked.shape.outputs
        # Refuses a tile below one here rather than at the first product
        tile_size(len(x), tile, DEFAULT_TILE)

    def _size(self, x: Any) -> int:
        return tile_size(len(x), self._tile, DEFAULT_TILE)

    def values(self, x: Any) -> Float[np.ndarray, "n k"]:
        """f(θ, x), float64 of the function's own precision."""
        # As it was when the function was checked: under another setting another program would run
        with jax.enable_x64(self._checked.x64):
            parts = ((rows, _values(self._checked.fn, self._checked.params, t)) for rows, t in tiles(x, self._size(x)))
            return _gathered(parts, len(x), self.outputs)

    def change(self, x: Any, step: Params) -> Float[np.ndarray, "n k"]:
        """J(θ, x) δ: by how much a step δ of the parameters changes the outputs, to first order.

        Args:
            x: examples, (n, ...).
            step: δ, a tree like the parameters.

        Raises:
            FunctionError: another tree than the parameters', or derivatives that aren't finite.
        """
        mine, its = jax.tree.structure(self._checked.params), jax.tree.structure(step)
        shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (self._checked.params, step)]
        if mine != its or shapes[0] != shapes[1]:
            raise FunctionError(
                f"expected a step like the parameters, {mine} of shapes {shapes[0]}; got {its}, {shapes[1]}"
            )
        with jax.enable_x64(self._checked.x64):
            return finite(pushed(self._checked, x, jax.tree.leaves(step), self._size(x)))

    def step(self, x: Any, dual: Float[np.ndarray, "n k"]) -> Params:
        """δ = J(θ, x)ᵀ α: the step of the parameters that the dual coefficients α stand for, float64 leaves.

        Args:
            x: the training examples, (n, ...).
            dual: α, one number for each of them and each output.

        Raises:
            FunctionError: α of another shape, or derivatives that aren't finite.
        """
        v = vectors(dual, (len(x), self.outputs), "dual")
        # By a power of two, and so exactly: coefficients may be far below the smallest float32.
        _, exponent = np.frexp(np.abs(v).max())
        with jax.enable_x64(self._checked.x64):
            parts = pulled(self._checked, x, np.ldexp(v, -exponent), self._size(x))
        return jax.tree.unflatten(
            jax.tree.structure(self._checked.params), [finite(np.ldexp(part, exponent)) for part in parts]
        )


def step_length(step: Params) -> float:
    """‖δ‖: Euclidean length of a tree, summed in float64.

    Example:
        >>> step_length({"a": np.array([3.0]), "b": np.array([4.0])})
        5.0
    """
    return float(np.sqrt(sum(float(np.square(np.asarray(leaf, np.float64)).sum()) for leaf in jax.tree.leaves(step))))
