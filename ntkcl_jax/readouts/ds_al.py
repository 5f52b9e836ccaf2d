"""DS-AL: ACIL, and a second ridge regression, on other random features, of what it leaves unexplained.

Zhuang et al., "DS-AL: A Dual-Stream Analytic Learning for Exemplar-Free Class-Incremental Learning", AAAI 2024,
arXiv:2403.17503. With ACIL's projection R, its W after the task (the main stream, `acil`), and for each image

    z = tanh(Rᵀ h),   r = y - xᵀ W,   zero in the columns of classes of earlier tasks (previous label cleansing),

the compensation stream is V = (Σ z zᵀ + γ I)⁻¹ Σ z rᵀ over all images of all tasks, each r as it was when its task was
there, and an image's scores are xᵀ W + C zᵀ V. γ = 0.1 in both streams and C = 1, the defaults of the authors' release
(github.com/ZHUANGHP/Analytic-continual-learning). It recommends a search for C in [0, 2] and has found 0.6 best on
CIFAR-100, 1.5 on ImageNet-1k (`readout.compensation`).

W, Σ z zᵀ and the main stream's sums don't depend on the order of tasks. Σ z rᵀ does: a residual is that of the classes
seen so far.

Published, by the release's README, on the stream that `acil` names: 64.04 % final, where ACIL has 63.38.

Where we depart: as `acil`; and residuals are taken once a task, after all of its images, as the paper's equations have
it, where the release takes them batch by batch of 4,096.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float

from ntkcl_jax.config import RunConfig
from ntkcl_jax.readouts.acil import ACIL, added
from ntkcl_jax.readouts.base import Lesson, Readout, State

STREAM = "compensation_"
"""How names of the compensation stream's arrays begin."""


@dataclass(frozen=True)
class DSAL(ACIL):
    """ACIL and a compensation stream.

    Attributes:
        compensation: weight C of the compensation stream.
    """

    compensation: float = 1.0

    name: ClassVar = "ds-al"
    grams: ClassVar = 6
    """As ACIL's, and Σ z zᵀ before and after."""
    # No one model: each stream is linear in its own weights, which aren't fitted to the same
    linear = Readout.linear

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        settings = config.readout
        return cls(width, classes, seed, settings.random_features, settings.gamma, settings.compensation)

    def init(self) -> State:
        """Sums of nothing, W and V."""
        return super().init() | {STREAM + name: value for name, value in super().init().items()}

    def learn(self, state: State, lesson: Lesson) -> State:
        """Add the task to the main stream's sums, and what that stream then leaves of it to the other's."""
        main = super().learn(state, lesson)
        own = np.unique(lesson.labels)
        wanted, residual = np.eye(self.classes)[lesson.labels], np.zeros((len(lesson.labels), self.classes))
        residual[:, own] = (wanted - super().scores(main, lesson.plain, self.classes))[:, own]
        other = {name: state[STREAM + name] for name in main}
        new = added(other, np.tanh(self.project(lesson.plain)), residual, self.gamma)
        return main | {STREAM + name: value for name, value in new.items()}

    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """xᵀ W + C zᵀ V."""
        other = np.tanh(self.project(features)) @ state[STREAM + "weights"][:, :seen]
        return super().scores(state, features, seen) + self.compensation * other
