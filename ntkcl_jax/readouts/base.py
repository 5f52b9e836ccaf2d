"""What a readout is: it learns features of one task after the other, and scores classes. NumPy in, NumPy out.

A readout is a frozen dataclass of settings; all that it learns is a flat dictionary of arrays, which a run stores after
every task. It never sees an image, and unless it says so no feature of an earlier task again.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.data import View
from ntkcl_jax.config.methods import READOUTS
from ntkcl_jax.models.heads import NORM_FLOOR

if TYPE_CHECKING:
    from ntkcl_jax.readouts.feature_maps import FeatureMap

State = dict[str, np.ndarray]
"""What a readout has learnt, by name."""


class Lesson(NamedTuple):
    """A task for a readout.

    Attributes:
        task: its number, from 0.
        features: of its training images: under the test transform, then in `Readout.views` random views.
        labels: their classes in the stream's numbering.
        seen: classes of this task and all before it.
        everything: features (no views) and labels of all training images of this task and those before it.
    """

    task: int
    features: Float[np.ndarray, "n v e"]
    labels: Int[np.ndarray, "n"]
    seen: int
    everything: Callable[[], tuple[Float[np.ndarray, "m e"], Int[np.ndarray, "m"]]]

    @property
    def plain(self) -> Float[np.ndarray, "n e"]:
        """Features under the test transform."""
        return self.features[:, 0]


class LinearModel(NamedTuple):
    """A readout as a linear model of trained weights: a class's score is Σ_k x_k · v_k over groups k of columns.

    The columns are the features, or random ReLU features of them, and a 1 where there is a constant; each times its
    scale. All classes have the same columns, and weights v of their own.

    Attributes:
        groups: name of each group and how many columns it has, in their order.
        scale: of each column.
        ridge: λ where v minimises Σ ‖y - xᵀ v‖² + λ ‖v‖² over all rows learnt; None where it comes from elsewhere.
        projection: R of max(0, hᵀ R), h the feature; None: h itself.
        constant: whether a 1 follows as the last column.
    """

    groups: tuple[tuple[str, int], ...]
    scale: Float[np.ndarray, "w"]
    ridge: float | None = None
    projection: Float[np.ndarray, "e r"] | None = None
    constant: bool = False

    @classmethod
    def of(
        cls, width: int, ridge: float | None, projection: Float[np.ndarray, "e r"] | None = None, constant: bool = False
    ) -> Self:
        """All columns as they are, in one group.

        Example:
            >>> LinearModel.of(2, 0.1).groups
            (('weights', 2),)
        """
        return cls((("weights", width),), np.ones(width), ridge, projection, constant)


@dataclass(frozen=True)
class Readout(ABC):
    """What classifies a learner's features.

    Attributes:
        width: entries of the learner's feature.
        classes: classes of the stream.
        seed: the run's seed.
    """

    width: int
    classes: int
    seed: int

    name: ClassVar[str]
    """The readout's name in `RunConfig.methods`."""
    additive: ClassVar[bool] = False
    """Whether it keeps what earlier tasks' features were, which a learner that moves on leaves stale."""

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        return cls(width, classes, seed)

    @property
    def maps(self) -> "tuple[FeatureMap, ...]":
        """Maps of the network's levels whose rows, side by side, are its features; none: the network's own feature."""
        return ()

    @property
    def memory(self) -> int:
        """Bytes of main memory that learning a task takes beside the features, where that is much."""
        return 0

    def fitting(self, memory: int) -> str:
        """What to set so that it takes no more than some bytes, for people."""
        return "run it on a machine with more"

    @property
    def views(self) -> int:
        """Random views of each training image that it learns beside the image itself."""
        return 0

    @property
    def view(self) -> View | None:
        """What these views are; None: what training sees, `data.train_view`."""
        return None

    @abstractmethod
    def init(self) -> State:
        """Nothing learnt yet; the arrays have the shapes that they have after every task."""

    @abstractmethod
    def learn(self, state: State, lesson: Lesson) -> State:
        """Learn a task; the old state stays as it is."""

    @abstractmethod
    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """Scores of the first `seen` classes of the stream; the largest wins."""

    @property
    def inputs(self) -> int:
        """Columns of its ridge regression; 0: it is none."""
        return 0

    def kernels(self, features: Float[np.ndarray, "n e"]) -> Iterator[Float[np.ndarray, "n n"]]:
        """Kernels of images in its ridge regression, one for each setting that it chooses among, float64.

        None: it is no ridge regression, and its errors on left-out images aren't known beforehand (`left_out`).
        """
        return iter(())

    def linear(self, state: State) -> LinearModel | None:
        """What its scores are linear in, which is what it has kernels of; None where they aren't linear in weights."""
        return None

    def says(self, state: State) -> str:
        """What it has chosen by itself, for people; "" where it chooses nothing."""
        return ""


def make_readout(name: str, config: RunConfig, *, width: int, classes: int, seed: int) -> Readout:
    """Make a readout of a name for a run.

    Raises:
        ConfigError: no readout has that name, or what has it is none.
    """
    return READOUTS.subclass(name, Readout, ("name",)).of(config, width=width, classes=classes, seed=seed)


def is_linear(name: str) -> bool:
    """Whether a readout of a name tells what its scores are linear in.

    Raises:
        ConfigError: no readout has that name, or it can't be imported.

    Example:
        >>> is_linear("ridge"), is_linear("prototypes")
        (True, False)
    """
    return READOUTS.subclass(name, Readout, ("name",)).linear is not Readout.linear


def with_constant(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d1"]:
    """Append a 1 to each row, the input of a classifier's biases."""
    # Of the features' own type, or float32 rows would become float64
    return np.concatenate([features, np.ones((len(features), 1), features.dtype)], axis=1)


def unit(rows: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    """Rows at length one, in float64; a zero row stays zero."""
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), NORM_FLOOR)


def square_bytes(matrices: int, width: int) -> int:
    """Bytes of so many square float64 matrices."""
    return 8 * matrices * width**2


def widest(matrices: int, memory: int) -> int:
    """The largest width, 1 at least, of so many square float64 matrices within some bytes.

    Example:
        >>> widest(4, 800_000_000), square_bytes(4, 5000)
        (5000, 800000000)
    """
    return max(1, int((memory / square_bytes(matrices, 1)) ** 0.5))
