"""Test error of kernel ridge regression for any number of samples, from a spectrum (docs/theory.md, sections 3.1, 3.2).

The spectrum is a population's: k(x, x') = Σ_r η_r φ_r(x) φ_r(x') with E φ_r φ_s = δ_rs and the target f* = Σ_r c_r φ_r.
`population_modes` estimates it from a reference sample, which then stands for the whole population: samples drawn from
it come back as test points, so the error is far too small once they are more than a few percent of it (a fifth at
ridges of the mean diagonal). `analysis.theory.finite_population` corrects that, and `subset_leave_one_out` needs no
spectrum at all.

Errors are mean squared errors, summed over outputs. λ is the ridge of the *sum* objective, as in (K + λI)⁻¹.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from analysis.errors import FunctionError
from analysis.measures.checks import as_eigenvalues
from analysis.theory.modes import Modes, non_negative, positive


@dataclass(frozen=True)
class LearningCurve:
    """A point of a learning curve: what eigen-learning predicts for one number of samples.

    Attributes:
        effective_ridge: κ, in the units of η: modes with P η well above it are learned.
        overfitting: γ in [0, 1]: the share of the samples that goes into noise and modes too weak to be learned.
        generalization_error: E_g, mean squared error against the target without label noise.
        noisy_test_error: the same against noisy labels, E_g + σ².
        learnability: P η_r / (κ + P η_r) of each mode, in [0, 1]; they sum to at most P.
    """

    effective_ridge: float
    overfitting: float
    generalization_error: float
    noisy_test_error: float
    learnability: Float[np.ndarray, "r"]


def population_modes(
    decomposed: Modes, target: Float[np.ndarray, "..."], outputs: int = 1
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """Estimate η_r = e_r / M and c_r² = Σ (u_rᵀ y)² / M from M reference points (docs/theory.md, section 3.2).

    There is no label noise to be given beside them: it sits in c² of the weak modes.

    Args:
        decomposed: modes of the reference sample's kernel.
        target: (M,) or (M, K), or (M K,) stacked sample by sample. In continual learning the residual targets, and of
            a sample that the checkpoint wasn't trained on.
        outputs: 1 for a kernel that all outputs share; K for an empirical NTK of K outputs, whose rows then count as
            samples, M K of them: pass P K for P samples to `eigenlearning` and `finite_population`; the errors stay
            sums over outputs. Exact for Φ = k ⊗ I_K, otherwise an approximation: it pretends that outputs are drawn
            one by one (docs/theory.md, section 3.2).

    Returns:
        η (units of the kernel) and c² (units of the target, squared, summed over outputs).

    Raises:
        FunctionError: a target that doesn't fit the kernel or the number of outputs.

    Example:
        >>> from analysis.theory.modes import modes
        >>> population_modes(modes(np.diag([4.0, 1.0])), np.array([2.0, 0.0]))
        (array([2. , 0.5]), array([2., 0.]))
    """
    rows = len(decomposed.values)
    samples = sample_count(rows, outputs)
    # [rows, 1] or [rows, K], summed over outputs below
    coordinates = decomposed.coordinates(stacked(target, rows, outputs)).reshape(rows, -1)
    return decomposed.values / rows, (coordinates**2).sum(axis=1) / samples


def effective_ridge(eigenvalues: Float[np.ndarray, "r"], samples: float, ridge: float) -> float:
    """Solve κ = λ + Σ_r κ η_r / (κ + P η_r) for κ (docs/theory.md, section 3.1).

    Brent's method on log κ: the fixed-point iteration needs over a thousand steps at small ridges. Without a ridge, κ
    is zero as soon as there are as many samples as non-zero modes.

    Args:
        eigenvalues: η of the population.
        samples: P > 0.
        ridge: λ >= 0.

    Raises:
        FunctionError: negative or infinite numbers, or no samples.

    Example:
        >>> round(effective_ridge(np.arange(1, 51) ** -2.0, samples=10, ridge=0.1), 12)
        0.360483552554
    """
    eta = as_eigenvalues(eigenvalues)
    count = positive("the number of samples", samples)
    ridge = non_negative("the ridge", ridge)
    # Modes of zero add nothing to the sum
    kept = eta[eta > 0]
    floor = lowest_root(kept, count, ridge)
    if floor == 0:
        return 0.0
    # Divided by κ, which makes it rise; κ ≤ λ + Σ η, since no κ/(κ + P η) is above 1
    return log_root(lambda kappa: 1 - ridge / kappa - (kept / (kappa + count * kept)).sum(), floor, ridge + kept.sum())


def eigenlearning(
    eigenvalues: Float[np.ndarray, "r"],
    target_power: Float[np.ndarray, "r"],
    samples: float,
    ridge: float,
    noise: float = 0.0,
) -> LearningCurve:
    """Predict the test error after learning P samples by ridge regression (docs/theory.md, section 3.1).

    γ = Σ_r P η_r² / (κ + P η_r)² and E_g = (Σ_r c_r² (κ / (κ + P η_r))² + γ σ²) / (1 - γ).

    Modes of eigenvalue zero can't be learned: their power stays in the error, and is fitted as noise is. Without a
    ridge and with just as many samples as non-zero modes, the error is infinite if there is anything of that kind.

    Args:
        eigenvalues: η of the population (`population_modes`).
        target_power: c_r², the target's power in each mode (not divided by η).
        samples: P > 0; rows of the kernel, so P K for an empirical NTK of K outputs.
        ridge: λ >= 0 in the kernel's units; `analysis.measures.absolute_ridge` converts a fraction of the mean
            diagonal.
        noise: σ², variance of independent label noise, summed over outputs.

    Raises:
        FunctionError: negative or infinite numbers, no samples, or powers of other modes.

    Example:
        >>> r = np.arange(1, 51)
        >>> point = eigenlearning(r**-2.0, r**-2.5, samples=10, ridge=0.1)
        >>> round(point.overfitting, 12), round(point.generalization_error, 12)
        (0.36346688746, 0.06923614122)
    """
    eta, power = check_modes(eigenvalues, target_power)
    count = positive("the number of samples", samples)
    noise = non_negative("the noise", noise)
    kappa = effective_ridge(eta, count, ridge)
    scale = kappa + count * eta
    # A mode of zero is never learned, also at κ = 0, where the quotient would be 0/0
    learned = np.divide(count * eta, scale, out=np.zeros_like(eta), where=eta > 0)
    missed = np.divide(kappa, scale, out=np.ones_like(eta), where=eta > 0)
    overfitting = float((learned**2).sum()) / count
    # 1 - γ, without its cancellation: 1 = λ/κ + Σ η/(κ + Pη), less γ
    free = ridge / kappa + float((missed * learned).sum()) / count if kappa > 0 else 1 - np.count_nonzero(eta) / count
    left = float((power * missed**2).sum()) + overfitting * noise
    # Nothing free: as many samples as modes above zero and no ridge, where anything left is blown up without bound
    error = float(left / free) if free > 0 else (math.inf if left > 0 else 0.0)
    return LearningCurve(kappa, overfitting, error, error + noise, learned)


def check_modes(
    eigenvalues: Float[np.ndarray, "r"], target_power: Float[np.ndarray, "r"]
) -> tuple[Float[np.ndarray, "r"], Float[np.ndarray, "r"]]:
    """Check that η and c² are one number each for every mode, none negative.

    Raises:
        FunctionError: they aren't.

    Example:
        >>> check_modes(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
        (array([2., 1.]), array([1., 0.]))
    """
    eta = as_eigenvalues(eigenvalues)
    power = np.asarray(target_power, np.float64)
    if power.shape != eta.shape or not (np.isfinite(power).all() and (power >= 0).all()):
        raise FunctionError(
            f"expected the target's power in each of {len(eta)} modes, c² >= 0 and finite; got shape {power.shape}, or "
            "numbers that are none: take both from `population_modes`"
        )
    return eta, power


def lowest_root(eigenvalues: Float[np.ndarray, "r"], samples: float, ridge: float) -> float:
    """A lower bound of κ, zero only where κ itself is: max(λ, η_min (r - P)), with r modes above zero.

    Both follow from Σ_r η_r / (κ + P η_r) + λ/κ = 1, in which every term falls with κ.

    Args:
        eigenvalues: η > 0 only.
        samples: P.
        ridge: λ.

    Example:
        >>> lowest_root(np.array([2.0, 1.0]), 1, 0.0), lowest_root(np.array([2.0, 1.0]), 2, 0.0)
        (1.0, 0.0)
    """
    spare = len(eigenvalues) - samples
    return max(ridge, float(eigenvalues.min() * spare)) if spare > 0 else ridge


def log_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Root of an increasing function of a positive number, on a logarithmic scale, where rounding alone is off.

    Args:
        function: not positive at `low` and not negative at `high`, up to rounding.
        low: lower bound of the root, positive.
        high: upper bound.

    Example:
        >>> round(log_root(lambda x: x - 3, 1e-9, 1e9), 12)
        3.0
    """
    # The bound is the root itself, to rounding
    if function(low) >= 0:
        return low
    start, stop = math.log(low), math.log(max(low, high)) + 1e-6  # room for rounding where `high` is the root itself
    # In the logarithm `xtol` is a relative error
    return math.exp(brentq(lambda x: function(math.exp(x)), start, stop, xtol=1e-15, rtol=1e-15, maxiter=500))


def sample_count(rows: int, outputs: int) -> int:
    """Samples behind the rows of a kernel that are stacked sample by sample.

    Raises:
        FunctionError: a number of outputs that doesn't divide the rows.

    Example:
        >>> sample_count(30, 3)
        10
    """
    if outputs < 1 or rows % outputs:
        raise FunctionError(
            f"expected a number of outputs that divides the kernel's {rows} rows (samples times outputs), got {outputs}"
        )
    return rows // outputs


def stacked(target: Float[np.ndarray, "..."], rows: int, outputs: int) -> Float[np.ndarray, "m *columns"]:
    """Lay a target (n, K) out sample by sample where the kernel has a row for each output; else leave it as it is.

    Example:
        >>> stacked(np.array([[1.0, 2.0], [3.0, 4.0]]), rows=4, outputs=2)
        array([1., 2., 3., 4.])
        >>> stacked(np.array([[1.0, 2.0], [3.0, 4.0]]), rows=2, outputs=1).shape
        (2, 2)
    """
    target = np.asarray(target)
    return target.ravel() if outputs > 1 and target.shape == (rows // outputs, outputs) else target
