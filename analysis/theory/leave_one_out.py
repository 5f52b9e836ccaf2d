"""Test error of kernel ridge regression from its training samples: leave-one-out, GCV (docs/theory.md, section 3.4).

Everything follows from what ridge regression stores of each sample, `Stored`: its block of (Φ + λI)⁻¹ and its dual
coefficients. Leave-one-out is exact: it equals learning n times without one sample each. With an empirical NTK of K
outputs a *sample* is left out, all its K rows at once. GCV puts the mean block in every sample's place; on real data
and at small ridges that is too small by up to 57 %, while leave-one-out isn't biased (docs/theory.md, section 3.5).

Errors are mean squared errors, summed over outputs. λ is the ridge of the *sum* objective, in the kernel's units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.spectrum import absolute_ridge
from analysis.theory.learning_curves import sample_count, stacked
from analysis.theory.modes import Modes, modes, non_negative

FRACTIONS = tuple(float(f"{10 ** (exponent / 2):.3g}") for exponent in range(-8, 5))
"""Ridges that `choose_ridge` tries, as fractions of the mean diagonal: 1e-4 to 100, two a decade."""


@dataclass(frozen=True)
class Stored:
    """What ridge regression stores of n samples of K kernel rows each (K = 1: a kernel that all outputs share).

    Attributes:
        blocks: (n, K, K) diagonal blocks of (Φ + λI)⁻¹.
        alpha: (n, K, columns) dual coefficients.
    """

    blocks: Float[np.ndarray, "n k k"]
    alpha: Float[np.ndarray, "n k columns"]

    def held_out(self) -> Float[np.ndarray, "n k columns"]:
        """Residual of each sample once it is left out: ([(Φ + λI)⁻¹]_ii)⁻¹ α_i."""
        return np.linalg.solve(self.blocks, self.alpha)

    def leave_one_out(self) -> float:
        """Mean of ‖held-out residual‖² over samples."""
        return _mean_square(self.held_out())

    def gcv(self) -> float:
        """The same with the mean block in place of every sample's own."""
        # One block for all samples, which broadcasts over them
        return _mean_square(np.linalg.solve(self.blocks.mean(axis=0), self.alpha))

    def flat_gcv(self) -> float:
        """The same with one number, the mean of the whole diagonal, in place of the mean block."""
        return _mean_square(self.alpha / self.blocks.diagonal(axis1=1, axis2=2).mean())


@dataclass(frozen=True)
class RidgeChoice:
    """The ridge of the least leave-one-out error, and the errors of all that were tried.

    Attributes:
        ridge: λ, in the kernel's units.
        fraction: the same as a fraction of the mean diagonal. At either end of `fractions` it may be better still
            beyond.
        fractions: all that were tried.
        errors: leave-one-out error of each.
    """

    ridge: float
    fraction: float
    fractions: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def decided(self) -> bool:
        """Whether the errors chose: False where all are equal, as for residuals of zeros; the smallest ridge is taken.

        Example:
            >>> choose_ridge(np.ones((2, 2)), np.zeros(2)).decided, choose_ridge(np.ones((2, 2)), np.ones(2)).decided
            (False, True)
        """
        return max(self.errors) > min(self.errors)


def stored(
    kernel: Modes | Float[np.ndarray, "m m"], residual: Float[np.ndarray, "..."], ridge: float, outputs: int = 1
) -> Stored:
    """Learn by ridge regression and keep what leave-one-out needs.

    Args:
        kernel: Φ (n, n) that all outputs share, or (n K, n K) stacked sample by sample; or its modes, which save the
            decomposition where several ridges are wanted.
        residual: targets minus what the model said before: (n,) or (n, K), or (n K,) stacked sample by sample.
        ridge: λ > 0, or 0 if the kernel isn't singular.
        outputs: K if the kernel has a row for each output of a sample, else 1.

    Raises:
        FunctionError: an unfit kernel, residual, ridge or number of outputs.

    Example:
        >>> found = stored(np.diag([1.0, 3.0]), np.array([2.0, 4.0]), ridge=1.0)
        >>> found.blocks.ravel(), found.alpha.ravel()
        (array([0.5 , 0.25]), array([1., 1.]))
    """
    decomposed = kernel if isinstance(kernel, Modes) else modes(kernel)
    rows = len(decomposed.values)
    n = sample_count(rows, outputs)
    weights = _inverse(decomposed, ridge)
    # [n, K, rows]: the rows of U by sample
    vectors = decomposed.vectors.reshape(n, outputs, rows)
    # [n, K, K]: the diagonal blocks of U diag(1/g) Uᵀ, without the rest of it
    blocks = (vectors * weights) @ vectors.transpose(0, 2, 1)
    alpha = decomposed.filtered(weights, stacked(residual, rows, outputs))
    return Stored(blocks, alpha.reshape(n, outputs, -1))


def leave_one_out(
    kernel: Modes | Float[np.ndarray, "n n"], target: Float[np.ndarray, "n *outputs"], ridge: float
) -> float:
    """Leave-one-out error with a kernel that all outputs share: mean over samples of Σ_c (α_ic / [(K + λI)⁻¹]_ii)².

    Args:
        kernel: K (n, n), or its modes.
        target: (n,) or (n, K); in continual learning the residual targets.
        ridge: λ > 0, or 0 if the kernel isn't singular.

    Raises:
        FunctionError: an unfit kernel, target or ridge.

    Example:
        >>> i = np.arange(20)
        >>> kernel = np.exp(-(np.subtract.outer(i, i) ** 2) / 18)
        >>> round(leave_one_out(kernel, np.stack([np.sin(0.7 * i), np.cos(i**2)], axis=1), ridge=0.1), 12)
        0.490829739603
    """
    return stored(kernel, target, ridge).leave_one_out()


