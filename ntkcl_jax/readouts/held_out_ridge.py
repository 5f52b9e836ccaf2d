"""Ridge regression on fixed features whose λ a held-out fifth of each task chooses: what RanPAC and LayUP share.

With a row x of an image, which a subclass computes, and its one-hot class y,

    G = Σ x xᵀ,   S = Σ x yᵀ   (over all images of all tasks),   W = (G + λ I)⁻¹ S.

λ is chosen anew after each task, among powers of ten from 1e-8 to 1e8: least squared error on a random fifth of the
task's images of a ridge fitted to the other four fifths alone (RanPAC's published rule, arXiv:2307.02251).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ntkcl_jax.readouts.base import Lesson, LinearModel, State
from ntkcl_jax.readouts.ridge import RidgeReadout, ridge_weights
from ntkcl_jax.seeds import stream_seed

RIDGES = tuple(10.0**exponent for exponent in range(-8, 9))
HELD_OUT = 0.2
"""Share of a task's images that λ is chosen by."""


@dataclass(frozen=True)
class HeldOutRidge(RidgeReadout):
    """Ridge regression, λ by a held-out fifth of the task."""

    def init(self) -> State:
        """Sums of nothing."""
        width = self.inputs
        # float64: sums of products over all images; λ is what the newest task has chosen
        return {"gram": np.zeros((width, width)), "sums": np.zeros((width, self.classes)), "ridge": np.array(1.0)}

    def learn(self, state: State, lesson: Lesson) -> State:
        """Add the task to the sums and choose λ."""
        x = self.expand(lesson.plain).astype(np.float64)
        y = np.eye(self.classes)[lesson.labels]
        ridge = choose_ridge(x, y, stream_seed(self.seed, self.name, "held out", lesson.task))
        return {"gram": state["gram"] + x.T @ x, "sums": state["sums"] + x.T @ y, "ridge": np.array(ridge)}

    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """xᵀ W."""
        # Solved when it is asked for: what is stored are sums, to which the next task adds
        return self.expand(features) @ ridge_weights(state["gram"], state["sums"], float(state["ridge"]))[:, :seen]

    def linear(self, state: State) -> LinearModel:
        """The rows as they are."""
        return LinearModel.of(self.inputs, float(state["ridge"]), self.projection)

    def says(self, state: State) -> str:
        """The ridge that the newest task has chosen."""
        return f"ridge {float(state['ridge']):g}"


def choose_ridge(x: Float[np.ndarray, "n w"], y: Float[np.ndarray, "n c"], seed: int) -> float:
    """The ridge that predicts a held-out fifth best.

    Args:
        x: rows of a task's images.
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
