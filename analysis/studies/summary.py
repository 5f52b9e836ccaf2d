"""What kernels say across tasks and checkpoints: numbers of `RUN/analysis/summary.json` (docs/theory.md, section 4)."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analysis import measures
from analysis.measures.spectrum import threshold

RIDGE_FRACTION = 1.0
"""Ridge of the effective dimension, as a fraction of the kernel's mean diagonal (at 1e-3 nearly every row counts)."""
SPECTRUM_LENGTH = 64
"""Eigenvalues kept in the summary; the kernel itself has the others."""


@dataclass(frozen=True)
class Checkpoint:
    """A kernel of one checkpoint with what is needed to read it.

    Attributes:
        kernel: over all tasks' probes, full (n, n, k, k), diagonal (n, n, k), trace or pseudo (n, n).
        offsets: first image of each task, then n.
        labels: label of each image, a column of the run's scores.
        parameters: p, trainable parameters.
        stacked_targets: the k outputs are scores of the labels' classes, so that one-hot targets can be stacked as the
            outputs are.
        groups: parts of the kernel by parameter group; they add up to it.
    """

    kernel: Float[np.ndarray, "n n *k"]
    offsets: tuple[int, ...]
    labels: Int[np.ndarray, "n"]
    parameters: int
    stacked_targets: bool
    groups: Mapping[str, Float[np.ndarray, "n n *k"]]

    @property
    def outputs(self) -> int:
        """Rows of the matrix for each image."""
        return self.kernel.shape[-1] if self.kernel.ndim == 4 else 1

    @cached_property
    def eigenvalues(self) -> list[Float[np.ndarray, "m"]]:
        """Of each task's own kernel, ascending, with what rounding leaves of zero on both sides."""
        matrix = as_matrix(self.kernel)
        tasks = task_slices(self.offsets, self.outputs)
        return [np.linalg.eigvalsh(measures.symmetrise(matrix[rows, rows])) for rows in tasks]


def as_matrix(kernel: Float[np.ndarray, "n n *k"]) -> Float[np.ndarray, "m m"]:
    """One matrix of the kernel: sample-major rows where it is full, the mean over outputs where it is their diagonal.

    Example:
        >>> as_matrix(np.ones((2, 2, 3))).tolist(), as_matrix(np.ones((2, 2, 3, 3))).shape
        ([[1.0, 1.0], [1.0, 1.0]], (6, 6))
    """
    return kernel.mean(axis=2) if kernel.ndim == 3 else measures.sample_major(kernel)


