"""ACIL: ridge regression with a given ridge on random features: the joint solution of all tasks, learnt recursively.

Zhuang et al., "ACIL: Analytic Class-Incremental Learning with Absolute Memorization and Privacy Protection", NeurIPS
2022, arXiv:2205.14922. With a feature h (d entries), a fixed random R (d, w), one-hot classes y, and X, Y the rows of a
new task,

    x = max(0, Rᵀ h),   P ← P - P Xᵀ (I + X P Xᵀ)⁻¹ X P,   W ← W + P Xᵀ (Y - X W),   from P = I / γ and W = 0,

ends at W = (Σ x xᵀ + γ I)⁻¹ Σ x yᵀ over all images of all tasks, whatever their order and their batches: that is the
paper's theorem. So the two sums are kept here instead of P, and W is solved from them after each task: the same W
without the rounding of many updates (a test compares the two). γ = 0.1, and R is uniform within ± 1 / √d, as in the
authors' release (github.com/ZHUANGHP/Analytic-continual-learning), which advises to try other γ on other data: it has
the scale of Σ x xᵀ. `ranpac` is the same classifier with λ chosen inside the run.

Published, by the release's README: 63.38 % final on CIFAR-100 (ResNet-32 trained on the first 50 classes, then 25
tasks), which no run here repeats: here the backbone is the run's own.

Where we depart: 2,000 random features by default (`readout.random_features`; published: 8,192 on CIFAR-100, 16,384 on
ImageNet), and a frozen pre-trained backbone instead of one trained on half of the classes.
"""

import functools
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float

from ntkcl_jax.config import RunConfig
from ntkcl_jax.readouts.base import Lesson, LinearModel, Readout, State, square_bytes, widest
from ntkcl_jax.readouts.ridge import ridge_weights
from ntkcl_jax.seeds import stream_seed


@dataclass(frozen=True)
class ACIL(Readout):
    """Ridge regression on random ReLU features with a given ridge.

    Attributes:
        random_features: width of the random projection, w.
        gamma: the ridge γ.
    """

    random_features: int = 2000
    gamma: float = 0.1

    name: ClassVar = "acil"
    additive: ClassVar = True
    grams: ClassVar = 4
    """Matrices w x w that learning a task takes: Σ x xᵀ before and after, and two copies to solve with."""

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        return cls(width, classes, seed, config.readout.random_features, config.readout.gamma)

    @property
    def memory(self) -> int:
        """Bytes that learning a task takes."""
        return square_bytes(self.grams, self.random_features)

    def fitting(self, memory: int) -> str:
        """What to set so that it takes no more than some bytes, for people.

        Example:
            >>> ACIL(1, 1, 0, random_features=10_000).fitting(800_000_000)
            'set --readout.random_features 5000'
        """
        return f"set --readout.random_features {widest(self.grams, memory)}"

    @property
    def projection(self) -> Float[np.ndarray, "e w"]:
        """R."""
        # The stream's name is ACIL's for what is built on it too: the same features under the same seed
        return _projection(self.width, self.random_features, stream_seed(self.seed, "acil"))

    def project(self, features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n w"]:
        """Rᵀ h."""
        return features @ self.projection

    def init(self) -> State:
        """Sums of nothing, and W."""
        width, classes = self.random_features, self.classes
        return {"gram": np.zeros((width, width)), **{name: np.zeros((width, classes)) for name in ("sums", "weights")}}

    def learn(self, state: State, lesson: Lesson) -> State:
        """Add the task to the sums and solve."""
        x = np.maximum(self.project(lesson.plain), 0)
        return added(state, x, np.eye(self.classes)[lesson.labels], self.gamma)

    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """xᵀ W."""
        return np.maximum(self.project(features), 0) @ state["weights"][:, :seen]

    def linear(self, state: State) -> LinearModel | None:
        """The random features."""
        return LinearModel.of(self.random_features, self.gamma, self.projection)


def added(state: State, x: Float[np.ndarray, "n w"], y: Float[np.ndarray, "n c"], gamma: float) -> State:
    """The ridge regression of more rows.

    Args:
        state: `gram` Σ x xᵀ, `sums` Σ x yᵀ and `weights` W of those before.
        x: new rows.
        y: what they are to give.
        gamma: the ridge γ.
    """
    gram, sums = state["gram"] + x.T @ x, state["sums"] + x.T @ y
    return {"gram": gram, "sums": sums, "weights": ridge_weights(gram, sums, gamma)}


@functools.lru_cache(maxsize=2)
def _projection(entries: int, width: int, seed: int) -> Float[np.ndarray, "d w"]:
    # float64, so that all that follows is
    return np.random.default_rng(seed).uniform(-1, 1, (entries, width)) / entries**0.5
