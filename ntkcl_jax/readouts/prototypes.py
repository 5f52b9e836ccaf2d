"""Nearest class mean: the cosine to the mean feature of each class (Janson et al., arXiv:2210.04428)."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from ntkcl_jax.readouts.base import Lesson, Readout, State, unit


@dataclass(frozen=True)
class Prototypes(Readout):
    """Class means, written once when their task comes."""

    name: ClassVar = "prototypes"
    additive: ClassVar = True

    def init(self) -> State:
        """No class has a mean."""
        return {"means": np.zeros((self.classes, self.width), np.float32)}

    def learn(self, state: State, lesson: Lesson) -> State:
        """Write the means of the task's classes."""
        means, order = state["means"].copy(), np.argsort(lesson.labels, kind="stable")
        new = np.unique(lesson.labels)
        # Sorted by label each class is one slice: no search over all rows for each
        bounds = np.append(np.searchsorted(lesson.labels[order], new), len(order))
        for label, (first, end) in zip(new, itertools.pairwise(bounds), strict=True):
            means[label] = lesson.plain[order[first:end]].mean(axis=0)
        return {"means": means}

    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """Cosine of each feature to each class mean."""
        # float64: where features hardly differ, rounding would choose the class.
        return unit(features) @ unit(state["means"][:seen]).T
