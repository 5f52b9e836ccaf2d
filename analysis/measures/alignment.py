"""Kernels compared with targets and with each other (docs/theory.md, section 4).

Centred and debiased measures take the rows for independent draws. That holds for kernels of samples (n, n), such as the
trace kernel; the k rows of one sample in an (n*k, n*k) kernel aren't, and its logits' common part dominates.
"""

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.checks import as_columns, as_matrix, as_symmetric, check_shape, divide

DEBIASED_ROWS = 4
"""The unbiased estimate of HSIC needs at least this many samples."""


def target_alignment(
    kernel: Float[np.ndarray, "n n"], targets: Float[np.ndarray, "n *columns"], *, centred: bool = False
) -> float:
    """Cosine between a kernel and its ideal Y Y^T: <A, Y Y^T> / (||A||_F ||Y Y^T||_F).

    In [0, 1] for a positive semi-definite kernel; invariant to scaling of either and to rotation of Y's columns.
    Centred by I - 11^T/n on both sides it is invariant to shifts of the targets, too; uncentred it isn't.
    Source: Cristianini et al. 2001; centred: Cortes, Mohri and Rostamizadeh 2012.

    Args:
        kernel: (n, n) kernel of samples, or (n*k, n*k) sample-major.
        targets: one row for each row of the kernel: (n, c) one-hot labels, or (n*k,) stacked outputs.
        centred: remove the mean of the features and of the targets first.

    Raises:
        FunctionError: shapes that don't fit, a kernel that isn't symmetric, or a kernel or targets that are zero
            (constant, if centred).

    Example:
        >>> target_alignment(np.eye(2), np.ones(2)).__round__(12)
        0.707106781187
    """
    matrix = as_symmetric("the kernel", kernel)
    columns = as_columns("the targets", targets, len(matrix))
    if centred:
        matrix = _centre(matrix)
        centred_columns = columns - columns.mean(axis=0)
        columns = _vanish_rounding(centred_columns, np.abs(columns).max())
    # ‖Y Yᵀ‖ = ‖Yᵀ Y‖, of c x c instead of n x n entries
    norms = np.linalg.norm(matrix) * np.linalg.norm(columns.T @ columns)
    # ⟨A, Y Yᵀ⟩ = Σ (A Y) ∘ Y, for the same reason
    return divide(np.sum((matrix @ columns) * columns), norms, "the kernel and the targets (centred, if asked for)")


def debiased_cka(kernel_1: Float[np.ndarray, "n n"], kernel_2: Float[np.ndarray, "n n"]) -> float:
    """Centred kernel alignment from the unbiased estimate of HSIC: near 0 for unrelated kernels, however few samples.

    The plain form, the cosine of H A_1 H and H A_2 H with H = I - 11^T/n (Kornblith et al. 2019), is biased upwards
    where samples are fewer than features: unrelated kernels reach 0.7 to 0.98.

    The estimate is an inner product of U-centred matrices: diagonal left out, a_ij - r_i/(n-2) - r_j/(n-2) +
    s/((n-1)(n-2)), r the rows' sums and s the whole. In [-1, 1]; invariant to scaling of either kernel, and to rotation
    and shift of the features.
    Source: Song et al. 2012 (estimate), Székely and Rizzo 2014 (this form of it).

    Args:
        kernel_1: (n, n) kernel of samples, n >= 4.
        kernel_2: (n, n), of another checkpoint or layer, on the same samples.

    Raises:
        FunctionError: fewer than 4 rows, shapes that differ, a kernel that isn't symmetric, or one that is constant
            off the diagonal.

    Example:
        >>> kernel = np.outer(np.arange(5.0), np.arange(5.0))
        >>> debiased_cka(kernel, 2 * kernel + 1).__round__(12)
        1.0
    """
    first, second = _pair_of_kernels(kernel_1, kernel_2)
    if len(first) < DEBIASED_ROWS:
        raise FunctionError(f"expected at least {DEBIASED_ROWS} samples for debiased CKA, got {len(first)}; take more")
    return _cosine(_u_centre(first), _u_centre(second))


def drift(before: Float[np.ndarray, "n1 n2"], after: Float[np.ndarray, "n1 n2"]) -> float:
    """Relative change of a kernel between two checkpoints: ||A_2 - A_1||_F / ||A_1||_F.

    In [0, inf); invariant to common scaling only, so it counts growth as well as turning (`kernel_distance` doesn't).

    Args:
        before: kernel of the earlier checkpoint, any two sets.
        after: kernel of the later one, the same sets.

    Raises:
        FunctionError: shapes that differ, or an earlier kernel that is zero.

    Example:
        >>> drift(np.eye(2), 3 * np.eye(2))
        2.0
    """
    first = as_matrix("the earlier kernel", before)
    second = as_matrix("the later kernel", after)
    check_shape("the later kernel", second, first.shape)
    return divide(np.linalg.norm(second - first), np.linalg.norm(first), "the earlier kernel")


def kernel_distance(before: Float[np.ndarray, "n1 n2"], after: Float[np.ndarray, "n1 n2"]) -> float:
    """Turning of a kernel between two checkpoints: 1 - <A_1, A_2> / (||A_1||_F ||A_2||_F).

    In [0, 1] for positive semi-definite kernels; invariant to any scaling of either. Computed as half the squared
    distance of the two unit matrices, which keeps its digits where the kernels nearly agree.
    Source: Fort et al. 2020.

    Args:
        before: kernel of the earlier checkpoint.
        after: kernel of the later one, the same sets.

    Raises:
        FunctionError: shapes that differ, or a kernel that is zero.

    Example:
        >>> kernel_distance(np.eye(2), 4 * np.eye(2))
        0.0
    """
    first = as_matrix("the earlier kernel", before)
    second = as_matrix("the later kernel", after)
    check_shape("the later kernel", second, first.shape)
    return 0.5 * float(np.sum((_unit(first) - _unit(second)) ** 2))


def _pair_of_kernels(
    kernel_1: Float[np.ndarray, "n n"], kernel_2: Float[np.ndarray, "n n"]
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    first, second = as_symmetric("the first kernel", kernel_1), as_symmetric("the second kernel", kernel_2)
    check_shape("the second kernel", second, first.shape)
    return first, second


def _unit(matrix: np.ndarray) -> np.ndarray:
    return matrix * divide(1.0, np.linalg.norm(matrix), "the kernel")


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sum(_unit(first) * _unit(second)))


def _centre(kernel: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """H A H: without the mean of the features."""
    rows = kernel - kernel.mean(axis=0)
    return _vanish_rounding(rows - rows.mean(axis=1, keepdims=True), np.abs(kernel).max())


def _u_centre(kernel: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    n = len(kernel)
    centred = kernel.copy()
    # Left out of the sums too: a sample's likeness to itself is what biases the plain form
    np.fill_diagonal(centred, 0.0)
    sums = centred.sum(axis=0)
    largest = np.abs(centred).max()
    centred += sums.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums) / (n - 2)
    np.fill_diagonal(centred, 0.0)
    return _vanish_rounding(centred, largest)


def _vanish_rounding(centred: np.ndarray, largest: float) -> np.ndarray:
    """Zero, where centring left nothing but rounding: its direction means nothing."""
    # Sums of n numbers of size `largest` are known to about n eps of it
    is_rounding = np.abs(centred).max() <= 8 * len(centred) * np.finfo(np.float64).eps * largest
    return np.zeros_like(centred) if is_rounding else centred