def sample_kernel(kernel: Float[np.ndarray, "n n *k"]) -> Float[np.ndarray, "n n"]:
    """One entry for each pair of images: the mean over outputs where there are outputs.

    Example:
        >>> sample_kernel(np.ones((2, 2, 3, 3))).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    return np.einsum("ijcc->ij", kernel) / kernel.shape[-1] if kernel.ndim == 4 else as_matrix(kernel)


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


def summarise(now: Checkpoint, before: Checkpoint | None = None) -> dict[str, Any]:
    """All figures of one checkpoint.

    Args:
        now: its kernel.
        before: the previous checkpoint's, of the same images; None for the first.

    Returns:
        T x T matrices `inter_intra_ratio`, `kernel_norm`, `unrelated_ratio` (same spectra at random orientations: the
        floor), `same_task_ratio` (another sample of the same tasks: the ceiling to expect), `overlap` (mean squared
        cosine of the principal angles), `smallest_angle` (radians); per task `effective_dimension`,
        `participation_ratio`, `target_alignment`, `centred_target_alignment`, `spectrum` (largest eigenvalues,
        descending), `rank`, and against the previous checkpoint `drift`, `kernel_distance`,
        `debiased_cka` (None for the first); per group `share` of the trace and `inter_intra_ratio`.

    Raises:
        FunctionError: a kernel that isn't symmetric, or a task without any gradient.
    """
    matrix, samples = as_matrix(now.kernel), sample_kernel(now.kernel)
    tasks, images = task_slices(now.offsets, now.outputs), task_slices(now.offsets)
    grid = measures.task_grid(matrix, [offset * now.outputs for offset in now.offsets])
    intra = [matrix[rows, rows] for rows in tasks]
    spectra = [threshold(values)[::-1] for values in now.eigenvalues]
    spread = [measures.participation_ratio(values) for values in spectra]
    classes = np.unique(now.labels)
    stacked = now.stacked_targets and now.outputs > 1
    targets = one_hot(now.labels, np.arange(now.outputs) if stacked else classes)
    spaces = [measures.row_space(kernel) for kernel in intra]
    same = [measures.same_population_ratio(kernel, now.outputs) for kernel in intra]
    count = len(tasks)
    unrelated, related, overlap, angle = (np.eye(count) for _ in range(4))
    np.fill_diagonal(angle, 0.0)
    for t, k in itertools.combinations(range(count), 2):
        unrelated[t, k] = unrelated[k, t] = measures.random_orientation_ratio(spread[t], spread[k], now.parameters)
        related[t, k] = related[k, t] = (same[t] * same[k]) ** 0.5
        shared = measures.overlap_matrix(spaces[t], spaces[k], matrix[tasks[t], tasks[k]])
        cosines = np.clip(np.linalg.svd(shared, compute_uv=False), 0.0, 1.0)
        overlap[t, k] = overlap[k, t] = float(np.mean(cosines**2))
        angle[t, k] = angle[k, t] = float(np.arccos(cosines.max()))
    return {
        "inter_intra_ratio": grid.inter_intra_ratio.tolist(),
        "kernel_norm": grid.kernel_norm.tolist(),
        "unrelated_ratio": unrelated.tolist(),
        "same_task_ratio": related.tolist(),
        "overlap": overlap.tolist(),
        "smallest_angle": angle.tolist(),
        "effective_dimension": [
            measures.effective_dimension(values, measures.absolute_ridge(values, RIDGE_FRACTION)) for values in spectra
        ],
        "participation_ratio": spread,
        "target_alignment": [
            measures.target_alignment(a, targets[rows].reshape(-1)) if stacked
            else measures.target_alignment(samples[rows, rows], targets[rows])
            for a, rows in zip(intra, images, strict=True)
        ],
        "centred_target_alignment": [
            measures.target_alignment(samples[rows, rows], one_hot(now.labels[rows], classes), centred=True)
            if len(np.unique(now.labels[rows])) > 1 else None  # targets that don't vary have no direction
            for rows in images
        ],
        "spectrum": [values[:SPECTRUM_LENGTH].tolist() for values in spectra],
        "rank": [int(np.count_nonzero(values)) for values in spectra],
        **changes(now, before),
        "groups": {name: group_figures(part, now, matrix) for name, part in now.groups.items()},
    }  # fmt: skip


def changes(now: Checkpoint, before: Checkpoint | None) -> dict[str, list[float | None]]:
    """How each task's intra-task kernel has changed since the previous checkpoint; None where there is none."""
    slices = task_slices(now.offsets, now.outputs)
    images = task_slices(now.offsets)
    if before is None:
        return {name: [None] * len(slices) for name in ("drift", "kernel_distance", "debiased_cka")}
    old, new = as_matrix(before.kernel), as_matrix(now.kernel)
    old_samples, new_samples = sample_kernel(before.kernel), sample_kernel(now.kernel)
    return {
        "drift": [measures.drift(old[s, s], new[s, s]) for s in slices],
        "kernel_distance": [measures.kernel_distance(old[s, s], new[s, s]) for s in slices],
        "debiased_cka": [
            measures.debiased_cka(old_samples[s, s], new_samples[s, s]) if s.stop - s.start >= 4 else None
            for s in images
        ],
    }


def group_figures(
    part: Float[np.ndarray, "n n *k"], now: Checkpoint, whole: Float[np.ndarray, "m m"]
) -> dict[str, Any]:
    """A parameter group's share of each task's trace, and its own inter/intra ratios (None without any gradient)."""
    matrix = as_matrix(part)
    tasks = task_slices(now.offsets, now.outputs)
    share = [float(np.trace(matrix[s, s]) / np.trace(whole[s, s])) for s in tasks]
    ratio = None
    if min(share) > 0:
        ratio = measures.task_grid(matrix, [offset * now.outputs for offset in now.offsets]).inter_intra_ratio.tolist()
    return {"share": share, "inter_intra_ratio": ratio}


def task_health(now: Checkpoint, kernel_health: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Health of each task's intra-task kernel: the whole kernel's figures with the task's own smallest eigenvalue.

    Args:
        now: the checkpoint.
        kernel_health: what the gate found of the whole kernel.
    """
    return [{**kernel_health, "smallest_eigenvalue": float(values[0] / values[-1])} for values in now.eigenvalues]
