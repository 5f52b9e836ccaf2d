"""Jacobians of two tasks that the measures are tested on, and the mixings that they should or shouldn't notice."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from analysis.measures import ntk_overlap, row_space, task_grid


@dataclass(frozen=True)
class TaskPair:
    """Jacobians (n_t, p) and (n_k, p) of two tasks at one checkpoint."""

    j_t: np.ndarray
    j_k: np.ndarray

    @property
    def blocks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A, B and C: intra-task kernels of both and the inter-task one."""
        return self.j_t @ self.j_t.T, self.j_k @ self.j_k.T, self.j_t @ self.j_k.T

    @property
    def ratio(self) -> float:
        """Inter/intra ratio of the two, as a run's summary gets it: from one kernel over both."""
        both = np.concatenate([self.j_t, self.j_k])
        return task_grid(both @ both.T, (0, len(self.j_t), len(both))).inter_intra_ratio[0, 1]

    @property
    def cosines(self) -> np.ndarray:
        """Of the principal angles, as a run's summary gets them."""
        a, b, c = self.blocks
        return ntk_overlap(row_space(a), row_space(b), c)

    def scaled(self, factor_t: float, factor_k: float) -> "TaskPair":
        return TaskPair(factor_t * self.j_t, factor_k * self.j_k)

    def mixed(self, mix_t: np.ndarray, mix_k: np.ndarray) -> "TaskPair":
        """Rows of each task mixed among themselves."""
        return TaskPair(mix_t @ self.j_t, mix_k @ self.j_k)

    def rotated(self, rotation: np.ndarray) -> "TaskPair":
        """Parameters turned."""
        return TaskPair(self.j_t @ rotation, self.j_k @ rotation)

    def replaced(self, **changes: np.ndarray) -> "TaskPair":
        return replace(self, **changes)


def f4() -> tuple[TaskPair, np.ndarray]:
    """Fixture F4 of docs/theory.md, section 6, with the targets (8, 1)."""
    i, a = np.arange(1, 9)[:, None], np.arange(1, 13)
    return TaskPair(np.cos(0.7 * i * a), np.cos(0.7 * i * a + 0.9)), np.sin(1.1 * i)


def orthogonal(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def invertible(rng: np.random.Generator, n: int) -> np.ndarray:
    """Far from orthogonal, but not so far that the rank cut would see it: singular values from 1/3 to 3."""
    stretch = 3.0 ** np.linspace(-1, 1, n)
    return orthogonal(rng, n) * stretch @ orthogonal(rng, n)


def random_pair(rng: np.random.Generator, n_t: int, n_k: int, p: int, decay: float = 0.0) -> TaskPair:
    """Gaussian rows whose standard deviation falls along the parameters as (1, 2, ...)^-decay."""
    scale = np.arange(1.0, p + 1) ** -decay
    return TaskPair(rng.standard_normal((n_t, p)) * scale, rng.standard_normal((n_k, p)) * scale)


seeds = st.integers(0, 2**32 - 1)


@st.composite
def generators(draw):
    return np.random.default_rng(draw(seeds))


@st.composite
def pairs(draw, min_rows: int = 1):
    """Two tasks of different sizes, with fewer parameters than rows or more."""
    n_t, n_k, p = (draw(st.integers(min_rows, 9)), draw(st.integers(min_rows, 9)), draw(st.integers(1, 20)))
    return random_pair(draw(generators()), n_t, n_k, p, draw(st.sampled_from([0.0, 0.5, 1.0])))


positive = st.floats(1e-3, 1e3)
