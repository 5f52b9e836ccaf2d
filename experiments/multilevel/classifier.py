"""The readout `multilevel` of rows that all lie there at once: what it chooses task by task, and what it ends with.

The classifier after the last task depends on the order of tasks by its weights and its ridge alone, since sums don't.
So the tasks are walked through on the compared columns only, and the whole classifier is solved for once.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from experiments.multilevel.rows import Row
from ntkcl_jax.readouts.group_ridge import LEFT_OUT, RIDGES, GroupRidge, Weights, compared, penalty


@dataclass(frozen=True)
class Images:
    """Training images as a classifier sees them.

    Attributes:
        rows: of each image, the untransformed view first.
        labels: classes in the order in which they come.
        tasks: task of each image.
        widths: columns of each group.
        classes: of the whole stream.
    """

    rows: Float[np.ndarray, "n v w"]
    labels: Int[np.ndarray, "n"]
    tasks: Int[np.ndarray, "n"]
    widths: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Tried:
    """What is known of left-out images, summed over tasks.

    Attributes:
        candidates: weights of the groups.
        norms: s_k of each group, on the first task.
        hits: right answers by candidate and ridge.
        errors: squared errors by candidate and ridge.
        left_out: how many images were.
    """

    candidates: tuple[Weights, ...]
    norms: Float[np.ndarray, "g"]
    hits: Float[np.ndarray, "k r"]
    errors: Float[np.ndarray, "k r"]
    left_out: int

    def choice(self, row: Row) -> tuple[Weights, float]:
        """Weights and ridge by a row's rule, among those that it compares; of equals the first and the largest."""
        ridges = row.ridges[::-1]
        kept = np.ix_([self.candidates.index(w) for w in row.weights], [RIDGES.index(ridge) for ridge in ridges])
        hits, errors = self.hits[kept], self.errors[kept]
        i, j = np.unravel_index(np.argmin(errors) if row.rule == "error" else np.argmax(hits), hits.shape)
        if row.rule == "weights by error":
            i = np.argmin(errors.min(axis=1))
            j = np.argmax(hits[i])
        if row.rule == "ridge by error":
            j = np.argmin(errors[i])
        return row.weights[int(i)], ridges[int(j)]


def walk(images: Images, candidates: tuple[Weights, ...], most: int) -> Tried:
    """Leave out images of each task in turn, of everything seen until then, by every candidate and ridge.

    Args:
        images: of all tasks.
        candidates: weights of the groups.
        most: columns that are compared.
    """
    columns, larger = compared(images.widths, most)
    gram, sums = np.zeros((len(columns), len(columns))), np.zeros((len(columns), images.classes))
    first = images.rows[images.tasks == 0]
    norms = group_norms(first, images.widths)
    hits, errors = np.zeros((2, len(candidates), len(RIDGES)))
    left_out = 0
    for task in range(int(images.tasks.max()) + 1):
        own = np.flatnonzero(images.tasks == task)
        x, labels = np.asarray(images.rows[own][..., columns], np.float64), images.labels[own]
        flat = x.reshape(-1, len(columns))
        gram += flat.T @ flat
        sums += x.sum(axis=1).T @ np.eye(images.classes)[labels]
        places = np.unique(np.linspace(0, len(x) - 1, min(LEFT_OUT, len(x))).astype(int))
        seen = int(labels.max()) + 1
        for i, weights in enumerate(candidates):
            d = np.repeat(np.array(weights) / norms, images.widths)[columns] * larger
            used = np.flatnonzero(d)
            found = one_left_out(
                gram[np.ix_(used, used)] * np.outer(d[used], d[used]),
                d[used, None] * sums[used, :seen],
                x[places][..., used] * d[used],
                labels[places],
                [penalty(weights, ridge) for ridge in RIDGES],
            )
            hits[i] += [(scores.argmax(axis=1) == labels[places]).sum() for scores in found]
            wanted = np.eye(seen)[labels[places]]
            errors[i] += [np.square(scores - wanted).sum() for scores in found]
        left_out += len(places)
    return Tried(candidates, norms, hits, errors, left_out)


