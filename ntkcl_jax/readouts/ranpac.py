"""RanPAC: ridge regression on random features of a backbone that was adapted to the first task only.

McDonnell et al., "RanPAC: Random Projections and Pre-trained Models for Continual Learning", NeurIPS 2023,
arXiv:2307.02251. Adapters are trained on task 0 (its first session) and then frozen. With the class feature h of an
image and a fixed normal R (d, w),

    x = max(0, Rᵀ h),   G = Σ x xᵀ,   S = Σ x yᵀ   (over all images of all tasks),   W = (G + λ I)⁻¹ S.

λ is chosen anew after each task, among powers of ten from 1e-8 to 1e8: least squared error on a random fifth of the
task's images of a ridge fitted to the other four fifths alone. Images come under the test transform, no view twice.

Where we depart: 2,000 random features by default (`readout.random_features`; published: 10,000), and as many epochs on
task 0 as NTK-CL has.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float

from ntkcl_jax.config import RunConfig
from ntkcl_jax.readouts.base import Lesson, LinearModel, Readout, State
from ntkcl_jax.readouts.ridge import random_projection, random_relu
from ntkcl_jax.seeds import stream_seed

PUBLISHED: dict[str, tuple[float | None, float]] = {"cifar100": (None, 0.922)}
"""Mean over tasks (not given) and final accuracy, ImageNet-21K weights."""
SOURCE = "arXiv:2307.02251"
"""Where they are published."""
RIDGES = tuple(10.0**exponent for exponent in range(-8, 9))
HELD_OUT = 0.2
"""Share of a task's images that λ is chosen by."""


@dataclass(frozen=True)
class RanPAC(Readout):
    """Ridge regression on random features, λ by a held-out fifth of the task.

    Attributes:
        random_features: width of the random projection, w.
    """

    random_features: int = 2000

    name: ClassVar = "ranpac"
    additive: ClassVar = True

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        return cls(width, classes, seed, config.readout.random_features)

    @property
    def inputs(self) -> int:
        """Entries of x."""
        return self.random_features

    def init(self) -> State:
        """Sums of nothing."""
        width = self.inputs
        # float64: sums of products over all images; λ is what the newest task has chosen
        return {"gram": np.zeros((width, width)), "sums": np.zeros((width, self.classes)), "ridge": np.array(1.0)}

    def expand(self, features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n w"]:
        """Random features x."""
        return random_relu(features, self.random_features, stream_seed(self.seed, self.name))

    @property
    def projection(self) -> Float[np.ndarray, "e w"] | None:
        """R of the random features; None where there are none."""
        return random_projection(self.width, self.random_features, stream_seed(self.seed, self.name))

    def learn(self, state: State, lesson: Lesson) -> State:
        """Add the task to the sums and choose λ."""
        x = self.expand(lesson.plain).astype(np.float64)
        y = np.eye(self.classes)[lesson.labels]
        ridge = choose_ridge(x, y, stream_seed(self.seed, self.name, "held out", lesson.task))
        return {"gram": state["gram"] + x.T @ x, "sums": state["sums"] + x.T @ y, "ridge": np.array(ridge)}

    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """xᵀ W."""
        # Solved when it is asked for: what is stored are sums, to which the next task adds
        weights = np.linalg.solve(state["gram"] + float(state["ridge"]) * np.eye(len(state["gram"])), state["sums"])
        return self.expand(features) @ weights[:, :seen]

    def linear(self, state: State) -> LinearModel:
        """The classifier's input as it is."""
        return LinearModel.of(self.inputs, float(state["ridge"]), self.projection)

    def says(self, state: State) -> str:
        """The ridge that the newest task has chosen."""
        return f"ridge {float(state['ridge']):g}"


def choose_ridge(x: Float[np.ndarray, "n w"], y: Float[np.ndarray, "n c"], seed: int) -> float:
    """The ridge that predicts a held-out fifth best.

    Args:
        x: random features of a task's images.
        y: their one-hot classes.
        seed: of the split.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> choose_ridge(x, x @ np.ones((3, 1)), seed=0) <= 1e-6  # no noise: no ridge
        True
    """
    order = np.random.default_rng(seed).permutation(len(x))
    fitted, held = np.split(order, [len(x) - max(1, round(HELD_OUT * len(x)))])
    # One decomposition for all ridges: W = V diag(s / (s² + λ)) Uᵀ y
    left, values, right = np.linalg.svd(x[fitted], full_matrices=False)
    wanted, seen = left.T @ y[fitted], x[held] @ right.T
    errors = [np.square(seen * (values / (values**2 + ridge)) @ wanted - y[held]).sum() for ridge in RIDGES]
    return RIDGES[int(np.argmin(errors))]
