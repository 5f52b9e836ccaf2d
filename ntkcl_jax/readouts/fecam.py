"""FeCAM: Mahalanobis distances to class means, with a covariance for each class.

Goswami et al., "FeCAM: Exploiting the Heterogeneity of Class Distributions in Exemplar-Free Continual Learning",
NeurIPS 2023, arXiv:2309.14062. A feature h becomes, entry by entry, and then at length one,

    t_i = sign(h_i) |h_i|^β (Tukey's transformation),   x = t / ‖t‖,

and with mean μ_c and covariance Σ_c of a class's x an image belongs to the class of least

    (x - μ_c)ᵀ N_c⁻¹ (x - μ_c),   N_ij = S_ij / √(S_ii S_jj),   S = Σ_c + α (mean of Σ_c's diagonal) I,

a correlation matrix of the shrunk covariance: shrinkage makes it invertible where a class has fewer images than x has
entries, and the normalisation makes distances of different classes comparable. With α = 1 and β = 1, no transformation,
this is what the authors' release (github.com/dipamgoswami/FeCAM) computes on features of pre-trained ViTs, whose
entries may be negative. For ResNets trained on the first task, whose entries aren't, it has β = 0.5, shrinks twice, and
adds to the rest of the covariance as well.

Class means and covariances follow from counts, Σ x and Σ x xᵀ of each class: neither the order of the tasks nor the
batches matter. They are classes times entries² numbers, the most that any readout here keeps of a feature, and scores
cost as many operations an image.

Where we depart: with β other than 1 (`readout.tukey`) negative entries keep their sign. A class whose images don't
differ, or that has only one, has N = I.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import scipy.linalg
from jaxtyping import Float

from ntkcl_jax.config import RunConfig
from ntkcl_jax.readouts.base import Lesson, Readout, State, unit

NO_SPREAD = 1e-10
"""Mean variance, over the mean square, below which a class's images count as equal: that much is rounding."""


@dataclass(frozen=True)
class FeCAM(Readout):
    """Mahalanobis distances to class means, with a covariance for each class.

    Attributes:
        tukey: exponent β of Tukey's transformation; 1: none.
        shrinkage: α, in units of the mean variance.
    """

    tukey: float = 1.0
    shrinkage: float = 1.0

    name: ClassVar = "fecam"
    additive: ClassVar = True

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        return cls(width, classes, seed, config.readout.tukey, config.readout.shrinkage)

    @property
    def memory(self) -> int:
        """Bytes that learning a task takes: Σ x xᵀ of each class before and after."""
        return 2 * 8 * self.classes * self.width**2

    def expand(self, features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
        """The rows x of features."""
        return unit(np.sign(features) * np.abs(features.astype(np.float64)) ** self.tukey)

    def init(self) -> State:
        """Sums of nothing."""
        classes, width = self.classes, self.width
        sums = {"counts": np.zeros(classes), "sums": np.zeros((classes, width))}
        return sums | {"squares": np.zeros((classes, width, width))}

    def learn(self, state: State, lesson: Lesson) -> State:
        """Add the task's images to the sums of their classes."""
        new = {name: value.copy() for name, value in state.items()}
        x = self.expand(lesson.plain)
        for label in np.unique(lesson.labels):
            rows = x[lesson.labels == label]
            new["counts"][label] += len(rows)
            new["sums"][label] += rows.sum(axis=0)
            new["squares"][label] += rows.T @ rows
        return new

    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """Squared distances, negated; minus infinity where a class has no image."""
        x = self.expand(features)
        found = np.full((len(x), seen), -np.inf)
        for label in np.flatnonzero(state["counts"][:seen]):
            count = state["counts"][label]
            mean, square = state["sums"][label] / count, state["squares"][label]
            factor = np.linalg.cholesky(self._correlation(square, mean, count))
            # N = L Lᵀ: the distance is the squared length of L⁻¹ (x - μ)
            apart = scipy.linalg.solve_triangular(factor, (x - mean).T, lower=True, check_finite=False)
            found[:, label] = -np.square(apart).sum(axis=0)
        return found

    def _correlation(
        self, squares: Float[np.ndarray, "e e"], mean: Float[np.ndarray, "e"], count: float
    ) -> Float[np.ndarray, "e e"]:
        """N of a class."""
        covariance = (squares - count * np.outer(mean, mean)) / max(count - 1, 1)
        variance = np.diag(covariance).mean()
        if variance <= NO_SPREAD * np.trace(squares) / (count * len(mean)):
            return np.eye(len(mean))
        covariance[np.diag_indices_from(covariance)] += self.shrinkage * variance
        scale = np.sqrt(np.diag(covariance))
        return covariance / np.outer(scale, scale)
