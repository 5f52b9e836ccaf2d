"""Features of several depths of the network under one ridge classifier: nothing trains, nothing is forgotten.

Four groups of fixed features (`feature_maps`: the final feature F, tokens of several blocks M, patch tokens over a grid
G, second-order statistics S) go into one accumulated ridge classifier (`group_ridge`). The groups' weights and the
ridge are chosen by the accuracy on left-out training images, inside the run: F alone carries a stream that the backbone
was made for, the middle blocks one that it wasn't. Tangent features of local linear adapters are what G and S are, so
that the classifier is their joint optimum over all tasks, whatever the order (docs/theory.md, section 9).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float

from ntkcl_jax.config import BackboneConfig, RunConfig
from ntkcl_jax.config.data import View
from ntkcl_jax.errors import require
from ntkcl_jax.readouts.base import Lesson, LinearModel, Readout, State
from ntkcl_jax.readouts.feature_maps import FeatureMap, Final, Grid, SecondOrder, Tokens
from ntkcl_jax.readouts.group_ridge import GroupRidge, Weights, penalty

MAPS: tuple[type[FeatureMap], ...] = (Final, Tokens, Grid, SecondOrder)
"""The groups, in the order of `readout.widths` and of the classifier's columns."""
CANDIDATES: tuple[Weights, ...] = (
    (1.0, 1.0, 1.0, 1.0),
    *((f, m, 1.0, s) for f in (1.0, 0.3, 0.0) for m in (1.0, 0.3) for s in (1.0, 0.3) if (f, m, s) != (1.0, 1.0, 1.0)),
    (1.0, 1.0, 0.3, 0.3),
    (1.0, 0.3, 0.3, 0.1),
    (1.0, 0.3, 0.0, 0.0),
)
"""Weights of the groups that are compared, the first where nothing is known."""
KEPT = ("gram", "sums", "norms", "hits", "solution")
"""Arrays of the classifier that a run stores, beside how many images were left out."""


@dataclass(frozen=True)
class MultiLevel(Readout):
    """The accumulated ridge classifier on features of several depths.

    Attributes:
        backbone: shape of the network whose tokens are read.
        widths: numbers of each group of `MAPS`.
        level_views: random views of each training image that it learns beside the image itself.
        level_view: what these views are; None: what training sees.
    """

    backbone: BackboneConfig
    widths: tuple[int, int, int, int]
    level_views: int = 0
    level_view: View | None = None

    name: ClassVar = "multilevel"
    additive: ClassVar = True

    def __post_init__(self) -> None:
        """Refuse a network without a middle."""
        require(self.backbone.depth >= 2, f"{self.name} reads blocks before the last, got a backbone of one block")

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        settings = config.readout
        views, view = settings.level_views, settings.level_view
        return cls(width, classes, seed, config.model.backbone, settings.widths, views, view)

    @property
    def views(self) -> int:
        """Random views of each training image that it learns beside the image itself."""
        return self.level_views

    @property
    def view(self) -> View | None:
        """What these views are; None: what training sees."""
        return self.level_view

    @property
    def maps(self) -> tuple[FeatureMap, ...]:
        """What is computed of each image, in the order of the classifier's columns."""
        backbone, (final, *others) = self.backbone, self.widths
        made = (kind(width, backbone) for kind, width in zip(MAPS[1:], others, strict=True))
        return (Final(final, backbone, self.width), *made)

    @property
    def inputs(self) -> int:
        """Columns of the classifier."""
        return sum(self.widths)

    @property
    def memory(self) -> int:
        """Bytes that learning a task takes: Σ x xᵀ before and after, and its Cholesky factor, in float64."""
        return 3 * 8 * self.inputs**2

    def fitting(self, memory: int) -> str:
        """What to set so that it takes no more than some bytes, for people.

        Example:
            >>> MultiLevel(1, 1, 0, BackboneConfig(), (1000, 1000, 5000, 3000)).fitting(600_000_000)
            'set --readout.widths 500 500 2500 1500'
        """
        share = min(1.0, (memory / self.memory) ** 0.5)
        return "set --readout.widths " + " ".join(str(max(1, int(share * width))) for width in self.widths)

    def init(self) -> State:
        """Nothing seen yet."""
        return stored(GroupRidge.empty(self.widths, self.classes, CANDIDATES))

    def learn(self, state: State, lesson: Lesson) -> State:
        """Add the task's features to the sums, and choose weights and ridge anew."""
        return stored(self._ridge(state).learn(lesson.features, lesson.labels, lesson.seen))

    def scores(self, state: State, features: Float[np.ndarray, "n w"], seen: int) -> Float[np.ndarray, "n s"]:
        """xᵀ W."""
        return (features @ state["solution"])[:, :seen]

    def kernels(self, features: Float[np.ndarray, "n w"]) -> Iterator[Float[np.ndarray, "n n"]]:
        """Weighted sums of the groups' kernels, one for each of `CANDIDATES`."""
        groups = np.split(features.astype(np.float64), np.cumsum(self.widths)[:-1], axis=1)
        # In units of the mean squared norm, as the classifier weighs them; a group that is all zero has no scale
        inner = [(x @ x.T) / (np.square(x).sum() / len(x) or 1.0) for x in groups]
        for weights in CANDIDATES:
            yield sum((w**2 * part for w, part in zip(weights, inner, strict=True)), np.zeros_like(inner[0]))

    def linear(self, state: State) -> LinearModel:
        """The weighted groups: a row Dx, D the chosen weights over the groups' norms."""
        ridge = self._ridge(state)
        weights, fraction = ridge.choice
        groups = tuple((kind.name, width) for kind, width in zip(MAPS, self.widths, strict=True))
        return LinearModel(groups, ridge.scale(weights), penalty(weights, fraction))

    def says(self, state: State) -> str:
        """What was chosen, and how many left-out images it told right."""
        ridge = self._ridge(state)
        weights, fraction = ridge.choice
        told = " ".join(f"{kind.name} {weight:g}" for kind, weight in zip(MAPS, weights, strict=True))
        right = ridge.accuracy
        error = (right * (1 - right) / max(ridge.left_out, 1)) ** 0.5  # standard error of a share
        return f"weights {told}, ridge {fraction:g}; {100 * right:.1f} ± {100 * error:.1f} % of left-out images right"

    def _ridge(self, state: State) -> GroupRidge:
        arrays = {name: state[name] for name in KEPT}
        return GroupRidge(self.widths, CANDIDATES, left_out=int(state["left_out"]), **arrays)


def stored(ridge: GroupRidge) -> State:
    """What a run keeps of the classifier."""
    return {name: getattr(ridge, name) for name in KEPT} | {"left_out": np.array(ridge.left_out)}
