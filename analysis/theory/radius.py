"""How far learning a task moves the parameters, exactly and bounded, from its kernel and residual targets alone.

Radii are lengths in parameter space, B and not B². They come from eigenmodes whose rounding was set to zero: on a
singular kernel αᵀ Φ α is off by factors of thousands in float64 once the ridge is small (docs/theory.md, section 5).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from analysis.errors import FunctionError
from analysis.measures.checks import as_matrix, check_shape
from analysis.measures.spectrum import SMALL_RIDGE
from analysis.theory.modes import Modes, modes, positive


@dataclass(frozen=True)
class Radius:
    """B = ‖p_t - p_{t-1}‖ of one task, and two upper bounds of it (docs/theory.md, section 1.2).

    Neither bound is always the smaller one.

    Attributes:
        exact: B.
        quadratic: sqrt(rᵀ (Φ + λI)⁻¹ r); the better bound where the ridge is small against the modes that r lies in.
        a_priori: ‖r‖ / (2 sqrt λ); needs no kernel.
    """

    exact: float
    quadratic: float
    a_priori: float

    @property
    def best_bound(self) -> float:
        """The smaller of the two bounds."""
        return min(self.quadratic, self.a_priori)


@dataclass(frozen=True)
class RadiusToEnd:
    """B_{t:T} = ‖p_T - p_{t-1}‖ over task t and all that followed (docs/theory.md, section 1.4).

    Attributes:
        exact: B_{t:T}; smaller than the sum where later tasks turn back.
        triangle: B_t + ... + B_T, which bounds it and is all that is known if the Jacobian changes from task to task.
    """

    exact: float
    triangle: float


def radius(decomposed: Modes, residual: Float[np.ndarray, "m *outputs"], ridge: float) -> Radius:
    """How far ridge regression of a residual moves the parameters: B² = Σ z_i² s_i / (s_i + λ)², z = Uᵀ r.

    Right down to ridges of 1e-10 of the largest eigenvalue, also on a singular kernel (docs/theory.md, sections 1.2
    and 5); `analysis.measures.absolute_ridge` warns below.

    Args:
        decomposed: modes of the task's intra-task kernel Φ.
        residual: r, targets minus what the model said before the task, stacked sample by sample; (n, K) with a kernel
            of samples that all outputs share.
        ridge: λ > 0 of the *sum* objective, in the kernel's units.

    Raises:
        FunctionError: a ridge that isn't positive and finite, or a residual that doesn't fit.

    Example:
        >>> radius(modes(np.diag([3.0, 0.0])), np.array([4.0, 1.0]), ridge=1.0)
        Radius(exact=1.7320508075688772, quadratic=2.23606797749979, a_priori=2.0615528128088303)
    """
    ridge = positive("the ridge", ridge)
    z = decomposed.coordinates(residual).T  # modes last
    s = decomposed.values
    return Radius(
        exact=float(np.linalg.norm(z * np.sqrt(s) / (s + ridge))),
        quadratic=float(np.linalg.norm(z / np.sqrt(s + ridge))),
        a_priori=float(np.linalg.norm(z) / (2 * np.sqrt(ridge))),
    )


def radius_to_end(kernel: Float[np.ndarray, "m m"], alphas: Sequence[Float[np.ndarray, "_ k"]]) -> RadiusToEnd:
    """How far task t and all later ones moved the parameters together, where the Jacobian is frozen (linear in them).

    B_{t:T}² = Σ_{k,l ≥ t} α_kᵀ Φ(X_k, X_l) α_l (docs/theory.md, section 1.4), through the modes of the joint kernel.

    Args:
        kernel: Φ of the inputs of tasks t, ..., T, one after the other, with themselves; one Jacobian for all blocks.
        alphas: dual coefficients of these tasks, in the same order, as `LearnedTask` has them. A part of size 1/λ in
            directions without a gradient would cost eps/λ of precision.

    Raises:
        FunctionError: no tasks, a kernel that isn't symmetric, finite and positive semi-definite, or of another
            number of rows than the coefficients.

    Example:
        >>> radius_to_end(np.array([[1.0, -1.0], [-1.0, 1.0]]), [np.array([[3.0]]), np.array([[2.0]])])
        RadiusToEnd(exact=1.0, triangle=5.0)
    """
    if not alphas:
        raise FunctionError("expected the dual coefficients of at least one task, got none; pass task t's own first")
    stacked = [as_matrix("a task's dual coefficients", alpha).ravel() for alpha in alphas]
    matrix = as_matrix("the joint kernel", kernel)
    edges = np.cumsum([0, *map(len, stacked)])
    check_shape("the joint kernel", matrix, (int(edges[-1]), int(edges[-1])))
    tasks = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
    own = [_length(modes(matrix[task, task]), alpha) for task, alpha in zip(tasks, stacked, strict=True)]
    return RadiusToEnd(exact=_length(modes(matrix), np.concatenate(stacked)), triangle=sum(own))


def _length(decomposed: Modes, alpha: np.ndarray) -> float:
    """‖Jᵀ α‖ from the modes of J Jᵀ."""
    return float(np.linalg.norm(np.sqrt(decomposed.values) * decomposed.coordinates(alpha)))


def matched_ridge(decomposed: Modes, residual: Float[np.ndarray, "m *outputs"], length: float) -> float:
    """Find the ridge at which ridge regression moves the parameters by a given length: the λ of B(λ) = length.

    It makes theory's learner comparable with a network that stopped early: both have gone equally far. B falls with λ;
    a length beyond what rounding lets any ridge reach gives the smallest ridge, 1e-10 of the largest eigenvalue.

    Args:
        decomposed: modes of the task's intra-task kernel.
        residual: targets minus what the model said before the task, stacked sample by sample.
        length: of the step, above 0.

    Raises:
        FunctionError: a length that isn't positive and finite, a kernel or a residual of zeros, or an unfit one.

    Example:
        >>> found = modes(np.diag([3.0, 1.0]))
        >>> round(matched_ridge(found, np.array([4.0, 1.0]), radius(found, np.array([4.0, 1.0]), 0.7).exact), 9)
        0.7
    """
    length = positive("the length of the step", length)
    largest = positive("the largest eigenvalue", float(decomposed.values[0]))
    size = positive("the residual's length", float(np.linalg.norm(residual)))
    low, high = SMALL_RIDGE * largest, size * np.sqrt(largest) / length  # B <= ‖r‖ sqrt(s_max) / λ

    def excess(log_ridge: float) -> float:
        return radius(decomposed, residual, np.exp(log_ridge)).exact - length

    if high <= low or excess(np.log(low)) <= 0:
        return low
    return float(np.exp(brentq(excess, np.log(low), np.log(high), xtol=1e-12)))
