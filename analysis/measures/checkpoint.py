"""A kernel of one checkpoint as measures read it: what several need is computed once, and none can change it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from analysis.measures.overlap import FLOAT32_RANK_CUT, RANK_CUT, RowSpace, ntk_overlap, row_space
from analysis.measures.ratios import TaskGrid, task_grid
from analysis.measures.spectrum import EPS, sample_major, symmetrise, threshold


@dataclass(frozen=True)
class Checkpoint:
    """A kernel of one checkpoint over the probes of all tasks, with what is needed to read it.

    Attributes:
        kernel: over all tasks' probes, full (n, n, k, k), diagonal (n, n, k), trace or pseudo (n, n).
        offsets: first image of each task, then n.
        labels: label of each image, a column of the run's scores.
        parameters: p, trainable parameters.
        stacked_targets: the k outputs are scores of the labels' classes, so that one-hot targets can be stacked as the
            outputs are.
        groups: parts of the kernel by parameter group; they add up to it.
        eps: relative rounding of the kernel's sums over parameters.

    Example:
        >>> now = Checkpoint(np.diag([4.0, 4.0, 1.0]), (0, 2, 3), np.array([0, 1, 2]), 9, False, {})
        >>> now.tasks, now.intra[1].tolist(), now.spectra[0].tolist()
        (2, [[1.0]], [4.0, 4.0])
    """

    kernel: Float[np.ndarray, "n n *k"]
    offsets: tuple[int, ...]
    labels: Int[np.ndarray, "n"]
    parameters: int
    stacked_targets: bool
    groups: Mapping[str, Float[np.ndarray, "n n *k"]]
    eps: float = EPS

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.offsets) - 1

    @property
    def outputs(self) -> int:
        """Rows of the matrix for each image."""
        return self.kernel.shape[-1] if self.kernel.ndim == 4 else 1

    @property
    def stacked(self) -> bool:
        """Whether each row of the matrix has a target of its own; else an image has one."""
        return self.stacked_targets and self.outputs > 1

    @property
    def images(self) -> list[slice]:
        """Images of each task."""
        return task_slices(self.offsets)

    @property
    def rows(self) -> list[slice]:
        """Rows of each task in the matrix."""
        return task_slices(self.offsets, self.outputs)

    @cached_property
    def matrix(self) -> Float[np.ndarray, "m m"]:
        """The kernel as one matrix of all tasks, see `matrix_of`."""
        return _read_only(matrix_of(self.kernel))

    @cached_property
    def samples(self) -> Float[np.ndarray, "n n"]:
        """One entry for each pair of images, see `sample_kernel`."""
        return _read_only(sample_kernel(self.kernel))

    @property
    def intra(self) -> list[Float[np.ndarray, "m_t m_t"]]:
        """Each task's own kernel."""
        return [self.matrix[rows, rows] for rows in self.rows]

    @property
    def intra_samples(self) -> list[Float[np.ndarray, "n_t n_t"]]:
        """Each task's own kernel of images."""
        return [self.samples[images, images] for images in self.images]

    def inter(self, t: int, k: int) -> Float[np.ndarray, "m_t m_k"]:
        """The kernel between the t-th and the k-th task."""
        return self.matrix[self.rows[t], self.rows[k]]

    @cached_property
    def targets(self) -> Float[np.ndarray, "n c"]:
        """One-hot targets of each image; a column for each output where they are stacked, else for each class."""
        # Stacked, a column is a class of the run's scores, whether a probe has it or not
        return _read_only(one_hot(self.labels, np.arange(self.outputs) if self.stacked else np.unique(self.labels)))

    @cached_property
    def eigenvalues(self) -> list[Float[np.ndarray, "m_t"]]:
        """Of each task's own kernel, ascending, with what rounding leaves of zero on both sides."""
        return [_read_only(np.linalg.eigvalsh(symmetrise(kernel))) for kernel in self.intra]

    @cached_property
    def spectra(self) -> list[Float[np.ndarray, "m_t"]]:
        """Of each task's own kernel, descending, zero where rounding is all that is left."""
        return [_read_only(threshold(values, self.eps)[::-1]) for values in self.eigenvalues]

    @cached_property
    def grid(self) -> TaskGrid:
        """Sizes of all tasks' blocks, and their ratios."""
        return task_grid(self.matrix, [offset * self.outputs for offset in self.offsets])

    @cached_property
    def row_spaces(self) -> list[RowSpace]:
        """Of each task's Jacobian."""
        rtol = RANK_CUT if self.eps <= EPS else FLOAT32_RANK_CUT
        return [row_space(kernel, rtol=rtol) for kernel in self.intra]

    @cached_property
    def cosines(self) -> dict[tuple[int, int], Float[np.ndarray, "angles"]]:
        """Cosines of the principal angles between two tasks' row spaces, descending, for each pair t < k."""
        spaces = self.row_spaces
        return {
            (t, k): _read_only(ntk_overlap(spaces[t], spaces[k], self.inter(t, k)))
            for t, k in itertools.combinations(range(self.tasks), 2)
        }


def matrix_of(kernel: Float[np.ndarray, "n n *k"]) -> Float[np.ndarray, "m m"]:
    """One matrix of the kernel: sample-major rows where it is full, the mean over outputs where it is their diagonal.

    Example:
        >>> matrix_of(np.ones((2, 2, 3))).tolist(), matrix_of(np.ones((2, 2, 3, 3))).shape
        ([[1.0, 1.0], [1.0, 1.0]], (6, 6))
    """
    return kernel.mean(axis=2) if kernel.ndim == 3 else sample_major(kernel)


def sample_kernel(kernel: Float[np.ndarray, "n n *k"]) -> Float[np.ndarray, "n n"]:
    """One entry for each pair of images: the mean over outputs where there are outputs.

    Example:
        >>> sample_kernel(np.ones((2, 2, 3, 3))).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    return np.einsum("ijcc->ij", kernel) / kernel.shape[-1] if kernel.ndim == 4 else matrix_of(kernel)


def task_slices(offsets: Sequence[int], rows: int = 1) -> list[slice]:
    """Rows of each task.

    Example:
        >>> task_slices((0, 2, 5), rows=2)
        [slice(0, 4, None), slice(4, 10, None)]
    """
    return [slice(a * rows, b * rows) for a, b in itertools.pairwise(offsets)]


def one_hot(labels: Int[np.ndarray, "n"], columns: Int[np.ndarray, "k"]) -> Float[np.ndarray, "n k"]:
    """Targets: 1 in the label's column.

    Example:
        >>> one_hot(np.array([2, 5]), np.array([2, 5, 7])).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    return (labels[:, None] == columns).astype(np.float64)


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view that can't be written to: measures of other packages see it, too."""
    view = array.view()
    view.flags.writeable = False
    return view
