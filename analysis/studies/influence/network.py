"""Old scores and new views as functions of the same parameters, and the kernel between weighed sums of their outputs.

I(x, j) needs no kernel of all pairs of outputs: ⟨g, Φ(x, x_j) α_j⟩ is the kernel of two functions with a single output,
⟨g, f(x)⟩ and ⟨α_j, views(x_j)⟩. So each image costs one backward pass, however many classes there are.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from analysis.kernels.empirical import empirical_ntk
from analysis.kernels.linearized import Linearized
from analysis.records.checkpoints import Records
from analysis.records.outputs import Params, centred_scores, mean_step
from analysis.studies.twin import HEAD
from ntkcl_jax.methods.ntkcl import MEAN, NTKCL
from ntkcl_jax.models.functional import Frozen, Tree

TILE = 32
"""Images whose rows are computed at once; one size for all tasks, so that each side's program is compiled once."""


@dataclass(frozen=True)
class Following:
    """Centred scores as a function of what trains alone: the running mean takes its share of every step."""

    def __call__(
        self, params: Params, images: Float[Array, "n h w c"], *, scores: Partial, start: Params, mean: Params,
        share: Float[Array, ""],
    ) -> Float[Array, "n k"]:  # fmt: skip
        """Evaluate; `mean` is that of the task's start, `start` the parameters there."""
        followed = {}
        for path, value in mean.items():
            current = path.replace(MEAN, "current/", 1)
            followed[path] = value + share * (params[current] - start[current])
        return scores({**params, **followed}, images)


@dataclass(frozen=True)
class Views:
    """Channel, patch and hybrid features side by side, as training's loss is a function of them."""

    learner: NTKCL

    def __call__(
        self, params: Params, images: Float[Array, "n h w c"], *, frozen: Frozen, rest: Tree
    ) -> Float[Array, "n e"]:
        """Evaluate without dropout; `rest` are parameters on which features don't depend."""
        return jnp.concatenate(self.learner.network.features({**params, **rest}, frozen, images), axis=1)


@dataclass(frozen=True)
class Weighed:
    """⟨weights, f(x)⟩ of packed rows: an image's pixels, then a weight for each output.

    Attributes:
        shape: of an image.
    """

    shape: tuple[int, int, int]

    def __call__(self, params: Params, packed: Float[Array, "n w"], *, fn: Partial) -> Float[Array, "n 1"]:
        """Evaluate."""
        pixels = int(np.prod(self.shape))
        out = fn(params, packed[:, :pixels].reshape(-1, *self.shape))
        return jnp.sum(out * packed[:, pixels : pixels + out.shape[1]], axis=1, keepdims=True)


def packed(
    images: Float[np.ndarray, "n h w c"], weights: Float[np.ndarray, "n k"], width: int
) -> Float[np.ndarray, "n w"]:
    """Rows for `Weighed`: weights are filled up with zeros to `width`, so that two functions take equally long rows."""
    rows = [images.reshape(len(images), -1), weights, np.zeros((len(images), width - weights.shape[1]))]
    return np.concatenate([np.asarray(row, images.dtype) for row in rows], axis=1)


@dataclass(frozen=True)
class Sides:
    """The network before a later task, seen from the old images and from the new ones.

    Attributes:
        old: centred scores, by `params`.
        new: views, by the same.
        params: what trains and moves features.
        pull_in: how the running mean moves at the task's end if nothing trains: a step of `with_mean`'s parameters.
        with_mean: centred scores by parameters and running mean.
        width: weights of a packed row, as many as either side has outputs.
    """

    old: Partial
    new: Partial
    params: Params
    pull_in: Params
    with_mean: tuple[Partial, Params]
    width: int

    def kernel(
        self, one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray] | None = None
    ) -> Float[np.ndarray, "m n"]:
        """Between weighed sums of scores of old images and of views of new ones; without `other`, of the old alone.

        Args:
            one: old images and a weight for each of their scores.
            other: new images and a weight for each of their views.

        Raises:
            AnalysisError: memory doesn't suffice.
        """
        shape = tuple(one[0].shape[1:])
        fn, fn2 = (Partial(Weighed(shape), fn=side) for side in (self.old, self.new))
        rows = packed(*one, self.width)
        if other is None:
            return empirical_ntk(fn, self.params, rows, tile=TILE)[:, :, 0, 0]
        columns = packed(*other, self.width)
        return empirical_ntk(fn, self.params, rows, columns, apply_fn2=fn2, tile=TILE)[:, :, 0, 0]


def sides_of(records: Records, seed: int, task: int) -> Sides:
    """The network at the checkpoint before a task.

    Raises:
        RecordError: no such seed or task, or a damaged checkpoint.
    """
    recorded, learner = records.task(seed, task), records.run.learner
    assert isinstance(learner, NTKCL)  # what this study is about
    fn, before = centred_scores(records, seed, task, with_mean=True)
    params = {path: value for path, value in before.items() if not path.startswith(MEAN)}
    mean = {path: value for path, value in before.items() if path not in params}
    rest = {path: value for path, value in recorded.before.items() if path.startswith(HEAD)}
    last = task == records.run.num_tasks - 1
    share = jnp.float32(0 if last else 1 / (task + 1))
    still = {path: np.zeros(np.shape(value)) for path, value in params.items()}
    return Sides(
        Partial(Following(), scores=fn, start=params, mean=mean, share=share),
        Partial(Views(learner), frozen=recorded.frozen_before, rest=rest),
        params,
        mean_step(before, still, task, last=last),
        (fn, before),
        max(3 * learner.model.feature_dim, learner.classes),
    )


def linearized(fn: Partial, params: Params, images: Any) -> Linearized:
    """First-order model of a side."""
    return Linearized(fn, params, images[:2])
