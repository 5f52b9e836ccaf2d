"""Which ridge readout suits a stream, from its first task: each of its images left out in turn.

With a kernel K of n images (inner products of the rows that a readout's ridge regression sees) and one-hot classes Y,
α = (K + λI)⁻¹ Y, and an image that is left out of everything has the residual (docs/theory.md, section 3.4)

    y_i - f_{-i}(x_i) = α_i / [(K + λI)⁻¹]_ii.

Readouts are compared by the mean squared residual at each one's best ridge, and not by how many images they tell right:
in a first task of few classes all of them tell nearly all right, which doesn't rank them (docs/theory.md, section 9.1).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

RIDGES = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 3))
"""Ridges λ that are tried, in units of the kernel's mean diagonal: 1e-5 to 10, two a decade."""


class LeftOut(NamedTuple):
    """What ridge regression says of images that it was learnt without, at the ridge of the least squared error.

    Attributes:
        ridge: λ in units of the kernel's mean diagonal.
        errors: squared distance of each image's scores from its one-hot class.
        right: whether its own class had the largest score.
    """

    ridge: float
    errors: Float[np.ndarray, "n"]
    right: Bool[np.ndarray, "n"]

    @property
    def error(self) -> float:
        """Mean squared error."""
        return float(self.errors.mean())

    @property
    def accuracy(self) -> float:
        """Share of images told right."""
        return float(self.right.mean())


def left_out(kernel: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"]) -> LeftOut:
    """Leave each image out in turn, at every ridge; one eigendecomposition for all of them.

    Args:
        kernel: of the images, symmetric and positive semi-definite.
        labels: their classes, any integers.

    Example:
        >>> x = np.array([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 0.8]])
        >>> found = left_out(x @ x.T, np.array([3, 3, 5, 5]))
        >>> found.right.tolist(), round(found.error, 3)
        ([True, True, True, True], 0.035)
    """
    known, own = np.unique(labels, return_inverse=True)
    wanted = np.eye(len(known))[own]
    values, vectors = np.linalg.eigh(np.asarray(kernel, np.float64) / (np.mean(np.diagonal(kernel)) or 1.0))
    turned, squares = vectors.T @ wanted, vectors**2
    best: LeftOut | None = None
    for ridge in RIDGES:
        # Rounding may make zero eigenvalues negative
        inverse = 1 / (np.maximum(values, 0) + ridge)
        residual = vectors @ (inverse[:, None] * turned) / (squares @ inverse)[:, None]
        tried = LeftOut(ridge, np.square(residual).sum(axis=1), (wanted - residual).argmax(axis=1) == own)
        if best is None or tried.error < best.error:
            best = tried
    assert best is not None
    return best


def spread(labels: Int[np.ndarray, "n"], most: int) -> Int[np.ndarray, "m"]:
    """Places of at most `most` images, of every class the same share, in their order.

    Example:
        >>> spread(np.array([0, 1, 0, 1, 0, 1, 0, 1]), 4).tolist()
        [0, 3, 4, 7]
    """
    by_class = np.argsort(labels, kind="stable")
    return np.sort(by_class[np.linspace(0, len(labels) - 1, min(most, len(labels))).round().astype(int)])


def best_of(kernels: Iterator[Float[np.ndarray, "n n"]], labels: Int[np.ndarray, "n"]) -> LeftOut:
    """The least squared error of a readout that chooses among several kernels."""
    return min((left_out(kernel, labels) for kernel in kernels), key=lambda found: found.error)


def advised(found: Mapping[str, LeftOut]) -> str:
    """The first readout whose error isn't above the least one by more than a standard error of the difference.

    Args:
        found: what each readout says of the same images, the cheapest readout first.

    Example:
        >>> right = np.ones(3, bool)
        >>> low, same, high = (LeftOut(0.1, np.array(e), right) for e in ([0.1, 0.2, 0.3], [0.1, 0.3, 0.2], [1.0] * 3))
        >>> advised({"dear": low}), advised({"bad": high, "cheap": same, "dear": low})
        ('dear', 'cheap')
    """
    least = min(found.values(), key=lambda one: one.error)
    for name, one in found.items():
        differences = one.errors - least.errors
        # Of the same images: what is hard for both doesn't count
        if differences.mean() <= differences.std() / len(differences) ** 0.5:
            return name
    raise AssertionError("the least error is no more than itself")
