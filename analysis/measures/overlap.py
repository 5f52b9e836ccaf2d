"""Overlap of two tasks' row spaces: which directions of parameter space both tasks move (docs/theory.md, section 4).

With Jacobians J_t = U_t Sigma_t V_t^T and J_k likewise, O = V_t^T V_k is the matrix of Doan et al. 2021. It is had from
Gram matrices alone: V_t = J_t^T U_t Sigma_t^-1, so O = Sigma_t^-1 U_t^T (J_t J_k^T) U_k Sigma_k^-1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.checks import as_matrix, check_shape
from analysis.measures.spectrum import symmetrise, threshold

RANK_CUT = 1e-10
"""Eigenvalues below this part of the largest are noise in a float64 Gram, and noise directions look aligned."""
FLOAT32_RANK_CUT = 1e-6
"""The same in a Gram that was summed in float32."""


@dataclass(frozen=True)
class RowSpace:
    """Left singular vectors and singular values of a Jacobian, as far as its Gram tells them from noise.

    Attributes:
        vectors: U (n, rank), orthonormal columns.
        singular_values: Sigma (rank,), descending.
    """

    vectors: Float[np.ndarray, "n rank"]
    singular_values: Float[np.ndarray, "rank"]


def row_space(intra: Float[np.ndarray, "n n"], *, rtol: float = RANK_CUT) -> RowSpace:
    """Factor the Gram J J^T = U Sigma^2 U^T; one factorisation serves all pairs that a task is in.

    Args:
        intra: (n, n) kernel of one task.
        rtol: rank cut on the eigenvalues, relative to the largest; `RANK_CUT` suits a float64 contraction, a float32
            one needs `FLOAT32_RANK_CUT`.

    Raises:
        FunctionError: a zero kernel, one that isn't symmetric and positive semi-definite, or rtol outside (0, 1).

    Example:
        >>> row_space(np.diag([4.0, 1e-12])).singular_values
        array([2.])
    """
    if not 0 < rtol < 1:
        raise FunctionError(f"expected a rank cut rtol between 0 and 1, got {rtol}; leave it out for {RANK_CUT:.0e}")
    values, vectors = np.linalg.eigh(symmetrise(intra))
    # Without what rounding leaves below zero, whose root would be NaN; the largest first
    values, vectors = threshold(values)[::-1], vectors[:, ::-1]
    rank = int((values > rtol * values[0]).sum())
    if rank == 0:
        raise FunctionError("expected a kernel with a row space, got a zero matrix; leave this task out")
    return RowSpace(vectors=vectors[:, :rank], singular_values=np.sqrt(values[:rank]))


def overlap_matrix(
    space_t: RowSpace, space_k: RowSpace, inter: Float[np.ndarray, "n_t n_k"]
) -> Float[np.ndarray, "rank_t rank_k"]:
    """O = V_t^T V_k = Sigma_t^-1 U_t^T C U_k Sigma_k^-1.

    ||C||_F^2 = sum_ij s_i s_j O_ij^2 with eigenvalues s: the inter/intra ratio is the eigenvalue-weighted overlap. The
    drift of task t by ridge regression on task k is U_t Sigma_t O Sigma_k (Sigma_k^2 + lambda)^-1 U_k^T residual.

    Args:
        space_t: of task t's intra-task kernel.
        space_k: of task k's, at the same checkpoint.
        inter: (n_t, n_k) kernel C between them.

    Raises:
        FunctionError: an inter-task kernel of another shape, or not finite.

    Example:
        >>> one = row_space(np.array([[4.0]]))
        >>> overlap_matrix(one, one, np.array([[4.0]]))
        array([[1.]])
    """
    block = as_matrix("the inter-task kernel", inter)
    check_shape("the inter-task kernel", block, (len(space_t.vectors), len(space_k.vectors)))
    projected = space_t.vectors.T @ block @ space_k.vectors
    # Σ_t⁻¹ along the rows, Σ_k⁻¹ along the columns
    return projected / space_t.singular_values[:, None] / space_k.singular_values


def ntk_overlap(
    space_t: RowSpace, space_k: RowSpace, inter: Float[np.ndarray, "n_t n_k"]
) -> Float[np.ndarray, "angles"]:
    """Singular values of the overlap O: cosines of the principal angles between two tasks' row spaces.

    In [0, 1] (clipped; rounding may leave it); invariant to scaling and to any invertible mixing of a task's rows,
    because it depends on row spaces only: it ignores how strongly a direction is used and what the targets are. Where
    rank_t + rank_k exceeds the number of parameters, some are 1 by counting dimensions. Exact to about
    eps s_max / s_min of the eigenvalues kept: 1e-6 at the rank cut. arccos of them are the angles, in [0, pi/2]; it
    loses half the digits near 1, so an angle near 0 is known to sqrt(eps s_max / s_min) only.
    Source: Doan et al. 2021; the rank cut is docs/theory.md, section 5.

    Args:
        space_t: of task t's intra-task kernel.
        space_k: of task k's, at the same checkpoint.
        inter: (n_t, n_k) kernel between them.

    Returns:
        min(rank_t, rank_k) values, descending.

    Raises:
        FunctionError: an inter-task kernel of another shape, or not finite.

    Example:
        >>> one = row_space(np.eye(2))
        >>> ntk_overlap(one, one, np.diag([1.0, 0.0]))
        array([1., 0.])
    """
    return np.clip(np.linalg.svd(overlap_matrix(space_t, space_k, inter), compute_uv=False), 0.0, 1.0)
