"""A ridge classifier that learns tasks one after the other and forgets nothing: exemplar-free, independent of order.

Ridge regression of one-hot targets needs the features' Gram matrix and their class sums only, and both are sums over
images. So the classifier after the last task is that of all tasks at once: its task interplay is zero (docs/theory.md),
which holds as long as the features stay the same. Its ridge is chosen by leave-one-out: the residual of an image of the
current task, had it been left out of everything, follows from the same sums.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Float, Int

RIDGES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 5))
"""Ridges that are tried, as fractions of the Gram matrix's mean diagonal: 1e-6 to 100, two a decade."""


@dataclass(frozen=True)
class RidgeClassifier:
    """What is kept of all images seen: d (d + classes) numbers, whatever their number.

    Attributes:
        gram: Σ x xᵀ.
        sums: Σ x yᵀ, one column for each class of the stream.
        images: how many.
        losses: leave-one-out squared errors summed over images, one for each of `RIDGES`.
    """

    gram: Float[np.ndarray, "d d"]
    sums: Float[np.ndarray, "d c"]
    images: int
    losses: Float[np.ndarray, "ridges"]

    @classmethod
    def empty(cls, features: int, classes: int) -> Self:
        """Nothing seen yet."""
        return cls(np.zeros((features, features)), np.zeros((features, classes)), 0, np.zeros(len(RIDGES)))

    @property
    def fraction(self) -> float:
        """The chosen ridge, as a fraction of the Gram matrix's mean diagonal."""
        return RIDGES[int(np.argmin(self.losses))]

    def weights(self) -> Float[np.ndarray, "d c"]:
        """W = (G + λ I)⁻¹ S; a class's score of x is xᵀ W. Columns of unseen classes are zero."""
        size = len(self.gram)
        ridge = self.fraction * np.trace(self.gram) / size
        return np.linalg.solve(self.gram + ridge * np.eye(size), self.sums)


def learn(
    classifier: RidgeClassifier, features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"]
) -> RidgeClassifier:
    """Learn a task.

    The leave-one-out residual of image i is (y_i - Wᵀ x_i) / (1 - x_iᵀ (G + λ I)⁻¹ x_i), with G and W of everything
    seen, this task included. Residuals of earlier tasks stay as they were computed: their images are gone.

    Args:
        classifier: what was learnt so far.
        features: of the task's images.
        labels: their classes in the stream's numbering.

    Returns:
        A new classifier.

    Example:
        >>> x = np.array([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 0.8]])
        >>> one = learn(learn(RidgeClassifier.empty(2, 2), x[:2], np.array([0, 0])), x[2:], np.array([1, 1]))
        >>> (x @ one.weights()).argmax(axis=1).tolist(), one.images
        ([0, 0, 1, 1], 4)
    """
    x = np.asarray(features, np.float64)
    y = np.eye(classifier.sums.shape[1])[labels]
    seen = replace(
        classifier,
        gram=classifier.gram + x.T @ x,
        sums=classifier.sums + x.T @ y,
        images=classifier.images + len(x),
    )
    values, vectors = np.linalg.eigh(seen.gram)
    inside, wanted = x @ vectors, vectors.T @ seen.sums
    losses = []
    for fraction in RIDGES:
        inverse = 1 / (np.maximum(values, 0) + fraction * values.mean())
        left = 1 - np.square(inside) @ inverse
        residual = y - (inside * inverse) @ wanted
        losses.append(np.square(residual / left[:, None]).sum())
    return replace(seen, losses=seen.losses + np.array(losses))


def random_relu(features: Float[np.ndarray, "n d"], width: int, seed: int) -> Float[np.ndarray, "n w"]:
    """Random features max(0, R x) with a fixed normal R (RanPAC, McDonnell et al., arXiv:2307.02251).

    Args:
        features: of images.
        width: number of random features.
        seed: of R.
    """
    projection = np.random.default_rng(seed).standard_normal((features.shape[1], width))
    return np.maximum(features @ projection, 0)
