"""What later tasks do to an old one: the exact split of its squared error (docs/theory.md, section 1.1).

`decompose` splits any residual by any changes, so it serves a trained network's measured changes as well as theory's
own learner, `learn_sequentially`: ridge regression of each task, linear in the parameters within a task.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.checks import as_matrix, check_shape
from analysis.theory.modes import dual_coefficients, modes, positive
from analysis.theory.radius import Radius, radius

IDENTITY_TOLERANCE = 1e-10
"""Largest difference between the sum of the terms and the error itself, as part of the terms' sizes."""


@dataclass(frozen=True)
class Decomposition:
    """Squared error of an old task after all tasks, per sample and summed over outputs, split into its causes.

    The terms add up to `direct`; one whose terms don't can't be made. Keys are the later tasks.

    Attributes:
        task_specific: S, what learning the task itself left.
        interplay: I_k, what the change by task k alone would add.
        own_cross: C_k, signed: negative where task k happens to undo some of what was left.
        between_cross: X_km, k < m, signed: negative where task m undoes some of what task k did. Not small.
        direct: the squared error, computed without any of these.

    Raises:
        FunctionError: terms that don't add up to `direct`, or aren't finite.

    Example:
        >>> Decomposition(1.0, {2: 4.0}, {2: -4.0}, {}, direct=1.0).forgetting
        0.0
    """

    task_specific: float
    interplay: dict[int, float]
    own_cross: dict[int, float]
    between_cross: dict[tuple[int, int], float]
    direct: float

    def __post_init__(self):
        """Refuse terms that don't add up."""
        # What is added up sets the scale: cross terms cancel, so that the error itself may be near zero
        size = sum(abs(term) for term in (self.task_specific, *self._later))
        if not abs(self.total - self.direct) <= IDENTITY_TOLERANCE * size:  # refuses NaN too
            raise FunctionError(
                f"expected terms that add up to the squared error {self.direct}, got {self.total}; take all of them "
                "from one residual and its changes, in float64's range"
            )

    @property
    def total(self) -> float:
        """Sum of all terms: `direct`, up to rounding."""
        # Rounded once: terms of both signs cancel
        return math.fsum((self.task_specific, *self._later))

    @property
    def forgetting(self) -> float:
        """`total` - `task_specific`: how much the later tasks raised the error; negative where they helped."""
        return math.fsum(self._later)

    @property
    def _later(self) -> tuple[float, ...]:
        return (*self.interplay.values(), *self.own_cross.values(), *self.between_cross.values())


@dataclass(frozen=True)
class LearnedTask:
    """One task of `learn_sequentially`, after all tasks.

    Attributes:
        residual_targets: (n, K) targets minus what the model said before the task.
        alpha: (n, K) dual coefficients (Φ + λI)⁻¹ r, less their part in directions without a gradient, which moves
            nothing and is of size 1/λ: kept, its rounding would pass for drift.
        residual: (n, K) targets minus what the model said after the task, λ (Φ + λI)⁻¹ r.
        radius: how far the task moved the parameters.
        drifts: (n, K) for each later task: its change of the model on this task's inputs.
        decomposition: the task's squared error in the end.
    """

    residual_targets: Float[np.ndarray, "n k"]
    alpha: Float[np.ndarray, "n k"]
    residual: Float[np.ndarray, "n k"]
    radius: Radius
    drifts: dict[int, Float[np.ndarray, "n k"]]
    decomposition: Decomposition


def decompose(residual: Float[np.ndarray, "..."], drifts: Mapping[int, Float[np.ndarray, "..."]]) -> Decomposition:
    """Split ‖a - Σ_k D_k‖² / n into S = ‖a‖²/n, I_k = ‖D_k‖²/n, C_k = -2 a·D_k/n and X_km = 2 D_k·D_m/n.

    An identity of arrays: nothing is assumed of the model that they come from (docs/theory.md, section 1.1).

    Args:
        residual: (n, K) a, targets minus what the model said after learning the task.
        drifts: (n, K) D_k for each later task: what the model said after task k minus what it said before, on the same
            inputs. None for the last task.

    Raises:
        FunctionError: arrays that aren't finite matrices of one shape, or squares beyond float64's range.

    Example:
        >>> split = decompose(np.array([[1.0, 0.0]]), {2: np.array([[2.0, 1.0]]), 3: np.array([[0.0, -1.0]])})
        >>> split.task_specific, split.interplay, split.own_cross, split.between_cross, split.direct
        (1.0, {2: 5.0, 3: 1.0}, {2: -4.0, 3: -0.0}, {(2, 3): -2.0}, 1.0)
    """
    own = as_matrix("the residual", residual)
    changes = {k: as_matrix(f"task {k}'s drift", drifts[k]) for k in sorted(drifts)}
    for k, change in changes.items():
        check_shape(f"task {k}'s drift", change, own.shape)

    def product(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.vdot(a, b)) / len(own)

    # From the arrays alone, or the sum of the terms would be checked against itself
    left = own - sum(changes.values())
    return Decomposition(
        task_specific=product(own, own),
        interplay={k: product(change, change) for k, change in changes.items()},
        own_cross={k: -2 * product(own, change) for k, change in changes.items()},
        between_cross={(k, m): 2 * product(changes[k], changes[m]) for k, m in combinations(changes, 2)},
        direct=product(left, left),
    )


