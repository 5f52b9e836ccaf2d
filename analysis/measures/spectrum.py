"""Layout and eigenvalues of kernels, and what is read off them (docs/theory.md, sections 0, 4 and 5).

Every measure works on matrices in float64: an empirical NTK (n1, n2, k, k) is laid out sample by sample, row i*k + c
being output c of sample i. Eigenvalues are kept complete, zeros included, so that their mean is the mean diagonal.
"""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.checks import as_eigenvalues, as_matrix, as_symmetric, divide

EPS = float(np.finfo(np.float64).eps)
NEGATIVE_LIMIT = 1e-3
"""A negative eigenvalue beyond this part of the largest isn't rounding, even of a TF32 product (8e-4 of s_max)."""
SMALL_RIDGE = 1e-10
"""Below this part of the largest eigenvalue a ridge drowns in float64 rounding."""


def sample_major(theta: Float[np.ndarray, "n1 n2 *outputs"]) -> Float[np.ndarray, "rows columns"]:
    """Lay a kernel out as a matrix: entry [i*k + c, j*k + d] is theta[i, j, c, d].

    Args:
        theta: (n1, n2, k, k), or a kernel of samples (n1, n2), which is a matrix already.

    Returns:
        (n1*k, n2*k) or (n1, n2), float64.

    Raises:
        FunctionError: another shape, empty, or not finite.

    Example:
        >>> theta = np.arange(8.0).reshape(1, 2, 2, 2)  # one sample against two, two outputs each
        >>> sample_major(theta)
        array([[0., 1., 4., 5.],
               [2., 3., 6., 7.]])
    """
    shape = np.shape(theta)
    if len(shape) == 2:
        return as_matrix("theta", theta)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise FunctionError(f"expected theta of shape (n1, n2, k, k) or (n1, n2), got {shape}; pass the whole kernel")
    n1, n2, k, _ = shape
    # [n1, k, n2, k], then rows and columns joined
    return as_matrix("theta", np.asarray(theta).transpose(0, 2, 1, 3).reshape(n1 * k, n2 * k))


