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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from ntkcl_jax.data import Scenario
from ntkcl_jax.methods.adapters import AdapterTuning
from ntkcl_jax.methods.base import Recipe
from ntkcl_jax.readouts.linear import top_classes
from ntkcl_jax.readouts.ridge import random_relu
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.metrics import TaskEvaluation

PUBLISHED: dict[str, tuple[float | None, float]] = {"cifar100": (None, 0.922)}
"""Mean over tasks (not given) and final accuracy, ImageNet-21K weights."""
SOURCE = "arXiv:2307.02251"
"""Where they are published."""
METHOD = "ranpac"
RIDGES = tuple(10.0**exponent for exponent in range(-8, 9))
HELD_OUT = 0.2
"""Share of a task's images that λ is chosen by."""


@dataclass(frozen=True)
class FirstSession(AdapterTuning):
    """The adapters of task 0."""

    name: ClassVar = METHOD
    recipe: ClassVar = Recipe("sgd", learning_rate=0.01, schedule="cosine", weight_decay=5e-4)


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
    left, values, right = np.linalg.svd(x[fitted], full_matrices=False)
    wanted, seen = left.T @ y[fitted], x[held] @ right.T
    errors = [np.square(seen * (values / (values**2 + ridge)) @ wanted - y[held]).sum() for ridge in RIDGES]
    return RIDGES[int(np.argmin(errors))]


def ranpac(
    scenario: Scenario,
    seed: int,
    train: Float[np.ndarray, "n d"],
    train_labels: Int[np.ndarray, "n"],
    test: Float[np.ndarray, "m d"],
    test_labels: Int[np.ndarray, "m"],
    *,
    width: int,
) -> Iterator[TaskEvaluation]:
    """Learn the stream from features and evaluate after every task.

    Args:
        scenario: class order and tasks.
        seed: the run's seed: random projection, held-out images.
        train: features of the training images.
        train_labels: their labels in the stream's numbering.
        test: features of the test images.
        test_labels: their labels in the stream's numbering.
        width: number of random features.

    Yields:
        One evaluation per task.
    """
    projection = stream_seed(seed, METHOD)
    gram, sums = np.zeros((width, width)), np.zeros((width, scenario.num_classes))
    for task in range(scenario.num_tasks):
        new = np.flatnonzero(np.isin(train_labels, scenario.classes(task)))
        x = random_relu(train[new], width, projection).astype(np.float64)
        y = np.eye(scenario.num_classes)[train_labels[new]]
        gram, sums = gram + x.T @ x, sums + x.T @ y
        ridge = choose_ridge(x, y, stream_seed(seed, METHOD, "held out", task))
        weights = np.linalg.solve(gram + ridge * np.eye(width), sums)
        offsets = scenario.offsets[: task + 2]
        seen = np.flatnonzero(test_labels < offsets[-1])
        scores = random_relu(test[seen], width, projection) @ weights[:, : offsets[-1]]
        yield top_classes(scores, test_labels[seen], offsets)
