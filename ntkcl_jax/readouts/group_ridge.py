"""One ridge classifier on several groups of features: it learns task after task, forgets nothing and keeps no image.

With rows x = (x_1, …, x_g) of an image, one group after the other, its one-hot class y, and group weights D,

    W = D (D G D + λ I)⁻¹ D S,   G = Σ x xᵀ,   S = Σ x yᵀ   (sums over all rows seen, float64),

is the ridge regression of all tasks at once on the weighted features Dx. Sums don't depend on the order of tasks or
batches, and D enters after the sums, so that the weights can be chosen anew, exactly, whenever more is known. A group's
weight counts in units of its mean squared norm on the first task: x_k is divided by s_k, s_k² = mean ‖x_k‖².

Weights and λ are those with most right answers when each image of the task at hand is left out of everything seen,
counted while the task is there and added up over tasks (accuracy, not squared error: squared error is the smaller, the
nearer to zero all scores lie). Candidates are compared on the first columns of each group alone: columns of a random
map are exchangeable, so that a part of them has the same expected kernel at a fraction of the algebra.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Ridges λ that are tried, in units of the mean squared norm of weighted rows on the first task."""
COMPARED = 1000
"""Columns by which candidates are compared, about."""
LEFT_OUT = 500
"""Images of a task that are left out in turn, at most."""
ROWS = 2048
"""Rows that are turned to float64 at a time."""
Weights = tuple[float, ...]


def penalty(weights: Weights, ridge: float) -> float:
    """λ itself: weighted rows have the mean squared norm Σ weight² on the first task.

    Example:
        >>> penalty((1.0, 0.5), 0.1)
        0.125
    """
    return ridge * float(np.square(weights).sum())


