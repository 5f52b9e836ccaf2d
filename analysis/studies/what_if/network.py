"""NTK-CL as it is read out once a task has ended: a function of the parameters that the task trains, and nothing else.

The running mean takes the trained streams in, and the new classes get prototypes: class means of the features that
training leaves. So a rate of zero isn't the state before the task, but what such a task ends with.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from analysis.kernels.linearized import Linearized
from analysis.records.checkpoints import Records
from analysis.records.outputs import Params
from analysis.studies.twin import HEAD
from ntkcl_jax.methods.class_means import class_means
from ntkcl_jax.methods.ntkcl import MEAN, NTKCL
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.heads import unit


@dataclass(frozen=True)
class StreamFeatures:
    """Hybrid features as a function of the trained parameters and of the running mean, which moves otherwise."""

    learner: NTKCL

    def __call__(
        self, params: Tree, images: Float[Array, "n h w c"], *, frozen: Frozen, rest: Tree
    ) -> Float[Array, "n e"]:
        """Evaluate; `rest` are parameters on which features don't depend."""
        mean = {path: value for path, value in params.items() if path.startswith(MEAN)}
        moved = {path: value for path, value in params.items() if path not in mean}
        return self.learner.features({**moved, **rest}, frozen._replace(buffers=frozen.buffers | mean), images)


@dataclass(frozen=True)
class EndFeatures:
    """Hybrid features at the task's end; equal for all tasks of a run, its arrays are arguments."""

    learner: NTKCL

    def __call__(
        self, params: Tree, images: Float[Array, "n h w c"], *, frozen: Frozen, rest: Tree, share: Float[Array, ""]
    ) -> Float[Array, "n e"]:
        """Evaluate; `share` is the part of the trained streams in the running mean, 0 after the run's last task."""
        return self.learner.features({**params, **rest}, self.ended(params, frozen, share), images)

    def ended(self, params: Tree, frozen: Frozen, share: Float[Array, ""]) -> Frozen:
        """The frozen arrays, with the mean that the task's end makes of them."""
        mean = {
            path: (1 - share) * value + share * params[path.replace(MEAN, "current/", 1)]
            for path, value in frozen.buffers.items()
            if path.startswith(MEAN)
        }
        return frozen._replace(buffers=frozen.buffers | mean)


@dataclass(frozen=True)
class EndScores:
    """Centred scores over the classes seen at the task's end, zero for the others: one program for all tasks."""

    features: EndFeatures

    def __call__(
        self, params: Tree, images: Float[Array, "n h w c"], *, rows: Float[Array, "k s d"], **arrays: Any
    ) -> Float[Array, "n k"]:
        """Evaluate; `rows` are prototypes as `centred_rows` makes them, `arrays` those of the features."""
        features = self.features(params, images, **arrays)
        return jnp.einsum("nsd,ksd->nk", unit(features.reshape(len(features), *rows.shape[1:])), rows)


