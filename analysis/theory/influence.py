"""Which training image made which old image worse, to first order (docs/theory.md, section 2.6).

A network that is linear in its parameters and descends Σ_j ℓ_j(f(x_j)) by gradient steps goes δ = Σ_j J(x_j)ᵀ α_j with
α_j = -Σ_s η_s ∂ℓ_j/∂f(x_j). To first order, the loss of an old image x then changes by Σ_j I(x, j),

    I(x, j) = ⟨∇ℓ(f(x)), Φ(x, x_j) α_j⟩,        Φ(x, x_j) = J(x) J(x_j)ᵀ,

products of two gradients as TracIn has them (Pruthi et al. 2020, arXiv:2002.08484, there summed over checkpoints), here
with the kernel of one checkpoint and the coefficients of a whole training (a representer theorem's, as in Yeh et al.
2018, arXiv:1811.09720).
"""

import numpy as np
from jaxtyping import Float, Int

from analysis.errors import FunctionError
from analysis.measures.checks import as_symmetric

SMALLEST = 1e-9
"""Part of the largest diagonal entry below which a kernel's remainder counts as rounding."""


def influences(
    gradients: Float[np.ndarray, "m k"], cross: Float[np.ndarray, "m n k e"], duals: Float[np.ndarray, "n e"]
) -> Float[np.ndarray, "m n"]:
    """I(x, j) by its definition, from the whole kernel between two functions' outputs.

    Args:
        gradients: ∇ℓ(f(x)) of each old image.
        cross: Φ(x, x_j) between outputs of the old images and what the training loss of the new ones is a function of.
        duals: α_j of each new image.

    Raises:
        FunctionError: shapes that don't fit.

    Example:
        >>> influences(np.array([[1.0, 0.0]]), np.ones((1, 2, 2, 1)), np.array([[3.0], [-1.0]])).tolist()
        [[3.0, -1.0]]
    """
    if cross.shape != (len(gradients), len(duals), *gradients.shape[1:], *duals.shape[1:]):
        raise FunctionError(
            f"expected a kernel of shape (m, n, k, e) for gradients (m, k) and duals (n, e); got {cross.shape} for "
            f"{gradients.shape} and {duals.shape}"
        )
    return np.einsum("ic,ijcd,jd->ij", gradients, cross, duals)


def interplay(
    changes: Float[np.ndarray, "new m k"], labels: Int[np.ndarray, "m"], classes: Int[np.ndarray, "old"]
) -> Float[np.ndarray, "old new"]:
    """I_{c<-c'} = ‖Σ_{j in c'} Φ(X_c, x_j) α_j‖² / n_c: how far each new class moves the images of each old one.

    Args:
        changes: Σ_{j in c'} Φ(x, x_j) α_j of every old image, for each new class c'.
        labels: class of each old image.
        classes: the old classes c, each with at least one image.

    Example:
        >>> interplay(np.array([[[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]]]), np.array([5, 7, 7]), np.array([5, 7])).tolist()
        [[25.0], [1.0]]
    """
    return by_class(np.square(changes).sum(axis=2).T, labels, classes)


def by_class(
    values: Float[np.ndarray, "m w"], labels: Int[np.ndarray, "m"], classes: Int[np.ndarray, "old"]
) -> Float[np.ndarray, "old w"]:
    """Mean of the rows of each class.

    Raises:
        FunctionError: a class without rows.
    """
    counts = np.array([(labels == c).sum() for c in classes])
    if not counts.all():
        raise FunctionError(f"expected an image of every class; got none of class {classes[counts == 0][0]}")
    return np.stack([values[labels == c].mean(axis=0) for c in classes])


def pivoted_cholesky(kernel: Float[np.ndarray, "n n"], most: int) -> Int[np.ndarray, "k"]:
    """The rows that a pivoted Cholesky factorisation takes first: each time the one that is least explained.

    Greedy, by the largest remaining diagonal entry of K - L Lᵀ (Harbrecht, Peters, Schneider 2012,
    doi:10.1016/j.apnum.2011.10.001). Of equals the first.

    Args:
        kernel: symmetric, positive semi-definite.
        most: k; fewer come where what remains is rounding.

    Raises:
        FunctionError: no symmetric matrix, or fewer than no rows.

    Example:
        >>> pivoted_cholesky(np.array([[1.0, 0.9, 0.0], [0.9, 2.0, 0.0], [0.0, 0.0, 1.0]]), most=3).tolist()
        [1, 2, 0]
    """
    if most < 0:
        raise FunctionError(f"expected at least 0 rows to choose; got {most}")
    kernel = as_symmetric("the kernel", kernel)
    n = len(kernel)
    left = np.diagonal(kernel).copy()
    floor = SMALLEST * left.max(initial=0)
    factors, chosen = np.zeros((n, min(most, n))), []
    for step in range(min(most, n)):
        at = int(left.argmax())
        if left[at] <= floor:
            break
        column = kernel[:, at] - factors[:, :step] @ factors[at, :step]
        factors[:, step] = column / np.sqrt(left[at])
        left = left - factors[:, step] ** 2
        # It explains itself whole; what rounding leaves of it must not be taken again
        left[[*chosen, at]] = 0
        chosen.append(at)
    return np.array(chosen, np.int64)


def kept_off(
    inner: Float[np.ndarray, "c c"],
    cross: Float[np.ndarray, "m c"],
    change: Float[np.ndarray, "m"],
    own: Float[np.ndarray, "c"],
) -> Float[np.ndarray, "m"]:
    """First-order loss changes of images, had the step left the losses of a few remembered ones alone.

    δ⊥ = δ - V_cᵀ (V_c V_cᵀ)⁺ V_c δ with V_c the loss gradients of the remembered images: the nearest step that changes
    none of their losses to first order (orthogonal gradient descent, Farajtabar et al. 2019, arXiv:1910.07104).

    Args:
        inner: V_c V_cᵀ.
        cross: V V_cᵀ, of the other images' gradients V.
        change: V δ.
        own: V_c δ.

    Example:
        >>> kept_off(np.array([[4.0]]), np.array([[2.0], [0.0]]), np.array([1.0, 1.0]), np.array([2.0])).tolist()
        [0.0, 1.0]
    """
    return change - cross @ (np.linalg.pinv(inner, rcond=SMALLEST, hermitian=True) @ own)
