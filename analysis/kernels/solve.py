"""Linear systems and eigenvalues of a kernel that is known by its products only (conjugate gradients, Lanczos)."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.sparse import eye_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, aslinearoperator, cg, eigsh

from analysis.errors import AnalysisError, FunctionError, PlanError

RESTARTS = 3
"""How often conjugate gradients begin anew where the residual that they keep has parted from the true one."""


@dataclass(frozen=True)
class RidgeSolution:
    """Dual coefficients of ridge regression.

    Attributes:
        solution: a of (Θ + ridge I) a = y, the targets' shape.
        iterations: conjugate gradient steps of each column.
        residuals: |y - (Θ + ridge I) a| / |y| of each column, recomputed from the solution.
    """

    solution: Float[np.ndarray, "..."]
    iterations: tuple[int, ...]
    residuals: tuple[float, ...]


def ridge_solve(
    operator: LinearOperator,
    targets: Float[Any, "..."],
    ridge: float,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> RidgeSolution:
    """Solve (Θ + ridge I) a = y by conjugate gradients (`scipy.sparse.linalg.cg`), column by column.

    Each iteration is one product; their number grows with the square root of (largest eigenvalue + ridge) / ridge.

    Args:
        operator: Θ, (nk, nk), symmetric and positive semidefinite.
        targets: y, (nk,) or (nk, columns); entry i*k + c belongs to output c of example i.
        ridge: added to the diagonal, in units of Θ's entries; the λ of the sum objective.
        tolerance: largest accepted relative residual.
        max_iterations: conjugate gradient steps a column at most.

    Returns:
        Solution with its recomputed residuals.

    Raises:
        AnalysisError: the tolerance isn't reached.
        FunctionError: targets of another length or not finite.
        PlanError: a negative ridge, or a tolerance or number of iterations that isn't positive.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> ridge_solve(aslinearoperator(np.diag([1.0, 3.0])), np.array([2.0, 8.0]), 1.0).solution.round(6).tolist()
        [1.0, 2.0]
    """
    y = np.asarray(targets, np.float64)
    size = operator.shape[0]
    if y.ndim not in (1, 2) or len(y) != size:
        raise FunctionError(
            f"expected targets of shape ({size},) or ({size}, columns); got {y.shape}: flatten (n, k) with reshape(-1)"
        )
    if not np.isfinite(y).all():
        raise FunctionError("expected finite targets; they have NaN or infinity: look at where they come from")
    if not (math.isfinite(ridge) and ridge >= 0):
        raise PlanError(f"expected ridge to be 0 or more; got {ridge}")
    if tolerance <= 0 or max_iterations < 1:
        raise PlanError(
            f"expected a positive tolerance and at least one iteration; got {tolerance} and {max_iterations}"
        )
    # As an operator: nothing of the kernel's size is made
    regular = operator + aslinearoperator(ridge * eye_array(size))
    columns = [_solve_column(regular, column, tolerance, max_iterations) for column in y.reshape(size, -1).T]
    for i, (_, steps, residual) in enumerate(columns):
        if residual > tolerance:
            remedy = "allow more with max_iterations or raise it" if steps >= max_iterations else "raise it"
            raise AnalysisError(
                f"expected a relative residual of {tolerance:.0e}; column {i} is at {residual:.1e} after {steps} "
                f"iterations with ridge {ridge:.1e}: {remedy}, accept a larger tolerance, or use float64 parameters"
            )
    solution = np.stack([column[0] for column in columns], axis=-1).reshape(y.shape)
    return RidgeSolution(solution, tuple(column[1] for column in columns), tuple(column[2] for column in columns))


def _solve_column(
    regular: LinearOperator, y: Float[np.ndarray, "nk"], tolerance: float, max_iterations: int
) -> tuple[Float[np.ndarray, "nk"], int, float]:
    """Solution, steps and true relative residual of one column."""
    norm = float(np.linalg.norm(y))
    if norm == 0:
        return np.zeros_like(y), 0, 0.0
    # Of unit length the tolerance is relative, and targets of any size stay in range
    y = y / norm
    count = itertools.count(1)
    steps, residual = 0, 1.0
    solution = np.zeros_like(y)
    for _ in range(RESTARTS + 1):
        # A list for each restart, bound by the callback's default
        done: list[int] = []
        # Half of the tolerance: rounding in the products parts the residual that is kept from the true one.
        trial, _ = cg(
            regular, y, x0=solution, rtol=0.0, atol=tolerance / 2, maxiter=max_iterations - steps,
            callback=lambda _, done=done: done.append(next(count)),
        )  # fmt: skip
        steps += len(done)
        # The true residual, by one more product: the recursion's own drifts away from it
        before, after = residual, float(np.linalg.norm(y - regular @ trial))
        if after < before:
            solution, residual = trial, after
        # A restart that doesn't halve the residual has met the products' rounding: more won't help
        if residual <= tolerance or steps >= max_iterations or after > before / 2:
            break
    return solution * norm, steps, residual


@dataclass(frozen=True)
class Eigenvalues:
    """Some eigenvalues of a symmetric operator.

    Attributes:
        values: from the largest to the smallest of them.
        errors: |Θu - θu| of each value θ and its vector u of length 1; within this distance lies a true eigenvalue.
        vectors: the vectors, in columns.
    """

    values: Float[np.ndarray, "count"]
    errors: Float[np.ndarray, "count"]
    vectors: Float[np.ndarray, "nk count"]


def extreme_eigenvalues(
    operator: LinearOperator,
    count: int,
    *,
    end: Literal["largest", "smallest"] = "largest",
    tolerance: float = 1e-6,
    seed: int = 0,
    max_restarts: int = 300,
) -> Eigenvalues:
    """Find eigenvalues at one end of the spectrum by restarted Lanczos (`scipy.sparse.linalg.eigsh`).

    The smallest eigenvalues of a kernel lie close together: expect many more products for them, and no digits below
    the rounding error times the largest eigenvalue.

    Args:
        operator: Θ, (nk, nk), symmetric.
        count: how many, less than nk.
        end: of the spectrum.
        tolerance: accuracy relative to the value where Lanczos stops.
        seed: of the first vector.
        max_restarts: of Lanczos, before giving up.

    Returns:
        Eigenvalues with error bars and vectors.

    Raises:
        AnalysisError: not converged.
        PlanError: a count that is too small or too large, or an end that isn't known.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> extreme_eigenvalues(aslinearoperator(np.diag([1.0, 9.0, 4.0])), 2).values.round(6).tolist()
        [9.0, 4.0]
    """
    size = operator.shape[0]
    if not 1 <= count < size:
        raise PlanError(
            f"expected a count of 1 to {size - 1} eigenvalues of a ({size}, {size}) kernel; got {count}: for all of "
            "them compute the kernel itself"
        )
    if end not in ("largest", "smallest"):
        raise PlanError(f"expected end to be largest or smallest; got {end}")
    start = np.random.default_rng(seed).standard_normal(size)
    which = "LA" if end == "largest" else "SA"
    try:
        values, vectors = eigsh(operator, count, which=which, v0=start, tol=tolerance, maxiter=max_restarts)
    except ArpackNoConvergence as error:
        raise AnalysisError(
            f"expected {count} eigenvalues; {len(error.eigenvalues)} converged to {tolerance:.0e} in {max_restarts} "
            "restarts: ask for fewer, accept a larger tolerance, or raise max_restarts"
        ) from error
    # ARPACK gives them ascending
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    # From a product of their own: the recursion's estimate says nothing of its rounding
    errors = np.array([np.linalg.norm(operator @ u - value * u) for value, u in zip(values, vectors.T, strict=True)])
    return Eigenvalues(values, errors, vectors)
