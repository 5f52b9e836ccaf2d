"""KLDA: linear discriminant analysis on random Fourier features of an RBF kernel.

Momeni, Mazumder and Liu, "Continual Learning Using a Kernel-Based Method Over Foundation Models", AAAI 2025,
arXiv:2412.15571. With a feature h, fixed normal ω and b uniform in [0, 2π), D of each,

    φ(h) = √(2/D) cos(√(2σ) ωᵀ h + b),   φ(g)ᵀ φ(h) ≈ exp(-σ ‖g - h‖²),

class means μ_c of φ and one covariance Σ within classes, of all images of all tasks, an image belongs to the class of
least (φ - μ_c)ᵀ Σ⁻¹ (φ - μ_c), which is that of largest

    φᵀ Σ⁻¹ μ_c - μ_cᵀ Σ⁻¹ μ_c / 2.

Means and covariance follow from counts, Σ φ and Σ φ φᵀ, which are sums over images: with σ given, neither the order of
the tasks nor the batches matter. σ itself has to stand before the first sum.

Where we depart:
- σ is a hyper-parameter there, one for each backbone (the authors' release names 5e-6 to 5e-2 for six language
  models). Here the first task chooses it: one of `BANDWIDTHS` times the median heuristic, 1 / median ‖g - h‖², by most
  right answers in a five-fold cross-validation on that task's images alone. So σ, and what follows, depends on which
  task comes first. `readout.bandwidth` sets it instead.
- Σ is shrunk: (1 - s) Σ + s tr(Σ)/D I, with s chosen together with σ. There it has a pseudo-inverse, which ignores
  directions in which no class has varied. Where images are fewer than D, these are many, and classes differ in them:
  DeiT-Ti's features of 192 handwritten characters, 15 images each, end at 33 % with the best of the σ, shrunk at 48.
- D = 2,000 by default (`readout.random_features`; published: 5,000), one model (published too: five that vote).
"""

import functools
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from ntkcl_jax.config import RunConfig
from ntkcl_jax.readouts.base import Lesson, Readout, State, square_bytes, widest
from ntkcl_jax.seeds import stream_seed

BANDWIDTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""σ that are tried, in units of the median heuristic's."""
NO_SPREAD = 1e-10
"""Variance, over the mean square, below which images count as equal: that much is rounding."""
FOLDS = 5
GRAMS = 4
"""Matrices D x D that learning a task takes: Σ φ φᵀ before and after, the covariance and what it is made from."""
COMPARED = 1000
"""Random features by which choices are compared, at most, and images whose distances are taken."""
SHRINKAGES = (1e-4, 1e-3, 1e-2, 0.1, 0.5)
"""Shares s of Σ, replaced by a multiple of the identity, that are tried."""


@dataclass(frozen=True)
class KLDA(Readout):
    """Linear discriminant analysis on random Fourier features.

    Attributes:
        random_features: how many, D.
        bandwidth: σ; None: the first task chooses.
    """

    random_features: int = 2000
    bandwidth: float | None = None

    name: ClassVar = "klda"
    additive: ClassVar = True

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        return cls(width, classes, seed, config.readout.random_features, config.readout.bandwidth)

    @property
    def memory(self) -> int:
        """Bytes that learning a task takes."""
        return square_bytes(GRAMS, self.random_features)

    def fitting(self, memory: int) -> str:
        """What to set so that it takes no more than some bytes, for people.

        Example:
            >>> KLDA(1, 1, 0, random_features=10_000).fitting(800_000_000)
            'set --readout.random_features 5000'
        """
        return f"set --readout.random_features {widest(GRAMS, memory)}"

    def init(self) -> State:
        """Sums of nothing; a bandwidth and a shrinkage of 0 aren't chosen yet."""
        width, classes = self.random_features, self.classes
        sums = {"counts": np.zeros(classes), "sums": np.zeros((classes, width)), "squares": np.zeros((width, width))}
        return sums | {"bandwidth": np.array(0.0), "shrinkage": np.array(0.0)}

    def learn(self, state: State, lesson: Lesson) -> State:
        """Add the task to the sums; the first one chooses bandwidth and shrinkage."""
        chosen = float(state["bandwidth"]), float(state["shrinkage"])
        if not all(chosen):
            chosen = choose(lesson.plain, lesson.labels, self.random_features, self._seed(), self.bandwidth)
        phi = fourier(lesson.plain, chosen[0], self.random_features, self._seed())
        added = statistics(phi, lesson.labels, self.classes)
        sums = {name: state[name] + value for name, value in added.items()}
        return sums | {"bandwidth": np.array(chosen[0]), "shrinkage": np.array(chosen[1])}

    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """φᵀ Σ⁻¹ μ - μᵀ Σ⁻¹ μ / 2."""
        phi = fourier(features, float(state["bandwidth"]), self.random_features, self._seed())
        return discriminants(state, phi, float(state["shrinkage"]))[:, :seen]

    def says(self, state: State) -> str:
        """Bandwidth and shrinkage."""
        return f"bandwidth σ {float(state['bandwidth']):.3g}, shrinkage {float(state['shrinkage']):g}"

    def _seed(self) -> int:
        return stream_seed(self.seed, self.name)