def learn_sequentially(
    block: Callable[[int, int], Float[np.ndarray, "rows columns"]],
    targets: Sequence[Float[np.ndarray, "_ k"]],
    outputs: Sequence[Float[np.ndarray, "_ k"]],
    ridges: Sequence[float],
) -> tuple[LearnedTask, ...]:
    """Learn tasks one after the other by kernel ridge regression, each from where the last one ended.

    f_k(x) = f_{k-1}(x) + Φ_k(x, X_k) α_k with α_k = (Φ_k + λ_k I)⁻¹ (Y_k - f_{k-1}(X_k)), docs/theory.md, section 1.1.
    The Jacobian may change from task to task. Every block is asked for once, task by task.

    Args:
        block: block(k, s) is Φ_k(X_s, X_k) (n_s K, n_k K) at the checkpoint that task k starts from, stacked sample by
            sample; `lambda k, s: blocks[k, s]` reads a dictionary. Tasks count from 0.
        targets: Y of each task.
        outputs: f_0, what the model says on each task's inputs before the first task.
        ridges: λ > 0 of each task, of the *sum* objective.

    Raises:
        FunctionError: lists of different lengths, blocks that don't fit the targets, an intra-task block that isn't
            symmetric and positive semi-definite, something not finite, or a ridge that isn't positive.

    Example:
        >>> first, last = learn_sequentially(
        ...     lambda k, s: np.eye(1), targets=[np.ones((1, 1)), np.zeros((1, 1))], outputs=[np.zeros((1, 1))] * 2,
        ...     ridges=[1.0, 1.0])
        >>> first.drifts, first.decomposition.task_specific, first.decomposition.total
        ({1: array([[-0.25]])}, 0.25, 0.5625)
    """
    if not len(targets) == len(outputs) == len(ridges):
        raise FunctionError(
            f"expected targets, outputs and a ridge for each task, got {len(targets)}, {len(outputs)} and "
            f"{len(ridges)}; pass as many of each"
        )
    wanted = [as_matrix(f"task {t}'s targets", target) for t, target in enumerate(targets)]
    # What the model says of each task's inputs, kept up to date from task to task
    said = [as_matrix(f"task {t}'s outputs", output) for t, output in enumerate(outputs)]
    for t, (target, output) in enumerate(zip(wanted, said, strict=True)):
        check_shape(f"task {t}'s outputs", output, target.shape)
    learned: list[tuple[np.ndarray, np.ndarray, np.ndarray, Radius]] = []
    drifts: list[dict[int, np.ndarray]] = [{} for _ in wanted]
    for k, ridge in enumerate(ridges):
        rest = wanted[k] - said[k]
        decomposed = modes(_fitting(block(k, k), k, k, (rest.size, rest.size)))
        weights = np.where(decomposed.values > 0, 1 / (decomposed.values + positive("the ridge", ridge)), 0.0)
        alpha = decomposed.filtered(weights, rest.ravel())
        # Here with the part in directions without a gradient: nothing learns it, so that it stays whole
        left = ridge * dual_coefficients(decomposed, rest.ravel(), ridge)
        for s, target in enumerate(wanted):
            if s != k:
                # Φ_k(X_s, X_k) α_k: [n_s K], then [n_s, K]
                change = (_fitting(block(k, s), k, s, (target.size, rest.size)) @ alpha).reshape(target.shape)
                if s < k:
                    drifts[s][k] = change
                else:
                    said[s] = said[s] + change  # a new array: the caller's isn't touched
        moved = radius(decomposed, rest.ravel(), ridge)
        learned.append((rest, alpha.reshape(rest.shape), left.reshape(rest.shape), moved))
    return tuple(
        LearnedTask(rest, alpha, left, moved, changes, decompose(left, changes))
        for (rest, alpha, left, moved), changes in zip(learned, drifts, strict=True)
    )


def _fitting(block: np.ndarray, k: int, s: int, shape: tuple[int, int]) -> np.ndarray:
    name = f"block({k}, {s})"
    matrix = as_matrix(name, block)
    check_shape(name, matrix, shape)
    return matrix