def group_norms(rows: Float[np.ndarray, "n v w"], widths: tuple[int, ...]) -> Float[np.ndarray, "g"]:
    """Root mean squared norm of each group's rows; 1 where it is zero."""
    groups = np.split(np.square(rows, dtype=np.float64).mean(axis=(0, 1)), np.cumsum(widths)[:-1])
    norms = np.sqrt([group.sum() for group in groups])
    return np.where(norms > 0, norms, 1.0)


def one_left_out(
    gram: Float[np.ndarray, "m m"],
    sums: Float[np.ndarray, "m c"],
    x: Float[np.ndarray, "n v m"],
    labels: Int[np.ndarray, "n"],
    ridges: list[float],
) -> list[Float[np.ndarray, "n c"]]:
    """Scores of images that are left out with all their views, for each ridge; all arguments weighted.

    1 yᵀ - (I - X A⁻¹ Xᵀ)⁻¹ (1 yᵀ - X W) with A⁻¹ = V diag(1 / (s + λ)) Vᵀ: one decomposition for all ridges.
    """
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0)  # rounding may make zeros negative
    n, views, _ = x.shape
    inside, right = x @ vectors, vectors.T @ sums
    wanted, found = np.eye(sums.shape[1])[labels], []
    for ridge in ridges:
        half = inside / (values + ridge)
        leverage = np.eye(views) - half @ inside.transpose(0, 2, 1)  # [n, v, v]
        residual = wanted[:, None] - (half.reshape(n * views, -1) @ right).reshape(n, views, -1)
        # Only the first view counts: the first row of the inverse
        rows = np.linalg.solve(leverage.transpose(0, 2, 1), np.eye(views)[:, :1])[..., 0]  # [n, v]
        found.append(wanted - np.einsum("nv,nvc->nc", rows, residual))
    return found


@dataclass(frozen=True)
class Whole:
    """Everything learnt, for any weights and ridge: sums where they are the smaller, else the rows.

    Attributes:
        ridge: the library's classifier, its sums empty where the rows are fewer than columns.
        rows: of all images and views; empty where the sums are there.
        targets: one-hot classes of the rows.
    """

    ridge: GroupRidge
    rows: Float[np.ndarray, "m w"]
    targets: Float[np.ndarray, "m c"]

    @classmethod
    def of(cls, images: Images, norms: Float[np.ndarray, "g"]) -> "Whole":
        """Sum up, or keep."""
        views = images.rows.shape[1]
        rows = images.rows.reshape(-1, images.rows.shape[-1]).astype(np.float64)
        targets = np.eye(images.classes)[np.repeat(images.labels, views)]
        width = sum(images.widths)
        empty = np.zeros((0, images.classes))
        hits = np.zeros((1, len(RIDGES)), np.int64)
        none = GroupRidge(
            images.widths, ((1.0,) * len(norms),), np.zeros((0, 0)), empty, norms, hits, left_out=0, solution=empty
        )
        if len(rows) < width:
            return cls(none, rows, targets)
        sums = rows.T @ targets
        summed = replace(none, gram=rows.T @ rows, sums=sums, solution=np.zeros_like(sums))
        return cls(summed, rows[:0], targets[:0])

    def solved(self, weights: Weights, ridge: float) -> Float[np.ndarray, "w c"]:
        """W for rows as they are: (D G D + λ)⁻¹ by the library, or D Zᵀ (Z Zᵀ + λ)⁻¹ Y with Z = X D."""
        if not len(self.rows):
            return self.ridge.solved(weights, ridge)
        scale = self.ridge.scale(weights)
        z = self.rows * scale
        kernel = z @ z.T
        kernel[np.diag_indices_from(kernel)] += penalty(weights, ridge)
        return scale[:, None] * (z.T @ scipy.linalg.solve(kernel, self.targets, assume_a="pos", overwrite_a=True))
