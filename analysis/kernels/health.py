"""The gate before the store: what every kernel is checked for, and what is refused."""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.linalg import eigvalsh
from scipy.sparse.linalg import eigsh

from analysis.errors import HealthError
from analysis.kernels import Outputs, Precision
from analysis.kernels.functions import Function, Params
from analysis.kernels.jacobian import jacobian_rows, products
from analysis.kernels.tiled import RowSource, mirrored

# Float32 Jacobians agree with float64 ones to about 1e-6 of the largest entry (docs/theory.md, section 5); ten times a
# figure that rounding explains is an error that it doesn't.
LARGEST_SYMMETRY_ERROR = 1e-5
LARGEST_RECOMPUTATION_ERROR = 1e-4
# Float64 sums keep the Gram matrix of rounded rows positive semi-definite; float32 sums only nearly.
SMALLEST_EIGENVALUE = {"float64": -1e-10, "float32": -1e-5}
RECOMPUTED = 3
DENSE_EIGENVALUES = 6000
"""Rows up to which all eigenvalues are computed; above, only the two ends (Lanczos)."""


@dataclass(frozen=True)
class Health:
    """What is known of a kernel's numbers; errors are relative to the largest entry.

    Attributes:
        symmetry_error: largest difference between the kernel and its transpose, where both sides were computed: on the
            diagonal blocks, and on a random sub-block computed again with rows and columns exchanged.
        recomputation_error: largest difference to a random sub-block from a float64 Jacobian.
        smallest_eigenvalue: over the largest one; at or above zero but for rounding.
        precision: arithmetic of the sums over parameters.
        recomputed: positions of the examples of the sub-block.
        reason: why the kernel is refused; empty for a healthy one.
    """

    symmetry_error: float
    recomputation_error: float
    smallest_eigenvalue: float
    precision: Precision
    recomputed: tuple[int, ...]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {**asdict(self), "recomputed": list(self.recomputed)}

    def require(self, name: str) -> None:
        """Refuse the kernel if it failed a check.

        Raises:
            HealthError: with the reason.
        """
        if self.reason:
            raise HealthError(f"{name} is refused: {self.reason}")