def gcv(kernel: Modes | Float[np.ndarray, "n n"], target: Float[np.ndarray, "n *outputs"], ridge: float) -> float:
    """Generalized cross-validation n ‖α‖² / (tr (K + λI)⁻¹)², which is KARE at λ/n, summed over outputs.

    Args:
        kernel: K (n, n) that all outputs share, or its modes.
        target: (n,) or (n, K).
        ridge: λ > 0, or 0 if the kernel isn't singular.

    Raises:
        FunctionError: an unfit kernel, target or ridge.

    Example:
        >>> i = np.arange(20)
        >>> kernel = np.exp(-(np.subtract.outer(i, i) ** 2) / 18)
        >>> round(gcv(kernel, np.stack([np.sin(0.7 * i), np.cos(i**2)], axis=1), ridge=0.1), 12)
        0.503274880669
    """
    return stored(kernel, target, ridge).gcv()


def block_leave_one_out(
    kernel: Modes | Float[np.ndarray, "m m"], residual: Float[np.ndarray, "..."], ridge: float, outputs: int
) -> float:
    """Leave-one-out error with an empirical NTK of K outputs: a sample's K rows are left out together.

    Args:
        kernel: Φ (n K, n K), stacked sample by sample, or its modes.
        residual: (n K,) or (n, K).
        ridge: λ > 0, or 0 if the kernel isn't singular.
        outputs: K.

    Raises:
        FunctionError: an unfit kernel, residual, ridge or number of outputs.

    Example:
        >>> block_leave_one_out(np.eye(4), np.array([2.0, 0.0, 0.0, 2.0]), ridge=1.0, outputs=2)
        4.0
    """
    return stored(kernel, residual, ridge, outputs).leave_one_out()


def block_gcv(
    kernel: Modes | Float[np.ndarray, "m m"], residual: Float[np.ndarray, "..."], ridge: float, outputs: int
) -> float:
    """Generalized cross-validation with an empirical NTK: the mean K x K block stands for every sample's.

    Args:
        kernel: Φ (n K, n K), stacked sample by sample, or its modes.
        residual: (n K,) or (n, K).
        ridge: λ > 0, or 0 if the kernel isn't singular.
        outputs: K.

    Raises:
        FunctionError: an unfit kernel, residual, ridge or number of outputs.

    Example:
        >>> block_gcv(np.eye(4), np.array([2.0, 0.0, 0.0, 2.0]), ridge=1.0, outputs=2)
        4.0
    """
    return stored(kernel, residual, ridge, outputs).gcv()


def flat_gcv(
    kernel: Modes | Float[np.ndarray, "m m"], residual: Float[np.ndarray, "..."], ridge: float, outputs: int
) -> float:
    """Generalized cross-validation as if each output of a sample were a sample: the trace alone. The crudest form.

    Args:
        kernel: Φ (n K, n K), stacked sample by sample, or its modes.
        residual: (n K,) or (n, K).
        ridge: λ > 0, or 0 if the kernel isn't singular.
        outputs: K.

    Raises:
        FunctionError: an unfit kernel, residual, ridge or number of outputs.

    Example:
        >>> flat_gcv(np.eye(4), np.array([2.0, 0.0, 0.0, 2.0]), ridge=1.0, outputs=2)
        4.0
    """
    return stored(kernel, residual, ridge, outputs).flat_gcv()


def choose_ridge(
    kernel: Modes | Float[np.ndarray, "m m"],
    residual: Float[np.ndarray, "..."],
    outputs: int = 1,
    fractions: Sequence[float] = FRACTIONS,
) -> RidgeChoice:
    """Find the ridge of the least leave-one-out error on a grid; one eigendecomposition for all of them.

    Args:
        kernel: as in `stored`.
        residual: as in `stored`.
        outputs: as in `stored`.
        fractions: ridges to try, as fractions of the mean diagonal.

    Raises:
        FunctionError: an empty grid, a fraction that isn't positive, or an unfit kernel, residual or number of outputs.

    Example:
        >>> x = np.linspace(-1, 1, 9)
        >>> choice = choose_ridge(np.outer(x, x), 2 * x, fractions=(1e-3, 1.0))
        >>> choice.fraction, round(choice.ridge, 6)
        (0.001, 0.000417)
    """
    if not fractions:
        raise FunctionError("expected at least one ridge to try, as a fraction of the mean diagonal, got none")
    decomposed = kernel if isinstance(kernel, Modes) else modes(kernel)
    ridges = [absolute_ridge(decomposed.values, fraction) for fraction in fractions]
    errors = [stored(decomposed, residual, ridge, outputs).leave_one_out() for ridge in ridges]
    best = int(np.argmin(errors))
    return RidgeChoice(ridges[best], float(fractions[best]), tuple(map(float, fractions)), tuple(errors))


def _mean_square(residual: Float[np.ndarray, "n k columns"]) -> float:
    return float((residual**2).sum()) / len(residual)


def _inverse(decomposed: Modes, ridge: float) -> Float[np.ndarray, "m"]:
    """Eigenvalues of (Φ + λI)⁻¹."""
    shifted = decomposed.values + non_negative("the ridge", ridge)
    if shifted.min() == 0:
        raise FunctionError(
            "expected a positive ridge, since the kernel is singular, got 0; absolute_ridge turns a fraction of the "
            "mean diagonal, such as 1e-4, into one"
        )
    return 1 / shifted
