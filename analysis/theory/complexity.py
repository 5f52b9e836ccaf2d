"""How well functions within a radius could fit random signs, and the bound on a task's expected loss that follows.

The class is F(B) = {x -> f(x) + J(x) d : ‖d‖ ≤ B}, K outputs. R = E_σ sup_F (1/n) Σ_{i,c} σ_ic f_c(x_i), one
independent sign for each sample and output: the sum over outputs is inside, so it is 1/n and not 1/(nK)
(docs/theory.md, section 1.3). With probability 1 - δ over the task's iid sample, for all functions of the class
(docs/theory.md, section 1.4),

    expected loss  ≤  mean loss on the sample  +  2 v ρ B sqrt(tr Φ) / n  +  3 c sqrt(log(2/δ) / (2n)).

That is a theorem only for a loss that is Lipschitz (ρ) *and* within [0, c], hence the clipped losses, and for a radius
that was fixed before the data or taken from a grid. For a model linear in its parameters it holds after the task, and
after all tasks where the Jacobian doesn't depend on the task's sample. A trained network's Jacobian does: after later
tasks the number is a heuristic there, unless the sample is held out. Below ten thousand samples it is mostly vacuous.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from analysis.errors import FunctionError
from analysis.theory.modes import non_negative, positive

BoundedLoss = Literal["half_squared", "squared", "norm", "cross_entropy", "ramp"]


@dataclass(frozen=True)
class Contraction:
    """What the bound needs to know of a loss.

    Attributes:
        lipschitz: ρ, largest change of the loss for a change of the outputs of Euclidean length 1.
        range: c, the largest loss; the smallest is zero.
    """

    lipschitz: float
    range: float


@dataclass(frozen=True)
class Bound:
    """An upper bound of the expected loss and its three parts, in units of the loss.

    Attributes:
        empirical: mean loss on the sample.
        complexity: 2 v ρ B sqrt(tr Φ) / n.
        confidence: 3 c sqrt(log(2/δ_j) / (2n)).
        radius: B that was used: the grid's value, or the one given.
        union_index: j, where B is on the grid; none where B was taken as given.
        range: c of the loss.
    """

    empirical: float
    complexity: float
    confidence: float
    radius: float
    union_index: int | None
    range: float

    @property
    def value(self) -> float:
        """The bound: the sum of its parts."""
        return self.empirical + self.complexity + self.confidence

    @property
    def vacuous(self) -> bool:
        """Whether it says no more than that the loss is within its range."""
        return self.value >= self.range


def rademacher_complexity(radius: float, trace: float, samples: int) -> float:
    """B sqrt(tr Φ) / n, an upper bound of R at most a factor of sqrt 2 too large.

    It ranks tasks and runs even where the bound made from it says nothing. If the Jacobian changes from task to task,
    but not with task t's sample, R of the function in the end is at most the sum of this over the tasks from t on, each
    with its own radius and its own trace on task t's inputs.

    Args:
        radius: B, or an upper bound of it.
        trace: tr Φ over all nK rows; K times the trace of a kernel of samples that all outputs share.
        samples: n, not n*K.

    Raises:
        FunctionError: a negative radius or trace, or no samples.

    Example:
        >>> rademacher_complexity(radius=0.5, trace=16.0, samples=4)
        0.5
    """
    root = math.sqrt(non_negative("the trace", trace))
    return non_negative("the radius", radius) * root / positive("the number of samples", samples)


def contraction(loss: BoundedLoss, size: float) -> Contraction:
    """Lipschitz constant and range of a bounded loss of outputs f and target y (docs/theory.md, section 1.3).

    - half_squared: min(‖f - y‖²/2, c)
    - squared: min(‖f - y‖², c)
    - norm: min(‖f - y‖, c)
    - cross_entropy: min(-log softmax(f)_y, c)
    - ramp: 1 where the margin f_y - max_{j≠y} f_j is below 0, 0 where it is above γ, a line between; never less than
      the 0-1 error.

    Args:
        loss: which of the five.
        size: c, where the loss is clipped; γ for the ramp.

    Raises:
        FunctionError: an unknown loss, or a size that isn't positive and finite.

    Example:
        >>> contraction("half_squared", 2.0)
        Contraction(lipschitz=2.0, range=2.0)
    """
    if loss not in _LOSSES:
        raise FunctionError(f"expected one of the losses {', '.join(_LOSSES)}, got {loss!r}; choose one of these")
    return _LOSSES[loss](positive("the size of the loss", size))


def generalization_bound(
    empirical: float,
    radius: float,
    trace: float,
    samples: int,
    loss: Contraction,
    *,
    outputs: int,
    delta: float = 0.05,
    tasks: int = 1,
    grid: float | None = None,
) -> Bound:
    """Bound a task's expected loss (docs/theory.md, section 1.4).

    Args:
        empirical: mean loss on the sample, clipped or not: the unclipped one is never less. For the half squared loss
            it is half of `Decomposition.total`.
        radius: B of the function that is asked about: `Radius.exact` just after the task.
        trace: tr Φ over all nK rows of the task.
        samples: n, not n*K.
        loss: Lipschitz constant and range (`contraction`).
        outputs: K. With more than one, the vector contraction costs a factor v = sqrt 2.
        delta: δ, probability that the bound fails.
        tasks: T, where the bounds of all tasks are to hold together: δ/T for each.
        grid: b_0, chosen before seeing data. The smallest b_j = b_0 2^j that is at least B is used, with
            δ_j = δ/((j+1)(j+2)): a theorem although B depends on the data. None takes B as given, which is a theorem
            only for a B that was known before, such as sqrt(n) r / (2 sqrt λ) if no residual target is longer than r.

    Raises:
        FunctionError: a negative loss, radius or trace, no samples, outputs or tasks, a δ outside (0, 1), or a b_0
            that isn't positive.

    Example:
        >>> bound = generalization_bound(0.1, 0.3, 100.0, 10_000, contraction("norm", 1.0), outputs=1, grid=0.01)
        >>> bound.radius, bound.union_index, round(bound.complexity, 12), round(bound.value, 6), bound.vacuous
        (0.32, 5, 0.00064, 0.15845, False)
    """
    if not 0 < delta < 1:
        raise FunctionError(f"expected a probability of failure between 0 and 1, got {delta}; 0.05 is usual")
    index, chance = None, delta / positive("the number of tasks", tasks)
    if grid is not None:
        radius, index = _on_grid(non_negative("the radius", radius), positive("the grid's first radius", grid))
        # Σ_j 1/((j + 1)(j + 2)) = 1, so that the chances of all radii on the grid add up to δ
        chance /= (index + 1) * (index + 2)
    capacity = rademacher_complexity(radius, trace, samples)
    # Losses that see several outputs at once need the vector contraction (docs/theory.md, section 1.3)
    vector = math.sqrt(2) if positive("the number of outputs", outputs) > 1 else 1.0
    return Bound(
        empirical=non_negative("the empirical loss", empirical),
        complexity=2 * vector * loss.lipschitz * capacity,
        confidence=3 * loss.range * math.sqrt(math.log(2 / chance) / (2 * samples)),
        radius=radius,
        union_index=index,
        range=loss.range,
    )


def _on_grid(radius: float, first: float) -> tuple[float, int]:
    """Smallest b_j = first * 2^j that is at least the radius, and j. Doubling is exact, unlike a logarithm."""
    index = next(j for j in itertools.count() if math.ldexp(first, j) >= radius)
    return math.ldexp(first, index), index


_LOSSES: dict[str, Callable[[float], Contraction]] = {
    "half_squared": lambda c: Contraction(math.sqrt(2 * c), c),
    "squared": lambda c: Contraction(2 * math.sqrt(c), c),
    "norm": lambda c: Contraction(1.0, c),
    "cross_entropy": lambda c: Contraction(math.sqrt(2), c),
    "ramp": lambda gamma: Contraction(math.sqrt(2) / gamma, 1.0),
}