@dataclass(frozen=True)
class End:
    """A task's end, before it is trained: features to first order, scores exactly.

    Attributes:
        features: first-order model of the hybrid features, by `params` and the running mean of the end.
        share: part of the trained streams in that mean; 0 after the run's last task.
        scores: centred scores with the prototypes that a rate of zero gives the new classes, of all outputs of the run.
        params: what trains and moves features.
        prototypes: (k, e) rows of the classes seen; the new ones are what a rate of zero gives.
        offset: the first new class.
        weights: m, of the prototype head's sections.
    """

    features: Linearized
    share: float
    scores: Partial
    params: Params
    prototypes: Float[np.ndarray, "k e"]
    offset: int
    weights: tuple[float, ...]

    def apart(
        self, images: Float[np.ndarray, "n h w c"], step: Params
    ) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "n e"]]:
        """How features change to first order when the streams make a step, and when the mean makes all of it."""
        means = {
            path.replace("current/", MEAN, 1): value for path, value in step.items() if path.startswith("current/")
        }
        still, rest = ({path: np.zeros_like(value) for path, value in part.items()} for part in (step, means))
        return self.features.change(images, step | rest), self.features.change(images, still | means)

    def change(self, images: Float[np.ndarray, "n h w c"], step: Params) -> Float[np.ndarray, "n e"]:
        """How a step changes features at the end, to first order: the mean takes its share of it."""
        means = {
            path.replace("current/", MEAN, 1): self.share * np.asarray(value)
            for path, value in step.items()
            if path.startswith("current/")
        }
        return self.features.change(images, step | means)

    def step(self, images: Float[np.ndarray, "n h w c"], dual: Float[np.ndarray, "n e"]) -> Params:
        """The step that a dual of features stands for, the transpose of `change`."""
        found = self.features.step(images, dual)
        return {
            path: found[path] + self.share * found.get(path.replace("current/", MEAN, 1), 0)
            if path.startswith("current/")
            else found[path]
            for path in self.params
        }

    @property
    def classes(self) -> int:
        """Classes seen, k."""
        return len(self.prototypes)

    def read(
        self, features: Float[np.ndarray, "n e"], new: Float[np.ndarray, "c e"] | float = 0.0
    ) -> Float[np.ndarray, "n k"]:
        """Centred scores of features, with the prototypes of the new classes moved by `new`."""
        moved = np.concatenate([self.prototypes[: self.offset], self.prototypes[self.offset :] + new])
        return centred_cosines(features, moved, self.weights)

    def pushed(self, features: Float[np.ndarray, "n e"], change: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n k"]:
        """By how much a change of the features changes centred scores, to first order and at fixed prototypes."""
        rows = centred_rows(self.prototypes, self.weights)
        return np.einsum("nsd,ksd->nk", _across(features, change, len(self.weights)), rows)

    def pulled(self, features: Float[np.ndarray, "n e"], dual: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n e"]:
        """Σ_c dual_c ∂f_c/∂features, the transpose of `pushed`."""
        rows = np.einsum("nk,ksd->nsd", dual, centred_rows(self.prototypes, self.weights))
        return _across(features, rows.reshape(features.shape), len(self.weights)).reshape(features.shape)


def centred_cosines(
    features: Float[np.ndarray, "n e"], prototypes: Float[np.ndarray, "k e"], weights: tuple[float, ...]
) -> Float[np.ndarray, "n k"]:
    """Σ_s m_s cos(feature_s, prototype_s) over Σ_s m_s, without its mean over classes.

    Example:
        >>> centred_cosines(np.array([[3.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 2.0]]), (1.0,)).tolist()
        [[0.5, -0.5]]
    """
    return np.einsum("nsd,ksd->nk", _unit(features, len(weights)), centred_rows(prototypes, weights))


def centred_rows(prototypes: Float[np.ndarray, "k e"], weights: tuple[float, ...]) -> Float[np.ndarray, "k s d"]:
    """What sections of length one are multiplied with to give centred scores."""
    rows = _unit(prototypes, len(weights)) * np.array(weights)[:, None] / sum(weights)
    # Before the product: scores that differ by little would lose their digits after it
    return rows - rows.mean(axis=0)


def _across(
    features: Float[np.ndarray, "n e"], change: Float[np.ndarray, "n e"], sections: int
) -> Float[np.ndarray, "n s d"]:
    """A change without its part along the feature, which cosines don't see, over the feature's length."""
    x, dx = (rows.reshape(len(rows), sections, -1) for rows in (features, change))
    length, along = np.linalg.norm(x, axis=2, keepdims=True), _unit(features, sections)
    across = dx - along * (dx * along).sum(axis=2, keepdims=True)
    return np.divide(across, length, out=np.zeros_like(across), where=length != 0)


def _unit(rows: Float[np.ndarray, "n e"], sections: int) -> Float[np.ndarray, "n s d"]:
    parts = rows.reshape(len(rows), sections, -1)
    length = np.linalg.norm(parts, axis=2, keepdims=True)
    # As the head has it: a zero section has no direction and a cosine of zero
    return np.divide(parts, length, out=np.zeros_like(parts), where=length != 0)


def task_end(records: Records, seed: int, task: int, images: Float[np.ndarray, "n h w c"]) -> End:
    """The end of a task that isn't trained yet, from the checkpoint before it.

    Args:
        records: the run.
        seed: one of its seeds.
        task: its number, from 0.
        images: some, to check the function with.

    Raises:
        RecordError: no such seed or task, or a damaged checkpoint.
        NtkclError: images that can't be read.
    """
    recorded, learner = records.task(seed, task), records.run.learner
    assert isinstance(learner, NTKCL)  # what this study is about
    params = {path: value for path, value in recorded.before.items() if not path.startswith(HEAD)}
    rest = {path: value for path, value in recorded.before.items() if path.startswith(HEAD)}
    # Not after the run's last task (docs/method.md, section 5)
    share = jnp.float32(0 if task == records.run.num_tasks - 1 else 1 / (task + 1))
    frozen = recorded.frozen_before
    arrays = {"frozen": frozen, "rest": rest, "share": share}
    context, offset = records.run.context, recorded.labels.start
    labels = context.scenarios[seed].relabel(context.source.train.labels)
    members = np.flatnonzero(np.isin(labels, recorded.labels))
    fn = EndFeatures(learner)
    # As the task's end makes them (docs/method.md, section 6): of all its images, with the mean of that end
    means = class_means(
        learner, recorded.before, fn.ended(params, frozen, share), context.views("train", members, labels[members]),
        offset, len(recorded.labels),
    )  # fmt: skip
    old = np.asarray(frozen.buffers["prototypes/kernel"], np.float64)[:offset]
    prototypes, weights = np.concatenate([old, means]), records.run.config.model.section_weights
    # Classes to come get rows of zeros, so that one program serves all tasks
    rows = np.zeros((context.scenarios[seed].offsets[records.done(seed)], len(weights), old.shape[1] // len(weights)))
    rows[: len(prototypes)] = centred_rows(prototypes, weights)
    scores = Partial(EndScores(fn), rows=jnp.asarray(rows, jnp.float32), **arrays)
    mean = {path: x for path, x in fn.ended(params, frozen, share).buffers.items() if path.startswith(MEAN)}
    features = Linearized(Partial(StreamFeatures(learner), frozen=frozen, rest=rest), {**params, **mean}, images)
    return End(features, float(share), scores, params, prototypes, offset, weights)


def measured(
    records: Records, seed: int, task: int, images: Float[np.ndarray, "n h w c"]
) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "k e"]]:
    """Features and prototypes of the classes seen, of the network that training left.

    Raises:
        RecordError: a damaged checkpoint.
    """
    recorded, learner = records.task(seed, task), records.run.learner
    assert isinstance(learner, NTKCL)  # what this study is about
    rest = {path: value for path, value in recorded.after.items() if path.startswith(HEAD)}
    params = {path: value for path, value in recorded.after.items() if path not in rest}
    mean = {path: value for path, value in recorded.frozen.buffers.items() if path.startswith(MEAN)}
    # The program that the task's end has
    fn = Partial(StreamFeatures(learner), frozen=recorded.frozen, rest=rest)
    features = Linearized(fn, {**params, **mean}, images[:2]).values(images)
    prototypes = np.asarray(recorded.frozen.buffers["prototypes/kernel"], np.float64)[: recorded.labels.stop]
    return features, prototypes
