"""What the two gaps depend on: sample size, orthogonality of features, regularization. One function varies one factor.

All three are pure functions of kernels, spectra and residual targets; nothing is drawn and nothing trained.

- `sample_size_sweep` varies P and keeps the spectrum, the target and λ.
- `orthogonality_sweep` varies how much of their features two tasks share and keeps each task's own kernel, targets, λ.
- `regularization_sweep` varies λ and keeps the kernels and targets.

Errors are mean squared errors per sample, summed over outputs. λ is the ridge of the *sum* objective, in the kernels'
units; `analysis.measures.absolute_ridge` converts a fraction of the mean diagonal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.checks import as_matrix
from analysis.theory.finite_population import finite_population
from analysis.theory.interplay import LearnedTask, learn_sequentially
from analysis.theory.learning_curves import eigenlearning
from analysis.theory.leave_one_out import stored

Steps = Sequence[float] | Float[np.ndarray, "points"]
"""Values of what a sweep varies."""


@dataclass(frozen=True)
class SampleSizeSweep:
    """Predicted error against the number of samples.

    Attributes:
        sizes: (points,) P.
        eigenlearning: (points,) on a fresh sample of an unlimited population.
        finite_population: (points,) on the unseen rest of the reference sample; NaN beyond its size.
    """

    sizes: Float[np.ndarray, "points"]
    eigenlearning: Float[np.ndarray, "points"]
    finite_population: Float[np.ndarray, "points"]


@dataclass(frozen=True)
class TaskPair:
    """An old and a new task under one Jacobian: kernels stacked sample by sample, targets minus what was said before.

    Attributes:
        old: Φ(X_t, X_t) (n_t K, n_t K).
        new: Φ(X_k, X_k) (n_k K, n_k K).
        inter: Φ(X_t, X_k) (n_t K, n_k K).
        old_residual: (n_t, K).
        new_residual: (n_k, K), before either task is learned.
    """

    old: Float[np.ndarray, "old old"]
    new: Float[np.ndarray, "new new"]
    inter: Float[np.ndarray, "old new"]
    old_residual: Float[np.ndarray, "n_t k"]
    new_residual: Float[np.ndarray, "n_k k"]

    def learn(self, ridge: float, cosine: float = 1.0) -> tuple[LearnedTask, LearnedTask]:
        """Learn the old task, then the new one, with the inter-task kernel times a number.

        Args:
            ridge: λ > 0, of both tasks.
            cosine: factor in [-1, 1]; see `orthogonality_sweep`.

        Raises:
            FunctionError: kernels and residuals that don't fit together, or an unfit ridge or factor.

        Example:
            >>> pair = TaskPair(np.eye(1), np.eye(1), np.eye(1), np.ones((1, 1)), np.zeros((1, 1)))
            >>> old, new = pair.learn(ridge=1.0)
            >>> old.decomposition.task_specific, old.decomposition.total
            (0.25, 0.5625)
        """
        if not -1 <= cosine <= 1:
            raise FunctionError(f"expected a cosine between the tasks' features in [-1, 1], got {cosine}")
        inter = cosine * as_matrix("the inter-task kernel", self.inter)
        # blocks[k, s] is Φ_k(X_s, X_k): its rows are the samples that are looked at
        blocks = {(0, 0): self.old, (0, 1): inter.T, (1, 0): inter, (1, 1): self.new}
        residuals = [self.old_residual, self.new_residual]
        # Residual targets have what was said before in them already
        said = [np.zeros_like(residual) for residual in residuals]
        old, new = learn_sequentially(lambda k, s: blocks[k, s], residuals, said, [ridge, ridge])
        return old, new


@dataclass(frozen=True)
class PairSweep:
    """The old task's squared error after both tasks, split as by `decompose`, against the factor that was varied.

    Attributes:
        values: (points,) the factor: cosines or ridges.
        task_specific: (points,) S, what learning the old task left.
        interplay: (points,) I, what the new task's change alone adds.
        cross: (points,) C, signed.
        total: (points,) S + I + C.
        old_test_error: (points,) leave-one-out error of the old task once learned, before the new one.
        new_test_error: (points,) leave-one-out error of the new task, learned after the old one.
    """

    values: Float[np.ndarray, "points"]
    task_specific: Float[np.ndarray, "points"]
    interplay: Float[np.ndarray, "points"]
    cross: Float[np.ndarray, "points"]
    total: Float[np.ndarray, "points"]
    old_test_error: Float[np.ndarray, "points"]
    new_test_error: Float[np.ndarray, "points"]


def sample_size_sweep(
    eigenvalues: Float[np.ndarray, "m"], target_power: Float[np.ndarray, "m"], sizes: Steps, ridge: float
) -> SampleSizeSweep:
    """Vary the number of samples P; spectrum, target and ridge stay.

    Args:
        eigenvalues: η of a reference sample (`population_modes`), one for each of its rows.
        target_power: c².
        sizes: P, in rows of the kernel.
        ridge: λ >= 0.

    Raises:
        FunctionError: unfit modes, sizes or ridge.

    Example:
        >>> r = np.arange(1, 51)
        >>> sample_size_sweep(r**-2.0, r**-2.5, sizes=(10, 50), ridge=0.1).finite_population.round(6)
        array([0.08185 , 0.014993])
    """
    curve = [eigenlearning(eigenvalues, target_power, size, ridge).generalization_error for size in sizes]
    # Beyond the reference sample there is no rest to be tested on
    rest = [
        finite_population(eigenvalues, target_power, size, ridge).unseen_error if size <= len(eigenvalues) else np.nan
        for size in sizes
    ]
    return SampleSizeSweep(np.array(sizes, np.float64), np.array(curve), np.array(rest))


def orthogonality_sweep(pair: TaskPair, cosines: Steps, ridge: float) -> PairSweep:
    """Vary the angle between the two tasks' features: the inter-task kernel times a cosine, each task's own as it is.

    This is what turning the new task's gradients out of the shared parameters into fresh ones does: J_k becomes
    (cos θ J_k, sin θ J_k) and J_t (J_t, 0), so Φ(X_t, X_k) becomes cos θ Φ(X_t, X_k) and Φ(X_k, X_k) stays. At 0 the
    tasks are orthogonal and nothing is forgotten, at 1 they are as they came. The new task's residual changes with the
    cosine too: the less is shared, the less the old task has already taught.

    Args:
        pair: the two tasks.
        cosines: factors in [-1, 1].
        ridge: λ > 0, of both tasks.

    Raises:
        FunctionError: unfit kernels, residuals, cosines or ridge.

    Example:
        >>> pair = TaskPair(np.eye(2), np.eye(2), np.eye(2), np.ones((2, 1)), -np.ones((2, 1)))
        >>> orthogonality_sweep(pair, cosines=(0.0, 1.0), ridge=1.0).interplay.round(12)
        array([0.    , 0.5625])
    """
    return _sweep(pair, [(cosine, ridge) for cosine in cosines], cosines)


def regularization_sweep(pair: TaskPair, ridges: Steps) -> PairSweep:
    """Vary the ridge of both tasks; kernels and targets stay.

    A small ridge leaves nothing of the old task's training error, so that all that is forgotten is interplay; a large
    one learns, and overwrites, little. The leave-one-out errors say which of them generalises.

    Args:
        pair: the two tasks.
        ridges: λ > 0.

    Raises:
        FunctionError: unfit kernels, residuals or ridges.

    Example:
        >>> pair = TaskPair(np.eye(2), np.eye(2), np.eye(2), np.ones((2, 1)), -np.ones((2, 1)))
        >>> regularization_sweep(pair, ridges=(1.0, 3.0)).task_specific.round(12)
        array([0.25  , 0.5625])
    """
    return _sweep(pair, [(1.0, ridge) for ridge in ridges], ridges)


def _sweep(pair: TaskPair, settings: Sequence[tuple[float, float]], values: Steps) -> PairSweep:
    outputs = np.shape(pair.old_residual)[1]
    rows = []
    for cosine, ridge in settings:
        old, new = pair.learn(ridge, cosine)
        split = old.decomposition
        # In the order of `PairSweep`'s fields
        rows.append(
            (
                split.task_specific,
                sum(split.interplay.values()),
                sum(split.own_cross.values()),
                split.total,
                stored(pair.old, old.residual_targets, ridge, outputs).leave_one_out(),
                stored(pair.new, new.residual_targets, ridge, outputs).leave_one_out(),
            )
        )
    # Six columns even where there is no point
    columns = np.array(rows, np.float64).reshape(-1, 6).T
    return PairSweep(np.array(values, np.float64), *columns)
