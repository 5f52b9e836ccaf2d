"""How far learning a task moves the parameters, exactly and bounded, from its kernel and residual targets alone.

Radii are lengths in parameter space, B and not B². They come from eigenmodes whose rounding was set to zero: on a
singular kernel αᵀ Φ α is off by factors of thousands in float64 once the ridge is small (docs/theory.md, section 5).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from analysis.measures.spectrum import SMALL_RIDGE
from analysis.theory.modes import Modes, non_negative, positive


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
        >>> from analysis.theory.modes import modes
        >>> radius(modes(np.diag([3.0, 0.0])), np.array([4.0, 1.0]), ridge=1.0)
        Radius(exact=1.7320508075688772, quadratic=2.23606797749979, a_priori=2.0615528128088303)
    """
    ridge = positive("the ridge", ridge)
    z = decomposed.coordinates(residual).T  # modes last
    s = decomposed.values
    # √s is zero where s is: directions without a gradient move nothing (docs/theory.md, section 5)
    return Radius(
        exact=float(np.linalg.norm(z * np.sqrt(s) / (s + ridge))),
        quadratic=float(np.linalg.norm(z / np.sqrt(s + ridge))),
        a_priori=float(np.linalg.norm(z) / (2 * np.sqrt(ridge))),
    )


def matched_ridge(decomposed: Modes, residual: Float[np.ndarray, "m *outputs"], length: float) -> float:
    """Find the ridge at which ridge regression moves the parameters by a given length: the λ of B(λ) = length.

    It makes theory's learner comparable with a network that stopped early: both have gone equally far. B falls with λ;
    a length beyond what rounding lets any ridge reach gives the smallest ridge, 1e-10 of the largest eigenvalue, and no
    length at all (a network that stayed where it was) the largest, 1e10 of it. `radius` says how far a ridge goes:
    compare it with the length.

    Args:
        decomposed: modes of the task's intra-task kernel.
        residual: targets minus what the model said before the task, stacked sample by sample.
        length: of the step, 0 or more.

    Raises:
        FunctionError: a length that is negative or not finite, a kernel of zeros, or an unfit residual.

    Example:
        >>> from analysis.theory.modes import modes
        >>> found = modes(np.diag([3.0, 1.0]))
        >>> round(matched_ridge(found, np.array([4.0, 1.0]), radius(found, np.array([4.0, 1.0]), 0.7).exact), 9)
        0.7
    """
    length = non_negative("the length of the step", length)
    largest = positive("the largest eigenvalue", float(decomposed.values[0]))
    low, high = SMALL_RIDGE * largest, largest / SMALL_RIDGE

    def excess(log_ridge: float) -> float:
        return radius(decomposed, residual, np.exp(log_ridge)).exact - length

    # B falls with λ: what the smallest ridge doesn't reach none does, and below the largest's step there is rounding
    if length and excess(np.log(low)) <= 0:
        return low
    if not length or excess(np.log(high)) >= 0:
        return high
    # In the logarithm, since the bracket spans many powers of ten
    return float(np.exp(brentq(excess, np.log(low), np.log(high), xtol=1e-12)))
