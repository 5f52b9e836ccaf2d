"""What training leaves of a residual, mode by mode: the scalar filters q(g) of docs/theory.md, section 2.1.

All of them are for the *sum* objective ½‖r - J δ‖² + ½ λ ‖δ‖², started at δ = 0: the dual coefficients of the trained
model are a = U q(g) Uᵀ r, where g = s + λ are the eigenvalues of G = Φ + λ I. A rate η' of the *mean* loss of n samples
is η'/n here. Every filter is exact for a model that is linear in its parameters; adaptive methods (Adam) have none,
because their steps leave the span of Jᵀ.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.checks import as_eigenvalues
from analysis.theory.modes import positive

Rates = float | Sequence[float] | Float[np.ndarray, "steps"]
"""One rate for all steps, or one for each."""


def ridge_filter(g: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    """The optimum of the objective: q = 1/g.

    Args:
        g: eigenvalues of Φ + λ I, all positive.

    Raises:
        FunctionError: an eigenvalue of zero, where the optimum isn't unique.

    Example:
        >>> ridge_filter(np.array([4.0, 2.0]))
        array([0.25, 0.5 ])
    """
    g = as_eigenvalues(g)
    if g.min() == 0:
        raise FunctionError(
            "expected eigenvalues of Φ + λ I above zero, got zeros: the kernel is singular and the ridge is 0; choose "
            "a ridge above 0, or gradient flow or descent"
        )
    return 1 / g


def flow_filter(g: Float[np.ndarray, "m"], time: float) -> Float[np.ndarray, "m"]:
    """Gradient flow: q = (1 - exp(-time g)) / g, which is `time` at g = 0.

    Args:
        g: eigenvalues of Φ + λ I.
        time: how long; rate times steps of a small rate.

    Raises:
        FunctionError: a time that isn't positive and finite, or negative eigenvalues.

    Example:
        >>> flow_filter(np.array([1.0, 0.0]), time=np.log(2)).round(4)
        array([0.5   , 0.6931])
    """
    time = positive("the time of gradient flow", time)
    g = as_eigenvalues(g)
    return _settled(g, -time * g, limit=time)


def descent_filter(g: Float[np.ndarray, "m"], rate: float, steps: int) -> Float[np.ndarray, "m"]:
    """Gradient descent: q = (1 - (1 - rate g)^steps) / g, which is rate * steps at g = 0; small g lose no digits.

    Warns (RuntimeWarning) where the rate isn't below `stable_rate`: the formula holds, but training diverges.

    Args:
        g: eigenvalues of Φ + λ I.
        rate: learning rate of the sum objective.
        steps: how many.

    Raises:
        FunctionError: a negative rate, no step, negative eigenvalues, or a result beyond float64.

    Example:
        >>> descent_filter(np.array([1.0, 0.0]), rate=0.5, steps=2)
        array([0.75, 1.  ])
    """
    g, rates = as_eigenvalues(g), step_rates(rate, steps)
    _warn_unstable(rates, g)
    logarithm, flipped = _log_remainder(g, float(rates[0]))
    # A negative 1 - ηg keeps its sign where the number of steps is odd
    return _settled(g, steps * logarithm, limit=steps * float(rates[0]), flipped=flipped & (steps % 2 == 1))


def schedule_filter(
    g: Float[np.ndarray, "m"], rates: Sequence[float] | Float[np.ndarray, "steps"]
) -> Float[np.ndarray, "m"]:
    """Gradient descent with a rate for each step: q = (1 - prod_i (1 - rates[i] g)) / g, their sum at g = 0.

    Warns as `descent_filter` does.

    Args:
        g: eigenvalues of Φ + λ I.
        rates: learning rate of each step.

    Raises:
        FunctionError: negative rates, no step, negative eigenvalues, or a result beyond float64.

    Example:
        >>> schedule_filter(np.array([1.0, 0.0]), rates=[0.5, 0.25])
        array([0.625, 0.75 ])
    """
    g, rates = as_eigenvalues(g), step_rates(rates, len(rates))
    _warn_unstable(rates, g)
    logarithm, flipped = np.zeros_like(g), np.zeros(g.shape, bool)
    for rate in rates.tolist():
        added, turned = _log_remainder(g, rate)
        # Two negative factors make a positive product
        logarithm, flipped = logarithm + added, flipped ^ turned
    return _settled(g, logarithm, limit=float(rates.sum()), flipped=flipped)


def heavy_ball_filter(g: Float[np.ndarray, "m"], rate: Rates, momentum: float, steps: int) -> Float[np.ndarray, "m"]:
    """Heavy-ball momentum, as `optax.sgd(rate, momentum)`: v ← momentum v + (g q - 1), q ← q - rate v.

    The recursion of q itself, instead of the closed form in the roots of r² - (1 + momentum - rate g) r + momentum: no
    case for a double root, no loss of digits where g is small, and rates may change from step to step.

    Warns as `descent_filter` does.

    Args:
        g: eigenvalues of Φ + λ I.
        rate: learning rate, or one for each step.
        momentum: in [0, 1).
        steps: how many.

    Raises:
        FunctionError: rates, momentum, steps or eigenvalues out of range, or a result beyond float64.

    Example:
        >>> heavy_ball_filter(np.array([1.0, 0.0]), rate=0.5, momentum=0.5, steps=2)
        array([1.  , 1.25])
    """
    return _momentum_filter(g, rate, momentum, steps, nesterov=False)


def nesterov_filter(g: Float[np.ndarray, "m"], rate: Rates, momentum: float, steps: int) -> Float[np.ndarray, "m"]:
    """Nesterov momentum, as `optax.sgd(rate, momentum, nesterov=True)`: q ← q - rate ((g q - 1) + momentum v).

    Warns as `descent_filter` does.

    Args:
        g: eigenvalues of Φ + λ I.
        rate: learning rate, or one for each step.
        momentum: in [0, 1).
        steps: how many.

    Raises:
        FunctionError: rates, momentum, steps or eigenvalues out of range, or a result beyond float64.

    Example:
        >>> nesterov_filter(np.array([1.0, 0.0]), rate=0.5, momentum=0.5, steps=2)
        array([1.0625, 1.625 ])
    """
    return _momentum_filter(g, rate, momentum, steps, nesterov=True)


def stable_rate(largest: float, momentum: float = 0.0, *, nesterov: bool = False) -> float:
    """The rate from which on training with a constant rate diverges or doesn't settle.

    2 (1 + μ) / g for heavy ball (2 / g without momentum), 2 (1 + μ) / ((1 + 2 μ) g) for Nesterov: there a root of the
    step's characteristic polynomial reaches -1.

    Args:
        largest: largest eigenvalue of Φ + λ I.
        momentum: μ in [0, 1).
        nesterov: Nesterov's momentum instead of heavy ball.

    Returns:
        The limit, of the sum objective; infinite for a zero kernel without ridge.

    Raises:
        FunctionError: a negative eigenvalue, or a momentum outside [0, 1).

    Example:
        >>> stable_rate(4.0), stable_rate(4.0, 0.5), stable_rate(4.0, 0.5, nesterov=True)
        (0.5, 0.75, 0.375)
    """
    momentum = check_momentum(momentum)
    largest = float(as_eigenvalues([largest])[0])
    if largest == 0:
        return np.inf
    return 2 * (1 + momentum) / ((1 + 2 * momentum if nesterov else 1) * largest)


def step_rates(rate: Rates, steps: int) -> Float[np.ndarray, "steps"]:
    """One rate for each step.

    Raises:
        FunctionError: no step, another number of rates than steps, or a rate that is negative or not finite.

    Example:
        >>> step_rates(0.5, 3)
        array([0.5, 0.5, 0.5])
    """
    rates = np.asarray(rate, np.float64)
    if steps < 1 or int(steps) != steps or rates.shape not in ((), (steps,)):
        raise FunctionError(
            f"expected at least one step, and one rate for all or for each of {steps}; got rates of shape {rates.shape}"
        )
    if not (np.isfinite(rates) & (rates >= 0)).all():
        raise FunctionError(f"expected finite rates of at least 0, got {np.min(rates)} to {np.max(rates)}; check them")
    return np.broadcast_to(rates, (int(steps),))


def check_momentum(momentum: float) -> float:
    """Refuse a momentum outside [0, 1).

    Raises:
        FunctionError: it is.

    Example:
        >>> check_momentum(0.9)
        0.9
    """
    if not 0 <= momentum < 1:
        raise FunctionError(f"expected a momentum from 0 to below 1, got {momentum}; 0.9 is a usual one")
    return float(momentum)


def _momentum_filter(g: np.ndarray, rate: Rates, momentum: float, steps: int, *, nesterov: bool) -> np.ndarray:
    g, rates, momentum = as_eigenvalues(g), step_rates(rate, steps), check_momentum(momentum)
    _warn_unstable(rates, g, momentum, nesterov=nesterov, stacklevel=4)
    q, velocity = np.zeros_like(g), np.zeros_like(g)
    # An overflow is told once, by `_finite`
    with np.errstate(over="ignore", invalid="ignore"):
        for eta in rates.tolist():
            # How far g q is from 1, which is where the mode is learned
            slope = g * q - 1
            velocity = momentum * velocity + slope
            q = q - eta * (slope + momentum * velocity if nesterov else velocity)
    return _finite(q)


def _log_remainder(g: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """log|1 - rate g|, and where 1 - rate g is negative."""
    product = rate * g
    with np.errstate(divide="ignore"):  # nothing may remain: log 0 = -inf, which expm1 takes
        # Both branches run everywhere: the bounds keep each inside its logarithm's domain
        small, large = np.log1p(-np.minimum(product, 1)), np.log(np.maximum(product - 1, 0))
    return np.where(product < 1, small, large), product > 1


def _settled(g: np.ndarray, logarithm: np.ndarray, *, limit: float, flipped: np.ndarray | bool = False) -> np.ndarray:
    """(1 - e) / g for a remainder e = ±exp(logarithm), without the difference of nearly equal numbers; `limit` at 0."""
    vanishing = g * limit < np.finfo(np.float64).tiny  # the quotient of subnormal numbers has no digits
    with np.errstate(over="ignore"):
        # Flipped, the remainder is -exp(logarithm)
        learned = np.where(flipped, 1 + np.exp(logarithm), -np.expm1(logarithm))
        return _finite(np.where(vanishing, limit, learned / np.where(vanishing, 1.0, g)))


def _finite(q: np.ndarray) -> np.ndarray:
    if not np.isfinite(q).all():
        raise FunctionError("expected training to stay finite, but it diverges beyond float64; lower the learning rate")
    return q


def _warn_unstable(
    rates: np.ndarray, g: np.ndarray, momentum: float = 0.0, *, nesterov: bool = False, stacklevel: int = 3
) -> None:
    limit = stable_rate(float(g.max()), momentum, nesterov=nesterov)
    if rates.max() >= limit:
        warnings.warn(
            f"expected learning rates below {limit:.3e} (of the sum objective), where training is stable; got up to "
            f"{rates.max():.3e}: such steps amplify the residual; divide a rate of the mean loss by the samples",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
