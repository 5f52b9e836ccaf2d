"""Trace and Frobenius norm of a kernel from a few products with random vectors, with error bars.

The library matfree has these estimators for functions that JAX can trace and vectorise, in the precision of one JAX
program. The products here are host functions: a loop over tiles with float64 sums between them. So these are a few
lines of NumPy and SciPy instead.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator

from analysis.errors import FunctionError, PlanError

MIN_PROBES = 2
"""Fewer have no spread."""
ROUNDING = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: the estimate, in the units of what is estimated.
        standard_error: standard deviation of `value` over seeds, from the spread of the probes and from rounding; 0 for
            an exact number. With few probes errors follow Student's t of probes - 1 degrees of freedom.
        probes: random vectors behind the spread; 0 for an exact number.

    Example:
        >>> Estimate(2.0, 0.1, 8)
        Estimate(value=2.0, standard_error=0.1, probes=8)
    """

    value: float
    standard_error: float
    probes: int


def kernel_trace(operator: LinearOperator, *, probes: int, seed: int, directions: int | None = None) -> Estimate:
    """Estimate tr Θ by Hutch++ (Meyer, Musco, Musco, Woodruff 2021), in 2·directions + probes products.

    An orthonormal basis Q of Θ times random signs takes the largest eigenvalues out: tr QᵀΘQ is exact, and random
    signs estimate the rest, tr (I - QQᵀ)Θ(I - QQᵀ), without bias.

    The exact trace of a `KernelOperator`, `operator.diagonal().sum()`, takes the time of about k products (9 at k = 10,
    a 10-block transformer on one core): prefer that one unless there are hundreds of outputs.

    Args:
        operator: Θ, (nk, nk), symmetric.
        probes: random vectors for the rest.
        seed: of all random vectors.
        directions: columns of Q; None: as many as probes; 0: Hutchinson's estimator.

    Returns:
        The trace.

    Raises:
        PlanError: fewer than two probes or a negative number of directions.
        FunctionError: a product isn't finite.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> kernel_trace(aslinearoperator(np.diag([1.0, 2.0])), probes=2, seed=0, directions=0).value
        3.0
    """
    exact, samples = _deflated(operator, probes, seed, directions, squared=False)
    return _estimate(exact, samples, relative_rounding(operator))


def frobenius_norm(operator: LinearOperator, *, probes: int, seed: int, directions: int | None = None) -> Estimate:
    """Estimate |Θ| = √(tr Θ²) by Hutch++ on Θ², in 2·directions + probes products.

    |Θ|² = |ΘQ|² + E |Θ(I - QQᵀ)g|² with random signs g and Q as in `kernel_trace`. The square is unbiased; its root is
    low by half of the squared relative error.

    Args:
        operator: Θ, (nk, nk), symmetric.
        probes: random vectors for the rest.
        seed: of all random vectors.
        directions: columns of Q; None: as many as probes; 0: Hutchinson's estimator.

    Returns:
        The norm.

    Raises:
        PlanError: fewer than two probes or a negative number of directions.
        FunctionError: a product isn't finite.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> frobenius_norm(aslinearoperator(np.diag([3.0, 4.0])), probes=2, seed=0, directions=0).value
        5.0
    """
    exact, samples = _deflated(operator, probes, seed, directions, squared=True)
    square = _estimate(exact, samples, relative_rounding(operator))
    value = float(np.sqrt(max(square.value, 0.0)))
    # The error of a root to first order: d√s = ds / (2√s)
    return Estimate(value, square.standard_error / (2 * value) if value else 0.0, probes)


def relative_rounding(operator: LinearOperator) -> float:
    """Relative error to expect of a product: what the operator says of itself, or float64's."""
    return getattr(operator, "rounding", ROUNDING)


def _estimate(exact: float, samples: Float[np.ndarray, "probes"], rounding: float) -> Estimate:
    value = exact + float(samples.mean())
    # Where the samples agree, rounding in the products is what is left.
    return Estimate(value, float(np.hypot(standard_error_of_mean(samples), rounding * abs(value))), len(samples))


def standard_error_of_mean(samples: Float[np.ndarray, "probes *rest"]) -> Float[np.ndarray, "*rest"]:
    """Standard error of the mean over probes, each one independent."""
    return np.asarray(samples.std(axis=0, ddof=1) / np.sqrt(len(samples)))


def random_signs(rng: np.random.Generator, size: int, count: int) -> Float[np.ndarray, "size count"]:
    """Columns of independent signs."""
    return rng.choice([-1.0, 1.0], (size, count))


def check_probes(probes: int) -> None:
    """Refuse too few probes.

    Raises:
        PlanError: fewer than two.
    """
    if probes < MIN_PROBES:
        raise PlanError(f"expected {MIN_PROBES} or more probes; got {probes}: a single one shows no spread")


def finite_product(operator: LinearOperator, vector: Float[np.ndarray, "nk"]) -> Float[np.ndarray, "nk"]:
    """Θ v.

    Raises:
        FunctionError: NaN or infinity in it.
    """
    product = operator @ vector
    if not np.isfinite(product).all():
        raise FunctionError("expected finite products; Θ v has NaN or infinity: look at what the operator is made of")
    return product


def _columns(operator: LinearOperator, vectors: Float[np.ndarray, "nk count"]) -> Float[np.ndarray, "nk count"]:
    """Products with every column."""
    return np.stack([finite_product(operator, v) for v in vectors.T], axis=1)


def _deflated(
    operator: LinearOperator, probes: int, seed: int, directions: int | None, *, squared: bool
) -> tuple[float, Float[np.ndarray, "probes"]]:
    """The exact part of tr Θ or tr Θ², and independent unbiased samples of the rest."""
    check_probes(probes)
    size = operator.shape[0]
    directions = min(probes if directions is None else directions, size)
    if directions < 0:
        raise PlanError(f"expected directions to be 0 or more; got {directions}")
    rng = np.random.default_rng(seed)
    # The probes' signs come first, so that they are the same for any number of directions
    exact, rest = 0.0, random_signs(rng, size, probes)
    if directions:
        # Q spans Θ times random signs: what Θ stretches most lies in it
        basis, _ = np.linalg.qr(_columns(operator, random_signs(rng, size, directions)))
        product = _columns(operator, basis)
        # tr QᵀΘQ, or tr QᵀΘ²Q = |ΘQ|²
        exact = float(np.sum((product if squared else basis) * product))
        # (I - QQᵀ) g: what lies in Q is counted exactly already
        rest -= basis @ (basis.T @ rest)
    product = _columns(operator, rest)
    return exact, np.sum((product if squared else rest) * product, axis=0)