def doubled(tree: Any) -> Any:
    """The same tree with every floating-point array in float64; call it under `jax.enable_x64`."""

    def double(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
        return jnp.asarray(np.asarray(leaf), jnp.float64) if floating else leaf

    return jax.tree.map(double, tree)


def dense_block(fn: Function, params: Params, images: Any, outputs: Outputs) -> Float[np.ndarray, "m m *k"]:
    """Kernel of a few examples, everything in float64.

    Args:
        fn: the function; its floating-point leaves and `params` are raised to float64.
        params: where to differentiate.
        images: the examples (m, ...).
        outputs: kind of kernel.

    Returns:
        The kernel of `images` with themselves.
    """
    # One group of all leaves: the sub-block is compared with the sum over groups
    leaves = (tuple(range(len(jax.tree.leaves(params)))),)
    with jax.enable_x64(True):
        rows = jacobian_rows(doubled(fn), doubled(params), doubled(images), leaves, outputs == "pseudo")
        return np.asarray(products(rows, rows, outputs)[0])


def check_kernel(
    kernel: Float[np.ndarray, "n n *k"],
    source: RowSource,
    images: Any,
    *,
    outputs: Outputs,
    precision: Precision = "float64",
    seed: int = 0,
    double_fn: Function | None = None,
) -> Health:
    """Check the symmetric kernel of `images`.

    Args:
        kernel: as computed, in the shape that `outputs` says.
        source: what its Jacobian rows came from.
        images: its examples (n, ...).
        outputs: kind of kernel.
        precision: arithmetic of its sums.
        seed: draws the examples of the sub-block.
        double_fn: the same function in float64 where raising its arrays isn't enough (a compute dtype inside).

    Returns:
        The figures, and the reason for refusal if there is one.
    """
    finite = bool(np.isfinite(kernel).all())
    largest = float(np.abs(kernel).max()) if finite else np.inf
    # At most a tile, which is what the source's program takes
    count = min(RECOMPUTED, len(images), source.tile)
    # Drawn again from the same seed, a resumed run checks the same examples
    chosen = np.sort(np.random.default_rng([seed, len(images)]).choice(len(images), count, replace=False))
    if not finite or not largest:
        what = "all its entries are zero: no parameter has a gradient" if finite else "it has NaN or infinite entries"
        return Health(np.inf, np.inf, -np.inf, precision, tuple(map(int, chosen)), what)
    block = kernel[np.ix_(chosen, chosen)]
    again = dense_block(double_fn or source.fn, source.params, np.asarray(images)[chosen], outputs)
    recomputation = float(np.abs(block - again).max()) / largest
    # By the same program in another tile: an example's rows mustn't depend on its companions
    rows = source.rows(np.asarray(images)[chosen])
    whole = sum(np.asarray(part, np.float64) for part in products(rows, rows, outputs, precision, source.mesh))
    # Rows beyond `chosen` are padding
    turned = mirrored(np.asarray(whole)[: len(chosen), : len(chosen)])
    symmetry = max(float(np.abs(kernel - mirrored(kernel)).max()), float(np.abs(block - turned).max())) / largest
    smallest = min(smallest_over_largest(matrix) for matrix in matrices(kernel))
    reasons = [
        f"{what} is {value:.1e}, {limit:.0e} is allowed"
        for what, value, limit, bad in (
            ("its error against a float64 recomputation", recomputation, LARGEST_RECOMPUTATION_ERROR, 1),
            ("its asymmetry", symmetry, LARGEST_SYMMETRY_ERROR, 1),
            ("its smallest eigenvalue over the largest", smallest, SMALLEST_EIGENVALUE[precision], -1),
        )
        # A sign turns the lower limit into an upper one; NaN fails as well
        if not bad * value <= bad * limit
    ]
    return Health(symmetry, recomputation, smallest, precision, tuple(map(int, chosen)), "; ".join(reasons))


def matrices(kernel: Float[np.ndarray, "n n *k"]) -> list[Float[np.ndarray, "m m"]]:
    """Square matrices that must be positive semi-definite: one sample-major matrix, or one for each output.

    Example:
        >>> [m.shape for m in matrices(np.zeros((2, 2, 3, 3)))], len(matrices(np.zeros((2, 2, 3))))
        ([(6, 6)], 3)
    """
    if kernel.ndim == 4:
        n, _, k, _ = kernel.shape
        return [kernel.transpose(0, 2, 1, 3).reshape(n * k, n * k)]
    return [kernel] if kernel.ndim == 2 else [kernel[..., c] for c in range(kernel.shape[-1])]


def smallest_over_largest(matrix: Float[np.ndarray, "m m"]) -> float:
    """Smallest eigenvalue over the largest one.

    Example:
        >>> smallest_over_largest(np.diag([4.0, 1.0, 2.0]))
        0.25
    """
    m = len(matrix)
    matrix = 0.5 * (matrix + matrix.T)
    if m <= DENSE_EIGENVALUES:
        values = eigvalsh(matrix, check_finite=False)
        # Nothing to divide by: a matrix of zeros passes, one with negative eigenvalues only fails
        return float(values[0] / values[-1]) if values[-1] > 0 else -np.inf if values[0] < 0 else 0.0
    # A fixed start: Lanczos, and so the stored figure, gives the same number at every run
    start = np.random.default_rng(0).standard_normal(m)
    largest = float(eigsh(matrix, 1, which="LA", v0=start, return_eigenvectors=False)[0])
    # The small end of a kernel is crowded; turned around, it is the large end, which Lanczos finds quickly.
    turned = largest * np.eye(m) - matrix
    distance = float(eigsh(turned, 1, which="LA", v0=start, tol=1e-6, return_eigenvectors=False)[0])
    return (largest - distance) / largest
