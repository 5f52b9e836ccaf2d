"""Inter-task against intra-task kernels: the ratio, the grid of it over all tasks, and what chance would give.

A ratio by itself says little, as tasks that share nothing have one too (docs/theory.md, section 4). Report it beside a
baseline; the two agree on isotropic gradients and differ on others, because they answer different questions:

- `random_orientation_ratio`: the same spectra, turned at random against each other. The floor of unrelated tasks.
- `same_population_ratio`: another sample of the same task. What a task keeps with itself; the level of related tasks.
"""

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.checks import as_symmetric, divide


@dataclass(frozen=True)
class TaskGrid:
    """Two T x T matrices over tasks, of one checkpoint.

    Attributes:
        inter_intra_ratio: Frobenius ratio of each block; 1 on the diagonal.
        kernel_norm: Frobenius norm of each block, undivided.
    """

    inter_intra_ratio: Float[np.ndarray, "tasks tasks"]
    kernel_norm: Float[np.ndarray, "tasks tasks"]


def task_grid(kernel: Float[np.ndarray, "n n"], offsets: Sequence[int]) -> TaskGrid:
    """Frobenius norms and ratios of all task blocks of one kernel; each block above the diagonal is read once.

    The ratio of C = J_t J_k^T to A and B is ||C||_F / sqrt(||A||_F ||B||_F), in [0, 1]; its square is the cosine of
    J_t^T J_t and J_k^T J_k. It is invariant to scaling of either Jacobian, to orthogonal mixing of each task's rows and
    to rotation of the parameters.

    Args:
        kernel: (n, n) of all tasks' samples with each other, task by task.
        offsets: first row of each task, then n: (0, 40, 80) for two tasks of 40 rows (samples times outputs).

    Raises:
        FunctionError: a kernel that isn't symmetric, offsets that don't cut it into tasks, or a task whose intra-task
            kernel is zero.

    Example:
        >>> task_grid(np.array([[4.0, 1.0], [1.0, 1.0]]), (0, 1, 2)).inter_intra_ratio
        array([[1. , 0.5],
               [0.5, 1. ]])
    """
    matrix = as_symmetric("the kernel", kernel)
    edges = [operator.index(offset) for offset in offsets]
    pairs = list(itertools.pairwise(edges))
    if not pairs or edges[0] != 0 or edges[-1] != len(matrix) or any(start >= stop for start, stop in pairs):
        raise FunctionError(
            f"expected offsets 0 < first < ... < {len(matrix)}, the kernel's rows, got {tuple(edges)}; count samples "
            "times outputs for a sample-major kernel"
        )
    tasks = [slice(start, stop) for start, stop in pairs]
    norms = np.empty((len(tasks), len(tasks)))
    for t, rows in enumerate(tasks):
        for k in range(t, len(tasks)):
            norms[t, k] = norms[k, t] = np.linalg.norm(matrix[rows, tasks[k]])
    roots = np.sqrt(norms.diagonal())
    scales = np.array([divide(1.0, root, f"task {t}'s intra-task kernel") for t, root in enumerate(roots)])
    ratios = norms * np.multiply.outer(scales, scales)  # in this order exactly symmetric
    # A task's ratio to itself is 1, without the last bit of the quotient
    np.fill_diagonal(ratios, 1.0)
    return TaskGrid(inter_intra_ratio=ratios, kernel_norm=norms)


def random_orientation_ratio(participation_t: float, participation_k: float, p: int) -> float:
    """Frobenius ratio of two tasks with these spectra, turned at random in p dimensions: (r_t r_k)^(1/4) / sqrt(p).

    Exact in the mean square: over random rotations Q, E||J_t Q J_k^T||_F^2 = tr A tr B / p. No sample size enters
    but through r. For isotropic gradients r is n p / (n + p + 1) up to 2/(n p), and this sqrt(n / (n + p + 1)).

    Args:
        participation_t: `participation_ratio` of task t's intra-task kernel.
        participation_k: the same of task k.
        p: number of parameters that the kernels are of.

    Raises:
        FunctionError: a participation ratio outside [1, p] (beyond rounding), or not finite.

    Example:
        >>> random_orientation_ratio(4.0, 4.0, 16)
        0.5
    """
    ratios = (participation_t, participation_k)
    if not (p >= 1 and all(1 - 1e-9 <= r <= p * (1 + 1e-9) for r in ratios)):  # false for NaN
        raise FunctionError(f"expected participation ratios from 1 to p, got {ratios} with p={p}; don't divide them")
    return math.sqrt(math.sqrt(participation_t * participation_k) / p)


def same_population_ratio(intra: Float[np.ndarray, "n n"], outputs: int = 1) -> float:
    """Frobenius ratio to expect against another, independent sample of the same task, from one kernel.

    sqrt(mean of ||A_ij||_F^2 over i != j, over the mean over all i, j), A_ij the (k, k) block of samples i and j: pairs
    of different samples are what an inter-task block would hold, and unbiased for it. Nothing is assumed of the
    gradients' distribution, nor of outputs within a sample. For Gaussian rows of covariance S and one output it
    estimates sqrt(n / (n + q + 1)), q = (tr S)^2 / tr S^2 the population's participation ratio. In [0, 1]. Two tasks:
    the geometric mean of theirs. The root of an estimate is biased downwards a little: 1 % at 20 samples with p = 56,
    measured.

    Args:
        intra: (n*k, n*k) kernel of one task, n >= 2.
        outputs: k; 1 for a kernel of samples.

    Raises:
        FunctionError: fewer than two samples, rows that aren't a multiple of the outputs, or a zero kernel.

    Example:
        >>> same_population_ratio(np.array([[2.0, 1.0], [1.0, 2.0]])).__round__(12)
        0.632455532034
    """
    matrix = as_symmetric("the kernel", intra)
    if outputs < 1 or len(matrix) % outputs or len(matrix) // outputs < 2:
        raise FunctionError(
            f"expected at least two samples of {outputs} rows each, got {len(matrix)} rows; give the kernel's number "
            "of outputs and more than one sample"
        )
    n = len(matrix) // outputs
    samples = np.arange(n)
    # [n, k, k]: each sample's block with itself
    own = matrix.reshape(n, outputs, n, outputs)[samples, :, samples, :]
    share = divide(np.linalg.norm(own), np.linalg.norm(matrix), "the kernel") ** 2  # of single samples in all pairs
    # What is left are n (n - 1) blocks of different samples beside n² of all
    return math.sqrt(max(0.0, 1.0 - share) * n / (n - 1))