def symmetrise(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Remove the rounding error between the two halves: (A + A^T)/2.

    Args:
        matrix: kernel of one set with itself.

    Returns:
        A new matrix, exactly symmetric.

    Raises:
        FunctionError: not square, empty, not finite, or further from symmetric than rounding explains.

    Example:
        >>> symmetrise(np.array([[1.0, 0.5], [0.5000002, 1.0]]))[0].round(9)
        array([1.       , 0.5000001])
    """
    kernel = as_symmetric("the kernel", matrix)
    return 0.5 * (kernel + kernel.T)


def rounding(kernel: Any) -> float:
    """Eps of the type that a kernel's sums were rounded to: its own, float64's for anything more precise or whole.

    Example:
        >>> [float(rounding(np.ones((2, 2), dtype))) for dtype in (np.float32, np.float64, int)]
        [1.1920928955078125e-07, 2.220446049250313e-16, 2.220446049250313e-16]
    """
    dtype = np.asarray(kernel).dtype
    return max(EPS, float(np.finfo(dtype).eps)) if dtype.kind == "f" else EPS


def threshold(eigenvalues: Float[np.ndarray, "n"], eps: float = EPS) -> Float[np.ndarray, "n"]:
    """Set eigenvalues below n * eps * s_max to zero: nothing is known of them but that they are small.

    Clipping negative ones alone isn't enough: what rounding leaves above zero is divided by small ridges later
    (docs/theory.md, section 5).

    Args:
        eigenvalues: of a symmetric matrix, in any order.
        eps: of the type that the matrix was rounded to, see `rounding`; eigenvalues themselves are of float64.

    Returns:
        The same order, none negative.

    Raises:
        FunctionError: an eigenvalue is too negative for rounding to explain it.

    Example:
        >>> threshold(np.array([2.0, 1e-16, -1e-16]))
        array([2., 0., 0.])
    """
    # In size: of a matrix that is no kernel the largest may be negative
    largest = np.abs(eigenvalues).max()
    smallest = eigenvalues.min()
    if smallest < -NEGATIVE_LIMIT * largest:
        raise FunctionError(
            f"expected a positive semi-definite kernel, got an eigenvalue of {smallest:.3e} beside {largest:.3e} in "
            "size; check that rows and columns belong to the same samples and outputs in the same order"
        )
    cut = len(eigenvalues) * eps * largest
    return np.where(eigenvalues < cut, 0.0, eigenvalues)


def spectrum(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n"]:
    """Eigenvalues of a kernel, symmetrised, descending, those below n * eps * s_max set to zero.

    Args:
        matrix: kernel of one set with itself; eps is that of its own type.

    Returns:
        All n eigenvalues in the kernel's own units; their non-zero number is the numerical rank.

    Raises:
        FunctionError: not a symmetric, finite, positive semi-definite matrix.

    Example:
        >>> spectrum(np.array([[2.0, 1.0], [1.0, 2.0]])).round(12)
        array([3., 1.])
    """
    return threshold(np.linalg.eigvalsh(symmetrise(matrix)), rounding(matrix))[::-1]


def absolute_ridge(eigenvalues: Float[np.ndarray, "n"], fraction: float) -> float:
    """Ridge lambda in the kernel's units from a fraction of the mean diagonal: fraction * tr(Phi) / n.

    Warns (RuntimeWarning) where it is below 1e-10 of the largest eigenvalue: what follows is then rounding.

    Args:
        eigenvalues: all of the kernel's (`spectrum`), zeros included.
        fraction: ridge as part of the mean diagonal.

    Returns:
        The ridge of the *sum* objective (docs/theory.md, section 0).

    Raises:
        FunctionError: a zero kernel, a fraction that isn't positive and finite, or unfit eigenvalues.

    Example:
        >>> absolute_ridge(np.array([3.0, 1.0, 0.0, 0.0]), fraction=0.5)
        0.5
    """
    values = as_eigenvalues(eigenvalues)
    # With zeros among them the eigenvalues' mean is the mean diagonal
    ridge = _positive("the ridge's fraction of the mean diagonal", fraction) * float(values.mean())
    if divide(ridge, values.max(), "the kernel") < SMALL_RIDGE:
        warnings.warn(
            f"expected a ridge of at least {SMALL_RIDGE:.0e} of the largest eigenvalue {values.max():.3e}, got "
            f"{ridge:.3e}; results are dominated by rounding: raise the fraction {fraction:g}",
            RuntimeWarning,
            stacklevel=2,
        )
    return ridge


def effective_dimension(eigenvalues: Float[np.ndarray, "n"], ridge: float) -> float:
    """Directions that a ridge lets the kernel fit: tr Phi (Phi + lambda I)^-1 = sum s_i / (s_i + lambda).

    In [0, rank]; invariant to scaling Phi and lambda together and to orthogonal mixing of rows.

    Args:
        eigenvalues: all of the kernel's (`spectrum`).
        ridge: lambda > 0 in the kernel's units; `absolute_ridge` converts a fraction of the mean diagonal.

    Raises:
        FunctionError: a ridge that isn't positive and finite, or unfit eigenvalues.

    Example:
        >>> effective_dimension(np.array([3.0, 1.0, 0.0]), ridge=1.0)
        1.25
    """
    values = as_eigenvalues(eigenvalues)
    return float((values / (values + _positive("the ridge", ridge))).sum())


def participation_ratio(eigenvalues: Float[np.ndarray, "n"]) -> float:
    """How many equal eigenvalues would spread the trace as these do: (sum s_i)^2 / sum s_i^2.

    In [1, rank]; invariant to scaling and to orthogonal mixing of rows. It is this sample's, not the population's: of
    n isotropic gradients in p dimensions it is about n p / (n + p + 1), not p.

    Args:
        eigenvalues: all of the kernel's (`spectrum`).

    Raises:
        FunctionError: all eigenvalues are zero, or unfit.

    Example:
        >>> participation_ratio(np.array([2.0, 2.0, 0.0]))
        2.0
    """
    values = as_eigenvalues(eigenvalues)
    parts = values / max(values.max(), np.finfo(np.float64).tiny)  # squares neither overflow nor vanish
    return divide(parts.sum() ** 2, (parts**2).sum(), "the kernel")


def _positive(name: str, value: float) -> float:
    if not (np.isfinite(value) and value > 0):
        raise FunctionError(f"expected {name} to be positive and finite, got {value}; 1e-3 is a usual fraction")
    return float(value)
