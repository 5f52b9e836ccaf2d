"""Test error of kernel ridge regression on the rest of a finite population (docs/theory.md, section 3.3).

Eigen-learning draws samples with replacement: what it calls test error counts points that were learned. Here P of M
points are drawn *without* replacement and the error is that on the other M - P. The one assumption is that the
eigenvectors are free from the draw, exact for Haar-distributed ones; real data keep an error of the kind that
generalized cross-validation has, to which this is equal at P = M.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.theory.learning_curves import check_modes, log_root, lowest_root
from analysis.theory.modes import non_negative, positive


@dataclass(frozen=True)
class FinitePopulation:
    """What is predicted for P of the population's M points.

    Attributes:
        effective_ridge: μ, in the units of the kernel's eigenvalues e; κ = μ P / M is eigen-learning's.
        unseen_error: mean squared error on the M - P points that weren't drawn (for P = M: on one more).
        train_error: mean squared error on the P points.
    """

    effective_ridge: float
    unseen_error: float
    train_error: float


def finite_population(
    eigenvalues: Float[np.ndarray, "r"],
    target_power: Float[np.ndarray, "r"],
    samples: float,
    ridge: float,
    population: int | None = None,
) -> FinitePopulation:
    """Predict the error on the unseen rest of M points after learning P of them (docs/theory.md, section 3.3).

    With e_r = M η_r, x_r = e_r / (e_r + μ), a = P/M and means over all M modes, λ (1 - mean x) = μ (a - mean x) gives
    μ, and then E_unseen = Σ_r c_r² (1 - x_r)² a / ((mean x)² - mean x² + a mean (1 - x)²) and
    E_train = E_unseen (1 - mean x / a)². Limits: P = M gives GCV on the whole population, P/M → 0 eigen-learning.

    Without a ridge and with as many samples as non-zero modes, the error is infinite if zero modes carry power.

    Args:
        eigenvalues: η = e / M, as `population_modes` gives them.
        target_power: c_r².
        samples: 0 < P <= M; rows of the kernel, so P K for an empirical NTK of K outputs.
        ridge: λ >= 0 in the kernel's units.
        population: M, if there are more points than the modes listed: the others have no eigenvalue and no power.

    Raises:
        FunctionError: negative or infinite numbers, powers of other modes, more samples than points, or more modes.

    Example:
        >>> r = np.arange(1, 51)
        >>> point = finite_population(r**-2.0, r**-2.5, samples=10, ridge=0.1)
        >>> round(point.effective_ridge, 12), round(point.unseen_error, 12), round(point.train_error, 12)
        (1.683684791586, 0.08184971296, 0.005221552526)
    """
    eta, power = check_modes(eigenvalues, target_power)
    size = len(eta) if population is None else population
    count = positive("the number of samples", samples)
    ridge = non_negative("the ridge", ridge)
    if size < len(eta) or count > size:
        raise FunctionError(
            f"expected a population of at least the {len(eta)} modes and the {count:g} samples, got {size} points; "
            "count rows of the kernel in all three"
        )
    e = size * eta
    hidden = size - len(e)  # modes that aren't listed: x = 0
    mu = _effective_ridge(e, count, ridge, size)
    if mu > 0:
        missed, missed_hidden = mu / (e + mu), 1.0  # 1 - x
    elif hidden or e.min() == 0:
        # μ = 0: modes above zero are learned whole, the others not at all
        missed, missed_hidden = np.where(e > 0, 0.0, 1.0), 1.0
    else:  # P = M: 1 - x vanishes everywhere, but only its proportions matter
        missed, missed_hidden = e.min() / e, 0.0
    # Means of 1 - x and of its square over all M modes, those that aren't listed included
    mean = (missed.sum() + hidden * missed_hidden) / size
    square = ((missed**2).sum() + hidden * missed_hidden**2) / size
    share = count / size
    free = mean**2 - (1 - share) * square  # the denominator, written in 1 - x
    left = float(power @ missed**2) * share
    # Where nothing was missed there is no error, however little is free
    unseen = left / free if free > 0 else (np.inf if left > 0 else 0.0)
    # 1 - mean x / a; by the equation for μ that is λ mean (1 - x) / (μ a), which doesn't cancel
    unfitted = ridge * mean / (mu * share) if mu > 0 else 1 - np.count_nonzero(e) / count
    return FinitePopulation(mu, float(unseen), float(unseen * unfitted**2) if unfitted > 0 else 0.0)


def _effective_ridge(e: Float[np.ndarray, "r"], count: float, ridge: float, size: int) -> float:
    """Solve mean (e + λ)/(e + μ) = P/M for μ: the first equation, as an increasing function of μ."""
    zeros = size - np.count_nonzero(e)
    e = e[e > 0]
    # In units of e / P the lower bound of κ holds for μ (docs/theory.md, section 3.1)
    floor = lowest_root(e / count, count, ridge)
    if floor == 0:
        return 0.0

    def excess(mu: float) -> float:
        return count - float(((e + ridge) / (e + mu)).sum()) - zeros * ridge / mu

    # No (e + λ)/(e + μ) is above (e + λ)/μ: summed over all M that bounds μ from above
    return log_root(excess, floor, (e.sum() + size * ridge) / count)
