"""What other learning rates would do to old tasks and to the new one, before training (docs/theory.md, section 2.5).

From one step δ that is known, such as the run's own: descending an objective with a constant Hessian, each of its
eigendirections goes q(g) times its slope far, so that at another rate it goes q'(g)/q(g) times as far as it did. The
Hessian is that of squared error in the linear regime, and of the pull to the start: known from the new task's kernel.
One recursion gives q for a whole grid of rates.

The objective is c times the *mean* half squared error of n samples plus λ ‖δ‖², and any terms without curvature: with
rate η that is the sum objective with rate η c/n and ridge 2 λ n/c, so that g = s + 2 λ n/c. c says how many units of
the loss that was really trained on a unit of squared error is worth (`matched_scale`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq

from analysis.errors import FunctionError
from analysis.measures.checks import as_eigenvalues
from analysis.measures.error_bars import is_told
from analysis.theory.filters import check_momentum, stable_rate, step_rates
from analysis.theory.modes import Modes, non_negative, positive

SMALLEST = 1e-8
"""Smallest scale that is tried, as a part of the one from which on training diverges."""


@dataclass(frozen=True)
class Objective:
    """c · mean half squared error + λ ‖δ‖², and how it is descended.

    Attributes:
        samples: n.
        pull: λ >= 0, back to where the task starts.
        shape: what the learning rate is multiplied by in each step, such as a cosine.
        momentum: heavy-ball momentum in [0, 1).
        scale: c > 0.
    """

    samples: int
    pull: float
    shape: Sequence[float] | Float[np.ndarray, "steps"]
    momentum: float = 0.0
    scale: float = 1.0

    def filters(self, values: Float[np.ndarray, "m"], rates: Sequence[float]) -> Float[np.ndarray, "rates m"]:
        """Filters q of every mode at every rate; rates at which training diverges give NaN.

        Args:
            values: s, eigenvalues of the new task's kernel Φ.
            rates: learning rates η; 0 gives exactly 0.

        Raises:
            FunctionError: negative rates or eigenvalues, a momentum outside [0, 1), no step, or a scale that isn't
                positive.

        Example:
            >>> Objective(1, 0.0, [1.0, 1.0]).filters(np.array([1.0, 0.0]), [0.0, 0.5, 9.0])
            array([[0.  , 0.  ],
                   [0.75, 1.  ],
                   [ nan,  nan]])
        """
        scale = positive("the scale of the squared error", self.scale) / self.samples
        g = as_eigenvalues(values) + 2 * non_negative("the pull", self.pull) / scale
        found = momentum_filters(g, scale * np.asarray(rates, np.float64), self.shape, self.momentum)
        return np.where(self.stable(values, rates)[:, None], found, np.nan)

    def stable(self, values: Float[np.ndarray, "m"], rates: Sequence[float]) -> Bool[np.ndarray, "rates"]:
        """At which rates training settles: where its largest step is below `stable_rate`."""
        scale = self.scale / self.samples
        limit = stable_rate(float(np.max(values)) + 2 * self.pull / scale, self.momentum)
        return scale * np.asarray(rates, np.float64) * np.max(self.shape) < limit


def momentum_filters(
    g: Float[np.ndarray, "m"],
    rates: Sequence[float] | Float[np.ndarray, "rates"],
    shape: Sequence[float] | Float[np.ndarray, "steps"],
    momentum: float,
) -> Float[np.ndarray, "rates m"]:
    """`heavy_ball_filter` for many rates at once, each times a common schedule; not finite where it diverges.

    Args:
        g: eigenvalues of Φ + λ I.
        rates: of the sum objective.
        shape: factor of the rate in each step.
        momentum: in [0, 1).

    Raises:
        FunctionError: rates, shape, momentum or eigenvalues out of range.

    Example:
        >>> momentum_filters(np.array([1.0, 0.0]), [0.0, 0.5], [1.0, 1.0], 0.5)
        array([[0.  , 0.  ],
               [1.  , 1.25]])
    """
    g, momentum = as_eigenvalues(g), check_momentum(momentum)
    shape, rates = step_rates(shape, len(shape)), step_rates(rates, len(rates))
    q = np.zeros((len(rates), len(g)))
    velocity = np.zeros_like(q)
    with np.errstate(over="ignore", invalid="ignore"):
        for factor in shape.tolist():
            velocity = momentum * velocity + (g * q - 1)
            q = q - factor * rates[:, None] * velocity
    return q


def rescaled(
    decomposed: Modes,
    change: Float[np.ndarray, "m"],
    known: Float[np.ndarray, "m+1"],
    filters: Float[np.ndarray, "*points m+1"],
) -> tuple[Float[np.ndarray, "*points"], Float[np.ndarray, "*points m"]]:
    """A known step δ at other rates: a δ + Jᵀ α, with a and α for each point of a grid.

    Along the mode u of Φ = J Jᵀ with eigenvalue s the step becomes φ = q'(g)/q(g) times as long, where outputs don't
    reach it a = q'(2 λ n/c)/q(2 λ n/c) times: α = U diag((φ - a)/s) Uᵀ J δ. At the known rate that is a = 1 and α = 0.

    Args:
        decomposed: modes of the new task's kernel Φ.
        change: J δ, what the known step changes on the new task's outputs, stacked sample by sample.
        known: q at the known rate, of the modes and, last, of an eigenvalue s = 0.
        filters: q' of the same at each point of the grid.

    Raises:
        FunctionError: a change that doesn't fit.

    Example:
        >>> from analysis.theory.modes import modes
        >>> found = rescaled(modes(np.diag([4.0, 1.0])), np.array([8.0, 0.0]), np.ones(3), np.array([[3.0, 1.0, 2.0]]))
        >>> found[0].tolist(), found[1].tolist()  # twice the step, and one more length of it along the first mode
        ([2.0], [[2.0, 0.0]])
    """
    ratios = filters / known
    outside, s = ratios[..., -1], decomposed.values
    # Modes without a gradient: the step changes nothing there
    weights = np.divide(ratios[..., :-1] - outside[..., None], s, out=np.zeros(ratios[..., :-1].shape), where=s > 0)
    return outside, (weights * decomposed.coordinates(change)) @ decomposed.vectors.T


def matched_scale(
    objective: Objective,
    values: Float[np.ndarray, "m"],
    rate: float,
    size: Callable[[Float[np.ndarray, "m"]], float],
    target: float,
) -> tuple[float, bool]:
    """The scale c at which a change has the size that was seen; it is looked for up to where training gets unstable.

    Args:
        objective: pull, schedule and momentum; its own scale doesn't count.
        values: s, eigenvalues of the new task's kernel.
        rate: η > 0 at which the change was seen.
        size: of the change that a filter q makes, rising with c: a step's length, what is learned of the residual.
        target: the size that was seen.

    Returns:
        c, and whether the size is reached; if no scale does, the one that comes closest (the smallest where the size
        isn't even positive).

    Raises:
        FunctionError: a rate or kernel that isn't positive, or a pull so strong that it alone diverges.

    Example:
        >>> values, flat = np.array([1.0]), Objective(samples=1, pull=0.0, shape=[1.0])
        >>> scale, reached = matched_scale(flat, values, 0.1, lambda q: float(q[0]), target=0.05)
        >>> round(scale, 9), reached  # q = c η
        (0.5, True)
    """
    rate, largest = positive("the learning rate", rate), positive("the kernel", float(np.max(values)))
    # Stable up to η max(shape) (c s_1/n + 2 λ) = 2 (1 + μ)
    limit = stable_rate(1.0, objective.momentum) / (rate * np.max(objective.shape))
    room = positive("what the pull leaves of the stable rate", limit - 2 * objective.pull)

    def excess(logarithm: float) -> float:
        tried = replace(objective, scale=float(np.exp(logarithm)))
        return size(tried.filters(values, [rate])[0]) - target

    # Near the limit modes overshoot and sizes needn't rise any more: the first crossing is meant
    grid = np.log(objective.samples * room / largest * np.geomspace(SMALLEST, 1 - 1e-6, 49)).tolist()
    sizes = [excess(logarithm) for logarithm in grid]
    at = next((i for i, above in enumerate(sizes) if above >= 0), None)
    if at is None or at == 0:
        return float(np.exp(grid[int(np.argmin(np.abs(sizes)))])), False
    return float(np.exp(brentq(excess, grid[at - 1], grid[at]))), True


def felt(change: Float[np.ndarray, "points m"], held: Modes, directions: int) -> Float[np.ndarray, "points m"]:
    """β of the part of steps that lies in the directions that old images feel most: δ⊥ = (I - V Vᵀ) δ = δ - J_oᵀ β.

    V are the right singular vectors of J_o, the Jacobian of the old images' outputs, with the k largest singular
    values: V = J_oᵀ U_k s_k^(-1/2), so that V Vᵀ δ = J_oᵀ U_k s_k⁻¹ U_kᵀ (J_o δ). To first order δ⊥ leaves the old
    outputs alone along U_k.

    Args:
        change: J_o δ, what each step changes on the old images' outputs.
        held: modes of their kernel J_o J_oᵀ.
        directions: k; those without a gradient aren't counted.

    Raises:
        FunctionError: fewer than no directions, or changes that don't fit.

    Example:
        >>> from analysis.theory.modes import modes
        >>> felt(np.array([[2.0, 1.0]]), modes(np.diag([4.0, 1.0])), directions=1)
        array([[0.5, 0. ]])
    """
    if directions < 0 or change.shape[-1] != len(held.values):
        raise FunctionError(
            f"expected at least 0 directions and changes of {len(held.values)} outputs, one for each row of the old "
            f"kernel; got {directions} and shape {change.shape}"
        )
    k = min(directions, int((held.values > 0).sum()))
    vectors = held.vectors[:, :k]
    return (change @ vectors / held.values[:k]) @ vectors.T


@dataclass(frozen=True)
class Gain:
    """A difference of two accuracies on the same images.

    Attributes:
        value: as a fraction.
        error: its standard error over images.
    """

    value: float
    error: float

    @property
    def told(self) -> bool:
        """Whether it is a gain, and more than noise."""
        return self.value > 0 and is_told(self.value, self.error)


def paired_gain(
    before: Bool[np.ndarray, "n"], after: Bool[np.ndarray, "n"], images: Int[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"],
) -> Gain:  # fmt: skip
    """How much more is named right, Σ w (after - before), and its standard error by drawing images.

    An image is right or wrong (binomial), and only those on which the two differ count. One that is looked at after
    several tasks counts once, with all its looks: they go together.

    Args:
        before: which looks are right.
        after: the same of the other way to train.
        images: which image each look is at, from 0.
        weights: of each look in the accuracy; they add up to 1.

    Example:
        >>> wrong, right = np.zeros(4, bool), np.array([True, False, False, False])
        >>> gain = paired_gain(wrong, right, np.arange(4), np.full(4, 0.25))
        >>> gain.value, round(gain.error, 4), gain.told
        (0.25, 0.2165, False)
    """
    looks = weights * (after.astype(float) - before.astype(float))
    parts = np.bincount(images, looks)
    # The sum of N independent parts: N times their variance
    return Gain(float(parts.sum()), float(np.sqrt(len(parts) * parts.var())))


def best_point(accuracy: Float[np.ndarray, "rates lengths"], rates: Sequence[float]) -> tuple[int, int]:
    """Where accuracy is highest; of equal ones the smallest rate, then the shortest training. NaN counts as lowest.

    Example:
        >>> best_point(np.array([[0.5, 0.5], [0.9, 0.9], [0.9, np.nan]]), rates=[0.0, 0.2, 0.1])
        (2, 0)
    """
    points = [(i, j) for i in np.argsort(rates, kind="stable").tolist() for j in range(accuracy.shape[1])]
    # `max` keeps the first of equals
    return max(points, key=lambda at: -np.inf if np.isnan(accuracy[at]) else accuracy[at])
