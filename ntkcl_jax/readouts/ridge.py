"""A ridge classifier that learns tasks one after the other and forgets nothing: exemplar-free, independent of order.

With features x of an image (several rows where it is learnt in several views) and its one-hot class y,

    W = (G + λ I)⁻¹ S,   G = Σ x xᵀ,   S = Σ x yᵀ   (sums over all rows seen),

is the ridge regression of all tasks at once. G and S are sums over rows, so the order of the tasks doesn't matter, and
neither does when they came: the task interplay of the head is zero (docs/theory.md, section 1.1), as long as the
features stay the same. λ is chosen by leave-one-out: the residual of an image of the current task, had it been left out
of everything with all its views, follows from the same sums (`learn`).
"""

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from ntkcl_jax.config import RunConfig
from ntkcl_jax.readouts.base import Lesson, LinearModel, Readout, State, with_constant
from ntkcl_jax.seeds import stream_seed

RIDGES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 5))
"""Ridges that are tried, as fractions of the Gram matrix's mean diagonal: 1e-6 to 100, two a decade."""
CHUNK = 128
"""Images whose features are expanded at a time."""
Expand = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n w"]]
"""A fixed map of each row to the row that the classifier sees."""


@dataclass(frozen=True)
class RidgeReadout(Readout):
    """A readout whose scores are a ridge regression on rows that it makes of features."""

    additive: ClassVar = True

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Entries of a row."""

    @abstractmethod
    def expand(self, features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n w"]:
        """The rows x of features."""

    @property
    def projection(self) -> Float[np.ndarray, "e w"] | None:
        """R of random features that the rows are; None where they are none."""
        return None

    def kernels(self, features: Float[np.ndarray, "n e"]) -> Iterator[Float[np.ndarray, "n n"]]:
        """Inner products of the rows."""
        x = self.expand(features).astype(np.float64)
        yield x @ x.T


@dataclass(frozen=True)
class Ridge(RidgeReadout):
    """The ridge classifier on the features as they are, and a constant."""

    name: ClassVar = "ridge"

    @property
    def inputs(self) -> int:
        """Width of the classifier's input x."""
        return self.width + 1

    def expand(self, features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n w"]:
        """The classifier's input x of features."""
        return with_constant(features)

    def init(self) -> State:
        """Nothing seen yet."""
        return RidgeClassifier.empty(self.inputs, self.classes).state

    def learn(self, state: State, lesson: Lesson) -> State:
        """Add the task's features, in all views, to the sums."""
        return learn(RidgeClassifier.stored(state), lesson.features, lesson.labels, self.expand).state

    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """xᵀ W."""
        return (self.expand(features) @ RidgeClassifier.stored(state).weights())[:, :seen]

    def linear(self, state: State) -> LinearModel:
        """The classifier's input as it is."""
        return LinearModel.of(self.inputs, RidgeClassifier.stored(state).ridge, self.projection, constant=True)

    def says(self, state: State) -> str:
        """The chosen ridge."""
        return f"ridge {RidgeClassifier.stored(state).fraction:.2g} of the mean diagonal"


@dataclass(frozen=True)
class RandomRidge(Ridge):
    """The ridge classifier on random ReLU features, learnt in a few random crops of each image as well.

    With a feature h and a fixed random normal R the input is x = (max(0, R h), 1). The crops are those of the epochs
    that would have followed the task's training, so none was trained on.

    Attributes:
        random_features: width of the random projection.
        crops: of each training image.
    """

    random_features: int = 2000
    crops: int = 4

    name: ClassVar = "random-ridge"

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        return cls(width, classes, seed, config.readout.random_features, config.readout.views)

    @property
    def views(self) -> int:
        """Random views of each training image that it learns beside the image itself."""
        return self.crops

    @property
    def inputs(self) -> int:
        """Width of the classifier's input x."""
        return self.random_features + 1

    def expand(self, features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n w"]:
        """The classifier's input x of features."""
        return with_constant(random_relu(features, self.random_features, self.stream))

    @property
    def stream(self) -> int:
        """Seed of R."""
        # The stream's name is that of the first method with this readout, under which it was measured.
        return stream_seed(self.seed, "ntkcl-ridge")

    @property
    def projection(self) -> Float[np.ndarray, "d w"]:
        """R."""
        return random_projection(self.width, self.random_features, self.stream)


@dataclass(frozen=True)
class RidgeClassifier:
    """What is kept of all images seen: w (w + classes) numbers, whatever their number.

    Attributes:
        gram: Σ x xᵀ.
        sums: Σ x yᵀ, one column for each class of the stream.
        images: how many.
        losses: leave-one-out squared errors summed over images, one for each of `RIDGES`.
    """

    gram: Float[np.ndarray, "w w"]
    sums: Float[np.ndarray, "w c"]
    images: int
    losses: Float[np.ndarray, "ridges"]

    @classmethod
    def empty(cls, features: int, classes: int) -> Self:
        """Nothing seen yet."""
        return cls(np.zeros((features, features)), np.zeros((features, classes)), 0, np.zeros(len(RIDGES)))

    @classmethod
    def stored(cls, state: State) -> Self:
        """The classifier of a readout's state."""
        return cls(state["gram"], state["sums"], int(state["images"]), state["losses"])

    @property
    def state(self) -> State:
        """What a readout keeps."""
        return {"gram": self.gram, "sums": self.sums, "losses": self.losses, "images": np.array(self.images)}

    @property
    def fraction(self) -> float:
        """The chosen ridge, as a fraction of the Gram matrix's mean diagonal."""
        return RIDGES[int(np.argmin(self.losses))]

    @property
    def ridge(self) -> float:
        """The chosen ridge λ."""
        # Relative to the mean diagonal, which grows with the images: a fraction means the same after any task
        return self.fraction * np.trace(self.gram) / len(self.gram)

    def weights(self) -> Float[np.ndarray, "w c"]:
        """W = (G + λ I)⁻¹ S; a class's score of x is xᵀ W. Columns of unseen classes are zero."""
        return ridge_weights(self.gram, self.sums, self.ridge)


def learn(
    classifier: RidgeClassifier,
    features: Float[np.ndarray, "n *views d"],
    labels: Int[np.ndarray, "n"],
    expand: Expand = lambda rows: rows,
) -> RidgeClassifier:
    """Learn a task.

    An image's v views X (v, w) all enter G and S. Had it been left out, the residual of its views would be

        (I - X (G + λ I)⁻¹ Xᵀ)⁻¹ (1 yᵀ - X W),

    with G and W of everything seen, this task included (the block form of the leave-one-out identity; one view: divide
    by one minus the leverage). The loss is the squared residual of the first view, the one that test images look like.
    Residuals of earlier tasks stay as they were computed: their images are gone.

    Args:
        classifier: what was learnt so far.
        features: of the task's images; with views, the untransformed one first.
        labels: their classes in the stream's numbering.
        expand: maps rows of `features` to the classifier's own, a few images at a time.

    Returns:
        A new classifier.

    Example:
        >>> x = np.array([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 0.8]])
        >>> one = learn(learn(RidgeClassifier.empty(2, 2), x[:2], np.array([0, 0])), x[2:], np.array([1, 1]))
        >>> (x @ one.weights()).argmax(axis=1).tolist(), one.images
        ([0, 0, 1, 1], 4)
    """
    views = features.reshape(len(features), -1, features.shape[-1])
    wanted = np.eye(classifier.sums.shape[1])[labels]
    gram, sums, losses = classifier.gram.copy(), classifier.sums.copy(), classifier.losses.copy()
    for x, y in _chunks(views, wanted, expand):
        rows = x.reshape(-1, len(gram))
        gram += rows.T @ rows
        sums += x.sum(axis=1).T @ y  # all views of an image have its class
    # G = V diag(s) Vᵀ: one decomposition for all ridges
    values, vectors = np.linalg.eigh(gram)
    turned = vectors.T @ sums
    # Rounding may make zero eigenvalues negative; the mean of all is the Gram matrix's mean diagonal
    inverses = [1 / (np.maximum(values, 0) + fraction * values.mean()) for fraction in RIDGES]
    # A second pass: an image can be left out only of the whole G and S
    for x, y in _chunks(views, wanted, expand):
        inside = x @ vectors  # [b, v, w]
        for i, inverse in enumerate(inverses):
            scaled = inside * inverse
            left = np.eye(x.shape[1]) - scaled @ inside.transpose(0, 2, 1)  # [b, v, v]: I - X (G + λI)⁻¹ Xᵀ
            residual = np.linalg.solve(left, y[:, None] - scaled @ turned)  # [b, v, c]
            losses[i] += np.square(residual[:, 0]).sum()
    return replace(classifier, gram=gram, sums=sums, images=classifier.images + len(features), losses=losses)


def _chunks(
    views: Float[np.ndarray, "n v d"], wanted: Float[np.ndarray, "n c"], expand: Expand
) -> Iterator[tuple[Float[np.ndarray, "b v w"], Float[np.ndarray, "b c"]]]:
    """Expanded views and one-hot classes, a few images at a time: all of a task's wouldn't fit."""
    for at in range(0, len(views), CHUNK):
        part = views[at : at + CHUNK]
        # [b, v, d] -> [b v, d] -> [b v, w] -> [b, v, w]
        rows = np.asarray(expand(part.reshape(-1, part.shape[-1])), np.float64)
        yield rows.reshape(*part.shape[:2], -1), wanted[at : at + CHUNK]


def ridge_weights(
    gram: Float[np.ndarray, "w w"], sums: Float[np.ndarray, "w c"], ridge: float
) -> Float[np.ndarray, "w c"]:
    """(G + λ I)⁻¹ S.

    Args:
        gram: G.
        sums: S.
        ridge: λ.
    """
    matrix = gram.copy()
    matrix[np.diag_indices_from(matrix)] += ridge
    return np.linalg.solve(matrix, sums)


@functools.lru_cache(maxsize=2)
def random_projection(features: int, width: int, seed: int) -> Float[np.ndarray, "d w"]:
    """A fixed normal R, kept, since each chunk of images asks for it."""
    return np.random.default_rng(seed).standard_normal((features, width))


def random_relu(features: Float[np.ndarray, "n d"], width: int, seed: int) -> Float[np.ndarray, "n w"]:
    """Random features max(0, R x) with a fixed normal R (RanPAC, McDonnell et al., arXiv:2307.02251).

    Args:
        features: of images.
        width: number of random features.
        seed: of R.
    """
    return np.maximum(features @ random_projection(features.shape[1], width, seed), 0)
