"""What every measure asks of its arguments: finite float64 matrices, symmetric where a kernel of one set is meant."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError

SYMMETRY_TOLERANCE = 1e-6
"""Largest |A - A^T| over largest |A| in a kernel of one set with itself; float32 contraction stays well below."""
CHECKED_ROWS = 1024  # at once, so that checking a large kernel needs no second one


def as_matrix(name: str, value: Any) -> Float[np.ndarray, "rows columns"]:
    """Convert to a float64 matrix; no copy where it is one already.

    Args:
        name: what the message calls the value.
        value: anything that NumPy can read as real numbers.

    Raises:
        FunctionError: not two-dimensional, empty, not real numbers, or not finite.

    Example:
        >>> as_matrix("kernel", [[2, 1]])
        array([[2., 1.]])
    """
    return _finite(name, value, "a 2-D matrix (see sample_major)", dimensions=(2,))


def as_symmetric(name: str, value: Any) -> Float[np.ndarray, "n n"]:
    """Convert to a float64 matrix and check that it is symmetric up to rounding; it isn't symmetrised.

    Args:
        name: what the message calls the value.
        value: kernel of one set with itself.

    Raises:
        FunctionError: what `as_matrix` refuses, not square, or not symmetric within 1e-6 of the largest entry.

    Example:
        >>> as_symmetric("kernel", [[2, 1], [1, 2]]).shape
        (2, 2)
    """
    matrix = as_matrix(name, value)
    if matrix.shape[0] != matrix.shape[1]:
        raise FunctionError(
            f"expected {name} to be square, got shape {matrix.shape}; pass the kernel of a set with itself"
        )
    # Without |A|, which would be a second matrix
    largest = max(matrix.max(), -matrix.min())
    error = max(
        float(np.abs(matrix[i : i + CHECKED_ROWS] - matrix[:, i : i + CHECKED_ROWS].T).max())
        for i in range(0, len(matrix), CHECKED_ROWS)
    )
    if error > SYMMETRY_TOLERANCE * largest:
        raise FunctionError(
            f"expected {name} to be symmetric, got |A - A^T| up to {error / largest:.1e} of its largest entry, more "
            f"than {SYMMETRY_TOLERANCE:.0e}; check its layout (sample_major) and the precision it was computed at"
        )
    return matrix


def as_eigenvalues(value: Any) -> Float[np.ndarray, "n"]:
    """Convert to a float64 vector and check that nothing in it is negative.

    Args:
        value: eigenvalues as `spectrum` gives them, zeros included.

    Raises:
        FunctionError: not one-dimensional, empty, not finite, or negative.

    Example:
        >>> as_eigenvalues([3, 0])
        array([3., 0.])
    """
    eigenvalues = _finite("the eigenvalues", value, "a vector", dimensions=(1,))
    if eigenvalues.min() < 0:
        raise FunctionError(f"expected eigenvalues >= 0, got {eigenvalues.min():.3e}; take them from `spectrum`")
    return eigenvalues


def as_columns(name: str, value: Any, rows: int) -> Float[np.ndarray, "rows columns"]:
    """Convert a vector (one column) or a matrix of the given number of rows.

    Args:
        name: what the message calls the value.
        value: (rows,) or (rows, columns).
        rows: rows of the kernel that the columns belong to.

    Raises:
        FunctionError: another number of rows or dimensions, empty, or not finite.

    Example:
        >>> as_columns("targets", [1, 0], rows=2).shape
        (2, 1)
    """
    array = _finite(name, value, "a vector or a matrix", dimensions=(1, 2))
    if len(array) != rows:
        raise FunctionError(
            f"expected {name} with one row for each of the kernel's {rows} rows, got shape {array.shape}; a kernel of "
            "outputs (n*k rows) needs targets stacked sample by sample, a kernel of samples (n rows) one row a sample"
        )
    return array.reshape(rows, -1)


def divide(numerator: float | np.floating, denominator: float | np.floating, what: str) -> float:
    """Divide, unless the divisor says that the ratio is undefined.

    Args:
        numerator: any number.
        denominator: a norm or a trace.
        what: what the message calls the denominator's origin.

    Raises:
        FunctionError: the denominator isn't positive and finite.

    Example:
        >>> divide(1.0, 4.0, "the kernel")
        0.25
    """
    denominator = float(denominator)
    if not (math.isfinite(denominator) and denominator > 0):
        raise FunctionError(
            f"expected {what} to be non-zero and its norm in float64's range, got {denominator:.1e} to divide by; the "
            "ratio is undefined: leave this entry out, or look for parameters with no influence"
        )
    return float(numerator) / denominator


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Compare a shape with the one that its neighbours ask for.

    Args:
        name: what the message calls the array.
        array: any array.
        shape: the shape that it must have.

    Raises:
        FunctionError: the array has another shape.

    Example:
        >>> check_shape("inter", np.ones((2, 3)), (2, 3))
    """
    if array.shape != shape:
        raise FunctionError(f"expected {name} of shape {shape}, got {array.shape}; pass blocks of the same samples")


def _finite(name: str, value: Any, kind: str, *, dimensions: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise FunctionError(f"expected {name} as {kind}, got a {type(value).__name__} that isn't an array") from error
    # Floats, integers and truth values: no complex numbers, text or objects
    if array.dtype.kind not in "fiub":
        raise FunctionError(f"expected {name} as real numbers, got {array.dtype}; convert it to float64 first")
    if array.ndim not in dimensions or array.size == 0:
        raise FunctionError(f"expected {name} as {kind} with at least one entry, got shape {array.shape}")
    numbers = np.asarray(array, dtype=np.float64)
    if not (math.isfinite(np.max(numbers)) and math.isfinite(np.min(numbers))):  # both are NaN if one entry is
        bad = numbers.size - np.count_nonzero(np.isfinite(numbers))
        raise FunctionError(
            f"expected finite numbers in {name}, got {bad} of {numbers.size} that aren't; look for the weights or "
            "inputs that overflow"
        )
    return numbers
