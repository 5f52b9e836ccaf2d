"""Learning curves without a spectrum: kernel ridge regression on random subsets (docs/theory.md, section 3.5).

`subset_leave_one_out` is the best predictor of a learning curve that is known: as unbiased as leave-one-out, averaged
over P-subsets of a reference sample. `subset_test_errors` and `subset_rest_errors` measure what is predicted. The
subset of a size and a draw depends on the seed alone, so all of them agree on it whatever other sizes are asked for.

Errors are mean squared errors, summed over outputs. λ is the ridge of the *sum* objective, in the kernel's units.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, cho_factor, cho_solve, get_lapack_funcs

from analysis.errors import FunctionError
from analysis.measures.checks import as_columns, as_matrix, check_shape
from analysis.measures.spectrum import symmetrise
from analysis.theory.learning_curves import sample_count, stacked
from analysis.theory.leave_one_out import Stored
from analysis.theory.modes import positive


@dataclass(frozen=True)
class SubsetErrors:
    """Error against the size of the training set, over random subsets of each size.

    Attributes:
        sizes: samples in a subset.
        mean: (sizes,) over draws.
        std: (sizes,) sample standard deviation over draws: what one training set of that size scatters by; NaN for a
            single draw.
    """

    sizes: Int[np.ndarray, "sizes"]
    mean: Float[np.ndarray, "sizes"]
    std: Float[np.ndarray, "sizes"]


def draw_subset(samples: int, size: int, draw: int, seed: int) -> Int[np.ndarray, "size"]:
    """Which samples the subsets of this module hold; another size or draw changes nothing about this one.

    Args:
        samples: how many there are to choose from.
        size: how many are chosen, each at most once.
        draw: number of the draw, from 0.
        seed: of all draws.

    Raises:
        FunctionError: more samples than there are, or none.

    Example:
        >>> sorted(draw_subset(3, 3, draw=0, seed=1).tolist())
        [0, 1, 2]
    """
    # Refuses 2.5, which slicing would only meet later
    size = operator.index(size)
    if not 0 < size <= samples:
        raise FunctionError(f"expected subsets of 1 to {samples} samples, as many as the kernel has, got {size}")
    return np.random.default_rng([seed, size, draw]).permutation(samples)[:size]


def subset_leave_one_out(
    kernel: Float[np.ndarray, "m m"],
    target: Float[np.ndarray, "..."],
    sizes: Sequence[int],
    draws: int,
    seed: int,
    ridge: float,
    outputs: int = 1,
) -> SubsetErrors:
    """Predict the learning curve: exact leave-one-out of random P-subsets, which tells the test error of P - 1 samples.

    Args:
        kernel: of a reference sample: (n, n) that all outputs share, or (n K, n K) stacked sample by sample.
        target: (n,) or (n, K), or (n K,) stacked sample by sample.
        sizes: P, each at least 2.
        draws: subsets of each size.
        seed: of the draws.
        ridge: λ > 0, the same for all sizes.
        outputs: K if the kernel has a row for each output of a sample, else 1.

    Raises:
        FunctionError: an unfit kernel, target, ridge or number of outputs, impossible sizes, no draws, or a ridge that
            drowns in rounding.

    Example:
        >>> found = subset_leave_one_out(np.eye(4), np.full(4, 2.0), sizes=(2, 3), draws=2, seed=0, ridge=1.0)
        >>> found.mean, found.std
        (array([4., 4.]), array([0., 0.]))
    """
    return _estimate(Stored.leave_one_out, kernel, target, sizes, draws, seed, ridge, outputs)


def subset_gcv(
    kernel: Float[np.ndarray, "m m"],
    target: Float[np.ndarray, "..."],
    sizes: Sequence[int],
    draws: int,
    seed: int,
    ridge: float,
    outputs: int = 1,
) -> SubsetErrors:
    """GCV of the same subsets as `subset_leave_one_out`: too small where the ridge is, by up to 57 % on real data.

    Args:
        kernel: as in `subset_leave_one_out`.
        target: as there.
        sizes: as there.
        draws: as there.
        seed: as there.
        ridge: as there.
        outputs: as there; for K > 1 the block form.

    Raises:
        FunctionError: as there.

    Example:
        >>> subset_gcv(np.eye(4), np.full(4, 2.0), sizes=(2,), draws=2, seed=0, ridge=1.0).mean
        array([4.])
    """
    return _estimate(Stored.gcv, kernel, target, sizes, draws, seed, ridge, outputs)


def subset_test_errors(
    kernel: Float[np.ndarray, "m m"],
    cross: Float[np.ndarray, "test m"],
    target: Float[np.ndarray, "..."],
    test_target: Float[np.ndarray, "..."],
    sizes: Sequence[int],
    draws: int,
    seed: int,
    ridge: float,
    outputs: int = 1,
) -> SubsetErrors:
    """Measure the learning curve: learn random P-subsets, test on other points.

    Args:
        kernel: of the points to learn from, as in `subset_leave_one_out`.
        cross: kernel of the test points with those, (n_test, n) or (n_test K, n K).
        target: as in `subset_leave_one_out`.
        test_target: of the test points, in the same layout.
        sizes: P.
        draws: subsets of each size.
        seed: of the draws.
        ridge: λ > 0, the same for all sizes.
        outputs: K if the kernel has a row for each output of a sample, else 1.

    Raises:
        FunctionError: unfit matrices, targets, ridge or number of outputs, impossible sizes, no draws, or a ridge that
            drowns in rounding.

    Example:
        >>> cross = np.ones((1, 2))  # one test point beside two others
        >>> subset_test_errors(np.eye(2), cross, np.ones(2), np.ones(1), (1, 2), 1, 0, ridge=3.0).mean
        array([0.5625, 0.25  ])
    """
    learn = _Learner(kernel, target, ridge, outputs)
    cross = as_matrix("the kernel of test points with training points", cross)
    check_shape("the kernel of test points with training points", cross, (len(cross), len(learn.kernel)))
    truth = as_columns("test targets", stacked(test_target, len(cross), outputs), len(cross))
    check_shape("test targets", truth, (len(cross), learn.target.shape[1]))
    count = sample_count(len(cross), outputs)

    def measure(samples: np.ndarray) -> float:
        rows = learn.rows(samples)
        # Per test sample, summed over outputs
        return float(((truth - cross[:, rows] @ learn.alpha(rows)) ** 2).sum()) / count

    return _over_subsets(measure, learn.samples, sizes, draws, seed)


def subset_rest_errors(
    kernel: Float[np.ndarray, "m m"],
    target: Float[np.ndarray, "..."],
    sizes: Sequence[int],
    draws: int,
    seed: int,
    ridge: float,
    outputs: int = 1,
) -> SubsetErrors:
    """Measure the learning curve within one sample: learn random P-subsets, test on all that wasn't drawn.

    Args:
        kernel: as in `subset_leave_one_out`.
        target: as there.
        sizes: P, each less than the number of samples.
        draws: as there.
        seed: as there.
        ridge: as there.
        outputs: as there.

    Raises:
        FunctionError: as there, or a size that leaves nothing to test on.

    Example:
        >>> subset_rest_errors(np.ones((3, 3)), np.ones(3), sizes=(1, 2), draws=1, seed=0, ridge=2.0).mean.round(12)
        array([0.44444444, 0.25      ])
    """
    learn = _Learner(kernel, target, ridge, outputs)
    if max(sizes, default=0) >= learn.samples:
        raise FunctionError(f"expected subsets of fewer than all {learn.samples} samples, got {max(sizes)}")

    def measure(samples: np.ndarray) -> float:
        rows = learn.rows(samples)
        rest = learn.rows(np.setdiff1d(np.arange(learn.samples), samples))
        misses = learn.target[rest] - learn.kernel[np.ix_(rest, rows)] @ learn.alpha(rows)
        return float((misses**2).sum()) / (learn.samples - len(samples))

    return _over_subsets(measure, learn.samples, sizes, draws, seed)


class _Learner:
    """Ridge regression on subsets of samples, by Cholesky: several times quicker than through modes."""

    def __init__(self, kernel: np.ndarray, target: np.ndarray, ridge: float, outputs: int) -> None:
        self.kernel = symmetrise(kernel)
        self.target = as_columns("targets", stacked(target, len(self.kernel), outputs), len(self.kernel))
        self.ridge = positive("the ridge", ridge)
        self.outputs = outputs
        self.samples = sample_count(len(self.kernel), outputs)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Kernel rows of samples."""
        # Row i K + c is output c of sample i
        return (samples[:, None] * self.outputs + np.arange(self.outputs)).ravel()

    def alpha(self, rows: np.ndarray) -> np.ndarray:
        return cho_solve((self._factor(rows), True), self.target[rows], check_finite=False)

    def stored(self, samples: np.ndarray) -> Stored:
        rows = self.rows(samples)
        factor = self._factor(rows)
        alpha = cho_solve((factor, True), self.target[rows], check_finite=False)
        n, k = len(samples), self.outputs
        (potri,) = get_lapack_funcs(("potri",), (factor,))
        inverse, _ = potri(factor, lower=1)  # a third of the work of solving for the identity; the lower half only
        each = np.arange(n)
        # [n, K, K]: the samples' index, once down and once across, comes first in the result
        lower = np.tril(inverse.reshape(n, k, n, k)[each, :, each, :])
        blocks = lower + np.tril(lower, -1).transpose(0, 2, 1)
        return Stored(blocks, alpha.reshape(n, k, -1))

    def _factor(self, rows: np.ndarray) -> np.ndarray:
        """Lower Cholesky factor of (Φ + λI) of rows; above its diagonal stands rubbish."""
        regularised = self.kernel[np.ix_(rows, rows)] + self.ridge * np.eye(len(rows))
        try:
            # `np.ix_` made a copy, which may be overwritten
            return cho_factor(regularised, lower=True, overwrite_a=True, check_finite=False)[0]
        except LinAlgError as error:
            raise FunctionError(
                f"expected a positive semi-definite kernel and a ridge above its rounding, got ridge {self.ridge:.3e} "
                f"beside a mean diagonal of {self.kernel.diagonal().mean():.3e}; raise the ridge"
            ) from error


def _estimate(
    estimator: Callable[[Stored], float],
    kernel: np.ndarray,
    target: np.ndarray,
    sizes: Sequence[int],
    draws: int,
    seed: int,
    ridge: float,
    outputs: int,
) -> SubsetErrors:
    learn = _Learner(kernel, target, ridge, outputs)
    if min(sizes, default=2) < 2:
        raise FunctionError(f"expected subsets of at least 2 samples to leave one out, got {min(sizes)}")
    return _over_subsets(lambda samples: estimator(learn.stored(samples)), learn.samples, sizes, draws, seed)


def _over_subsets(
    measure: Callable[[np.ndarray], float], samples: int, sizes: Sequence[int], draws: int, seed: int
) -> SubsetErrors:
    if draws < 1 or len(sizes) == 0:
        raise FunctionError(f"expected at least one size and one draw, got {len(sizes)} sizes and {draws} draws")
    # [sizes, draws]
    errors = np.array([[measure(draw_subset(samples, p, draw, seed)) for draw in range(draws)] for p in sizes])
    std = errors.std(axis=1, ddof=1) if draws > 1 else np.full(len(sizes), np.nan)
    return SubsetErrors(np.array(sizes, np.int64), errors.mean(axis=1), std)