def fourier(features: Float[np.ndarray, "n e"], bandwidth: float, width: int, seed: int) -> Float[np.ndarray, "n w"]:
    """Random Fourier features φ.

    Args:
        features: of images.
        bandwidth: σ of the kernel exp(-σ ‖g - h‖²).
        width: number of random features, D.
        seed: of ω and b.

    Example:
        >>> x = np.array([[0.0, 0.0], [1.0, 2.0]])
        >>> phi = fourier(x, 0.1, 20_000, seed=0)
        >>> np.round(phi @ phi.T, 1).tolist(), round(float(np.exp(-0.1 * 5)), 1)
        ([[1.0, 0.6], [0.6, 1.0]], 0.6)
    """
    waves, phases = _waves(features.shape[1], width, seed)
    return (2 / width) ** 0.5 * np.cos(features @ ((2 * bandwidth) ** 0.5 * waves) + phases)


@functools.lru_cache(maxsize=2)
def _waves(entries: int, width: int, seed: int) -> tuple[Float[np.ndarray, "d w"], Float[np.ndarray, "w"]]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((entries, width)), rng.uniform(0, 2 * np.pi, width)


def statistics(phi: Float[np.ndarray, "n w"], labels: Int[np.ndarray, "n"], classes: int) -> State:
    """Images, sum of φ of each class, and Σ φ φᵀ."""
    wanted = np.eye(classes)[labels]
    return {"counts": wanted.sum(axis=0), "sums": wanted.T @ phi, "squares": phi.T @ phi}


def discriminants(state: State, phi: Float[np.ndarray, "n w"], shrinkage: float) -> Float[np.ndarray, "n c"]:
    """φᵀ Σ⁻¹ μ_c - μ_cᵀ Σ⁻¹ μ_c / 2 of all classes; minus infinity where a class has no image.

    Args:
        state: of `statistics`, added up.
        phi: rows to classify.
        shrinkage: s.
    """
    counts, sums = state["counts"], state["sums"]
    means = sums / np.maximum(counts, 1)[:, None]
    covariance = (state["squares"] - means.T @ sums) / counts.sum()
    added = shrinkage * np.trace(covariance) / len(covariance)
    covariance *= 1 - shrinkage
    # Where nothing but rounding has varied (one image a class) any larger number leaves the nearest mean
    varied = np.trace(covariance) > NO_SPREAD * np.trace(state["squares"]) / counts.sum()
    covariance[np.diag_indices_from(covariance)] += added if varied else 1.0
    # By columns, as LAPACK counts, so that nothing is copied
    factor = scipy.linalg.cho_factor(covariance.T, lower=False, overwrite_a=True, check_finite=False)
    weights = scipy.linalg.cho_solve(factor, means.T, check_finite=False)  # [w, c]
    found = phi @ weights - np.sum(means.T * weights, axis=0) / 2
    return np.where(counts > 0, found, -np.inf)


def choose(
    features: Float[np.ndarray, "n e"], labels: Int[np.ndarray, "n"], width: int, seed: int, given: float | None = None
) -> tuple[float, float]:
    """The σ and s with most right answers in a five-fold cross-validation; of equals the smallest.

    Random features are exchangeable, so that the first thousand of them are enough to compare by.

    Args:
        features: of a task's images.
        labels: their classes.
        width: number of random features.
        seed: of the features, and of the folds.
        given: the only σ to try; None: `BANDWIDTHS` times the median heuristic.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 2))
        >>> inside = (np.square(x).sum(axis=1) < 1).astype(int)  # no line parts these
        >>> bandwidth, shrinkage = choose(x, inside, 100, seed=0)
        >>> round(bandwidth * median_distance(x), 2) in BANDWIDTHS, shrinkage in SHRINKAGES
        (True, True)
    """
    tried = [given] if given else [unit / median_distance(features) for unit in BANDWIDTHS]
    places = np.unique(labels, return_inverse=True)[1]
    order = np.random.default_rng(stream_seed(seed, "folds")).permutation(len(features))
    hits = np.zeros((len(tried), len(SHRINKAGES)), np.int64)
    for i, bandwidth in enumerate(tried):
        phi = fourier(features, bandwidth, width, seed)[:, :COMPARED]
        for fold in np.array_split(order, FOLDS):
            rest = np.setdiff1d(order, fold)
            if len(rest):
                known = statistics(phi[rest], places[rest], int(places.max()) + 1)
                for j, shrinkage in enumerate(SHRINKAGES):
                    told = discriminants(known, phi[fold], shrinkage).argmax(axis=1)
                    hits[i, j] += np.count_nonzero(told == places[fold])
    best = np.unravel_index(np.argmax(hits), hits.shape)
    return tried[best[0]], SHRINKAGES[best[1]]


def median_distance(features: Float[np.ndarray, "n e"]) -> float:
    """Median squared distance of pairs of images, of a thousand images at most; 1 where they are all equal.

    Example:
        >>> median_distance(np.array([[0.0], [1.0], [3.0]]))
        4.0
    """
    chosen = np.unique(np.linspace(0, len(features) - 1, min(COMPARED, len(features))).astype(int))
    rows = features[chosen].astype(np.float64)
    squares = np.square(rows).sum(axis=1)
    distances = (squares[:, None] + squares - 2 * rows @ rows.T)[np.triu_indices(len(rows), 1)]
    median = float(np.median(distances)) if len(distances) else 0.0
    # Of equal images rounding leaves something on either side of zero
    return median if median > 1e-12 * squares.mean() else 1.0
