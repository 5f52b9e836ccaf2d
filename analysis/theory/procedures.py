"""Ways to train on a task that have a scalar filter (docs/theory.md, section 2.1), as values to be passed around."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.theory.filters import (
    descent_filter,
    flow_filter,
    heavy_ball_filter,
    nesterov_filter,
    ridge_filter,
    schedule_filter,
)


@dataclass(frozen=True)
class Ridge:
    """Trained to the optimum of the ridge objective; needs λ > 0 where the kernel is singular."""

    def filter(self, g: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
        """q(g) of eigenvalues g of Φ + λ I; see `ridge_filter`."""
        return ridge_filter(g)


@dataclass(frozen=True)
class Flow:
    """Gradient flow.

    Attributes:
        time: how long; rate times steps of a small rate.
    """

    time: float

    def filter(self, g: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
        """q(g) of eigenvalues g of Φ + λ I; see `flow_filter`."""
        return flow_filter(g, self.time)


@dataclass(frozen=True)
class Descent:
    """Full-batch gradient descent.

    Attributes:
        rate: learning rate of the sum objective.
        steps: how many.
    """

    rate: float
    steps: int

    def filter(self, g: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
        """q(g) of eigenvalues g of Φ + λ I; see `descent_filter`."""
        return descent_filter(g, self.rate, self.steps)


@dataclass(frozen=True)
class Schedule:
    """Full-batch gradient descent with a rate for each step.

    Attributes:
        rates: learning rates of the sum objective.
    """

    rates: tuple[float, ...]

    def filter(self, g: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
        """q(g) of eigenvalues g of Φ + λ I; see `schedule_filter`."""
        return schedule_filter(g, self.rates)


@dataclass(frozen=True)
class HeavyBall:
    """Full-batch `optax.sgd(rate, momentum)`.

    Attributes:
        rate: learning rate of the sum objective, or one for each step.
        momentum: in [0, 1).
        steps: how many.
    """

    rate: float | tuple[float, ...]
    momentum: float
    steps: int

    def filter(self, g: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
        """q(g) of eigenvalues g of Φ + λ I; see `heavy_ball_filter`."""
        return heavy_ball_filter(g, self.rate, self.momentum, self.steps)


@dataclass(frozen=True)
class Nesterov:
    """Full-batch `optax.sgd(rate, momentum, nesterov=True)`.

    Attributes:
        rate: learning rate of the sum objective, or one for each step.
        momentum: in [0, 1).
        steps: how many.
    """

    rate: float | tuple[float, ...]
    momentum: float
    steps: int

    def filter(self, g: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
        """q(g) of eigenvalues g of Φ + λ I; see `nesterov_filter`."""
        return nesterov_filter(g, self.rate, self.momentum, self.steps)


Procedure = Ridge | Flow | Descent | Schedule | HeavyBall | Nesterov
