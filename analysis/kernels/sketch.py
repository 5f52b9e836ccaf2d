"""Kernels from randomly projected Jacobians: Θ(x1, x2) ≈ (J(x1) S)(J(x2) S)ᵀ with p parameters folded into `width`.

S is a CountSketch: every parameter goes into one random column, with a random sign, so that E[S Sᵀ] = I. For rows u, v

    Var(u S · v S) = q (|u|² |v|² + (u · v)² - 2 Σ_i u_i² v_i²),

q the probability that two given parameters share a column (Charikar, Chen, Farach-Colton 2004; the variance follows
from pairwise equal columns and independent signs). Columns get equal numbers of parameters here, for three reasons:
q = (B - 1) / (B m - 1) with B parameters in each of m columns is a little below 1/m; a sketch as wide as p is exact;
and a fold is a gather and a sum, which gives the same bits everywhere, while a scatter's order is left to a GPU.

Measured on one core, 64 rows to 4,096 columns, p = 76 thousand (1 million): fold 10-31 ms (0.3 s), scatter 5 ms
(0.14 s), subsampled Hadamard 72 ms (0.63 s), at errors that differ by chance only; dense signs half a second at 512
columns. The rows themselves take a second and more, so the fold's repeatability costs next to nothing.

S has two independent halves. Their kernels are both unbiased: the difference measures the error of their mean, and
their inner product estimates |Θ|² without bias.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from analysis.errors import PlanError
from analysis.kernels import OUTPUTS, Outputs
from analysis.kernels.batches import check_all, tile_size
from analysis.kernels.functions import ApplyFn, Params
from analysis.kernels.jacobian import products
from analysis.kernels.tiled import WHOLE, Grid, Memory, RowSource, finite, kernel_shape, mirrored

HALVES = 2
ROWS_BUDGET = 2**26
"""Numbers in the Jacobian rows of a tile, where no tile is asked for: 256 MiB of float32."""
BLOCK_ROWS = 1024
"""Rows of a block of the final product."""


@dataclass(frozen=True)
class SketchedKernel:
    """An unbiased estimate of a kernel; symmetric and positive semidefinite where x2 is x1, to rounding in float64.

    Both errors are |estimate - Θ| / |Θ| in the Frobenius norm, and fall like 1/√width. They are infinite where the
    sketch is too narrow to tell Θ from zero.

    Attributes:
        kernel: the estimate; shape by `outputs`.
        predicted_error: root mean square over seeds by the variance of a CountSketch, with traces and norms estimated
            from the sketch; an upper bound, for `trace` at most √2 too large where one column rarely holds much.
        measured_error: of this seed, from the difference of the two halves.
        width: columns of S.
        seed: of S.
    """

    kernel: Float[np.ndarray, "n1 n2 *k"]
    predicted_error: float
    measured_error: float
    width: int
    seed: int


@partial(jax.jit, static_argnames="half")
def _fold(
    rows: Float[Array, "b r p"], places: Int[Array, "h q"], signs: Int[Array, "h q"], half: int
) -> Float[Array, "h b r m"]:
    """Rows times each half of S: parameters in random order, in layers of `half`, added up with signs."""
    # Zeros fill up the last layer; whichever column they fall into, they add nothing
    padded = jnp.pad(rows, ((0, 0), (0, 0), (0, places.shape[1] - rows.shape[2])))

    def fold(places: Array, signs: Array) -> Array:
        # Places are a permutation, so that nothing is out of bounds and the check can be left out
        mixed = jnp.take(padded, places, axis=2, mode="clip") * signs
        # [b, r, layers, half]: column c adds up the c-th of every layer
        return mixed.reshape(*rows.shape[:2], -1, half).sum(axis=2)

    return jnp.stack([fold(*one) for one in zip(places, signs, strict=True)])


def _draw(parameters: int, half: int, seed: int) -> tuple[Int[np.ndarray, "h q"], Int[np.ndarray, "h q"]]:
    """Order and signs of the parameters, filled up to a multiple of `half`; NumPy's, the same on every device."""
    size = -(-parameters // half) * half
    rng = np.random.default_rng(seed)
    places = np.stack([rng.permutation(size).astype(np.int32 if size < 2**31 else np.int64) for _ in range(HALVES)])
    return places, rng.choice(np.array([-1, 1], np.int8), (HALVES, size))


def sketched_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Any,
    x2: Any = None,
    *,
    width: int,
    seed: int,
    outputs: Outputs = "full",
    tile: int | None = None,
) -> SketchedKernel:
    """Estimate a kernel from Jacobians projected onto `width` random directions.

    Takes as many passes as the exact kernel, but only width/p of its memory and of its matrix product: for n·k rows
    that are too many to hold. The relative error is about √((r + 1) / width) with r = (tr Θ)² / |Θ|², the effective
    number of eigenvalues, whatever n, k and p are.

    Args:
        apply_fn: function of parameters and examples to (n, k), rows independent.
        params: a pytree of floating-point arrays.
        x1: examples of the kernel's rows, (n1, ...).
        x2: examples of the kernel's columns, (n2, ...); None: x1.
        width: columns of the projection, even; 2p and more are exact.
        seed: of the projection; kernels that are compared must share it.
        outputs: `full` (n1, n2, k, k), `trace` (n1, n2), `diagonal` (n1, n2, k) or `pseudo` (n1, n2).
        tile: examples whose Jacobian rows are held at a time, any number; None: as fit into 256 MiB.

    Returns:
        The kernel with its errors.

    Raises:
        FunctionError: inputs that have no kernel, or derivatives that aren't finite.
        PlanError: a width that is odd or less than 2, a tile without examples, or an unknown kind of outputs.

    Example:
        >>> linear = lambda w, x: x @ w  # Θ(x, x') = x·x' for each output
        >>> x = np.array([[1.0, 2.0], [0.0, 3.0]], np.float32)
        >>> sketched_ntk(linear, jnp.ones((2, 1)), x, width=4, seed=0, outputs="trace").kernel.tolist()
        [[5.0, 6.0], [6.0, 9.0]]
    """
    if width < HALVES or width % HALVES:
        raise PlanError(f"expected an even width of 2 or more; got {width}: it is split into two independent halves")
    if outputs not in OUTPUTS:
        raise PlanError(f"expected outputs to be one of {', '.join(OUTPUTS)}; got {outputs}")
    checked = check_all(apply_fn, params, x1, x2)
    k, p = checked.shape.outputs, checked.shape.parameters
    summed = outputs == "pseudo"
    # As many examples as the budget has numbers for, at least one
    default = max(1, ROWS_BUDGET // (p * (1 if summed else k)))
    half = width // HALVES
    places, signs = (jnp.asarray(part) for part in _draw(p, half, seed))

    def sketch(x: Any) -> Float[np.ndarray, "h n r m"]:
        source = RowSource(checked.fn, checked.params, checked.shape, tile_size(len(x), tile, default), summed)
        parts = []
        for start in range(0, len(x), source.tile):
            rows = slice(start, min(start + source.tile, len(x)))
            # [tile, r, p]
            (whole,) = jax.tree.leaves(source.rows(x[rows]))  # one group
            (part,) = finite((_fold(whole, places, signs, half),), rows)
            # [h, n, r, m], without the padding
            parts.append(np.asarray(part)[:, : rows.stop - start])
        return np.concatenate(parts, axis=1)

    first = sketch(x1)
    second = first if x2 is None else sketch(x2)
    # So many examples that a block has about BLOCK_ROWS rows, whatever the outputs
    grid = Grid(len(x1), None if x2 is None else len(x2), max(1, BLOCK_ROWS // first.shape[2]))
    kernel, norm2, difference2 = _multiply(first, second, grid, outputs)
    # B of the module's formula, parameters in a column; the variance of a mean of two halves is half of one's
    layers = places.shape[1] // half
    shared = (layers - 1) / max(1, places.shape[1] - 1)
    variance = shared / HALVES * _spread(first[0], second[1], outputs, norm2)
    # Half of the difference of two independent estimates scatters as their mean does
    predicted, measured = ((_relative(error2, norm2)) for error2 in (variance, difference2 / HALVES**2))
    return SketchedKernel(kernel, predicted, measured, width, seed)


def _multiply(
    first: Float[np.ndarray, "h n1 r m"], second: Float[np.ndarray, "h n2 r m"], grid: Grid, outputs: Outputs
) -> tuple[Float[np.ndarray, "n1 n2 *k"], float, float]:
    """Mean of the halves' kernels, their inner product, and the square of their difference; sums in float64."""
    memory = Memory(grid, kernel_shape(grid, outputs, first.shape[2]), (WHOLE,))
    inner = difference = 0.0
    for i, j in grid.pairs():
        with jax.enable_x64(True):  # rows may be in float64
            rows, columns = (tuple(jnp.asarray(side)) for side in (first[:, grid.rows(i)], second[:, grid.columns(j)]))
        # The halves go through as two groups: one block each
        a, b = (np.asarray(block, np.float64) for block in products(rows, columns, outputs))
        block = (a + b) / HALVES
        if grid.symmetric and i == j:
            block = (block + mirrored(block)) / 2  # the product of a matrix with itself is symmetric to rounding only
        memory.put(i, j, {WHOLE: block})
        # A block beside the diagonal stands for its mirror image as well
        times = 2 if grid.symmetric and i != j else 1
        inner += times * float(np.vdot(a, b))
        difference += times * float(np.square(a - b).sum())
    return memory.arrays[WHOLE], inner, difference


def _spread(
    first: Float[np.ndarray, "n1 r m"], second: Float[np.ndarray, "n2 r m"], outputs: Outputs, norm2: float
) -> float:
    """Sum over the kernel's entries of |u|² |v|² + (u · v)², from independent halves, so that products are unbiased."""
    g1, g2 = (np.einsum("icm,idm->cd", y, y, dtype=np.float64, optimize=True) for y in (first, second))
    if outputs == "trace":
        # An entry is a trace of SᵀMS with M = Σ_c v_c u_cᵀ / k: |M|² + tr M², and tr M² is at most |M|².
        return 2 * float(np.sum(g1 * g2)) / len(g1) ** 2
    if outputs == "diagonal":
        return float(np.sum(np.diag(g1) * np.diag(g2))) + norm2
    return float(np.trace(g1) * np.trace(g2)) + norm2


def _relative(error2: float, norm2: float) -> float:
    if error2 <= 0:
        return 0.0
    return float(np.sqrt(error2 / norm2)) if norm2 > 0 else float("inf")