def compared(widths: tuple[int, ...], most: int) -> tuple[Int[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """The first columns of each group, the same share of each; and what makes up for the others.

    Example:
        >>> columns, larger = compared((4, 8), 3)
        >>> columns.tolist(), larger.tolist()
        ([0, 4, 5], [2.0, 2.0, 2.0])
    """
    share = min(1.0, most / sum(widths))
    counts = [max(1, round(share * width)) for width in widths]
    starts = np.cumsum([0, *widths[:-1]])
    columns = np.concatenate([start + np.arange(count) for start, count in zip(starts, counts, strict=True)])
    # Fewer columns have a smaller norm, but a ridge is to mean the same for them as for all
    return columns, np.repeat(np.sqrt(np.array(widths) / counts), counts)


@dataclass(frozen=True)
class GroupRidge:
    """What is kept of all images seen: w (w + classes) numbers, whatever their number.

    Attributes:
        widths: columns of each group.
        candidates: weights of the groups that are compared, the first where nothing is known.
        gram: Σ x xᵀ, unweighted; on and below the diagonal, zero above it.
        sums: Σ x yᵀ, one column for each class of the stream.
        norms: s_k of each group.
        hits: right answers of left-out images by candidate and ridge.
        left_out: how many images were.
        solution: W of the newest choice.
    """

    widths: tuple[int, ...]
    candidates: tuple[Weights, ...]
    gram: Float[np.ndarray, "w w"]
    sums: Float[np.ndarray, "w c"]
    norms: Float[np.ndarray, "g"]
    hits: Int[np.ndarray, "k r"]
    left_out: int
    solution: Float[np.ndarray, "w c"]

    @classmethod
    def empty(cls, widths: tuple[int, ...], classes: int, candidates: tuple[Weights, ...]) -> Self:
        """Nothing seen yet."""
        width = sum(widths)
        none = np.zeros((width, classes))
        hits = np.zeros((len(candidates), len(RIDGES)), np.int64)
        return cls(widths, candidates, np.zeros((width, width)), none, np.zeros(len(widths)), hits, 0, none)

    @property
    def choice(self) -> tuple[Weights, float]:
        """Weights of the groups and ridge with most right answers; of equals the first weights, the largest ridge."""
        # Without its only image a class is unknown, so that with one image a class all candidates may be equally
        # wrong; a large ridge is nearest to class means, which few images suffice for
        candidate, back = np.unravel_index(np.argmax(self.hits[:, ::-1]), self.hits.shape)
        return self.candidates[candidate], RIDGES[len(RIDGES) - 1 - back]

    @property
    def accuracy(self) -> float:
        """Share of left-out images that the choice told right, by the compared columns; nan before the first task."""
        return float(self.hits.max() / self.left_out) if self.left_out else float("nan")

    def scores(self, rows: Float[np.ndarray, "n w"]) -> Float[np.ndarray, "n c"]:
        """xᵀ W."""
        return rows @ self.solution

    def learn(self, rows: Float[np.ndarray, "n v w"], labels: Int[np.ndarray, "n"], seen: int) -> Self:
        """Learn a task.

        An image's v views X (v, w) all enter G and S. Left out with all of them, it would have the scores

            1 yᵀ - (I - X A⁻¹ Xᵀ)⁻¹ (1 yᵀ - X W),   A = D G D + λ I,   W = A⁻¹ D S

        of everything seen, this task included; the first view's count (rows here are weighted ones).

        Args:
            rows: of the task's images; with views, the untransformed one first.
            labels: their classes in the stream's numbering.
            seen: classes of the stream seen so far, this task's included.

        Returns:
            A new classifier.

        Example:
            >>> y = np.repeat([0, 1], 3)
            >>> x = np.random.default_rng(0).normal(size=(6, 1, 5)) + 9 * np.eye(5)[4 * y][:, None]
            >>> ridge = GroupRidge.empty((3, 2), 2, ((1.0, 1.0), (1.0, 0.0))).learn(x, y, seen=2)
            >>> ridge.scores(x[:, 0]).argmax(axis=1).tolist(), ridge.accuracy
            ([0, 0, 0, 1, 1, 1], 1.0)
        """
        gram, sums = np.array(self.gram), self.sums.copy()
        syrk = scipy.linalg.get_blas_funcs("syrk", dtype=np.float64)
        for at in range(0, len(rows), ROWS):
            part = np.asarray(rows[at : at + ROWS], np.float64)
            flat = part.reshape(-1, len(gram))
            # One triangle takes half the work. BLAS counts by columns: what is above its diagonal is below ours
            syrk(1.0, flat.T, beta=1.0, c=gram.T, lower=False, overwrite_c=True)
            # All views of an image have its class
            sums += part.sum(axis=1).T @ np.eye(sums.shape[1])[labels[at : at + ROWS]]
        norms = self.norms
        if not self.left_out:  # the first task
            squares = [np.trace(gram[part, part]) for part in self._groups()]
            # A group that is all zero has no scale, and no weight would change it
            norms = np.sqrt(np.array(squares) / (rows.shape[0] * rows.shape[1]))
            norms = np.where(norms > 0, norms, 1.0)
        told = replace(self, gram=gram, sums=sums, norms=norms)
        places = np.unique(np.linspace(0, len(rows) - 1, min(LEFT_OUT, len(rows))).astype(int))
        hits = self.hits + told._hits(rows[places], labels[places], seen)
        told = replace(told, hits=hits, left_out=self.left_out + len(places))
        return replace(told, solution=told.solved(*told.choice))

    def solved(self, weights: Weights, ridge: float) -> Float[np.ndarray, "w c"]:
        """W for rows as they are, of given weights and ridge: by one Cholesky factor, in place."""
        scale = self.scale(weights)
        used = np.flatnonzero(scale)  # a group without weight costs nothing
        d = scale[used]
        matrix = self.gram[np.ix_(used, used)] if len(used) < len(scale) else np.array(self.gram)
        matrix *= d
        matrix *= d[:, None]
        matrix[np.diag_indices_from(matrix)] += penalty(weights, ridge)
        # By columns, as BLAS counts, so that nothing is copied
        factor = scipy.linalg.cho_factor(matrix.T, lower=False, overwrite_a=True, check_finite=False)
        found = np.zeros_like(self.sums)
        found[used] = d[:, None] * scipy.linalg.cho_solve(factor, d[:, None] * self.sums[used], check_finite=False)
        return found

    def _groups(self) -> list[slice]:
        ends = np.cumsum(self.widths)
        return [slice(int(end) - width, int(end)) for end, width in zip(ends, self.widths, strict=True)]

    def scale(self, weights: Weights) -> Float[np.ndarray, "w"]:
        """The diagonal of D: weight over s_k, column by column."""
        return np.repeat(np.array(weights) / self.norms, self.widths)

    def _hits(
        self, rows: Float[np.ndarray, "n v w"], labels: Int[np.ndarray, "n"], seen: int
    ) -> Int[np.ndarray, "k r"]:
        """Images told right when left out, by candidate and ridge."""
        columns, larger = compared(self.widths, COMPARED)
        x = np.asarray(rows[..., columns], np.float64)
        n, views = x.shape[:2]
        lower, sums = self.gram[np.ix_(columns, columns)], self.sums[columns, :seen]
        gram = lower + np.tril(lower, -1).T
        wanted = np.eye(seen)[labels]
        hits = np.zeros(self.hits.shape, np.int64)
        for i, weights in enumerate(self.candidates):
            d = self.scale(weights)[columns] * larger
            weighted = d[:, None] * gram * d
            right = np.concatenate([(x * d).reshape(n * views, -1).T, d[:, None] * sums], axis=1)
            for j, ridge in enumerate(RIDGES):
                matrix = weighted + penalty(weights, ridge) * np.eye(len(d))
                factor = np.linalg.cholesky(matrix)
                # L⁻¹ D Xᵀ and L⁻¹ D S: inner products of their columns are X A⁻¹ Xᵀ and X W
                half = scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False)
                inside, scores = half[:, : n * views], half[:, n * views :]
                blocks = inside.T.reshape(n, views, -1)
                leverage = np.eye(views) - blocks @ blocks.transpose(0, 2, 1)  # [n, v, v]
                residual = wanted[:, None] - blocks @ scores  # [n, v, seen]
                left_out = wanted - np.linalg.solve(leverage, residual)[:, 0]
                hits[i, j] = np.count_nonzero(left_out.argmax(axis=1) == labels)
        return hits
