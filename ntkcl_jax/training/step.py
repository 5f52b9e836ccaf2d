"""The compiled steps, the same for every learner: one training update, one evaluation batch.

Everything that differs between tasks is an array argument, everything that is static is a frozen dataclass, so each
step is compiled once for all tasks, seeds and epochs.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int

from ntkcl_jax.data import Batch
from ntkcl_jax.devices.mesh import constrained
from ntkcl_jax.methods.base import Learner, Recipe, Task, pixels_of
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.readouts.feature_maps import FeatureMap


class TrainState(NamedTuple):
    """What an update changes."""

    trainable: Tree
    opt_state: Any
    step: Int[Array, ""]
    """Updates of the task that are done."""


class StepResult(NamedTuple):
    """What one update yields beside the new state."""

    terms: Float[Array, "terms"]
    """The learner's terms in their order, before their weights, then the total."""
    correct: Int[Array, ""]
    """Valid images that the logits classified rightly among the task's classes, before the update."""


@functools.partial(jax.jit, static_argnames=("learner", "recipe", "sharding"), donate_argnames=("state",))
def train_step(
    learner: Learner,
    recipe: Recipe,
    state: TrainState,
    frozen: Frozen,
    task: Task,
    batch: Batch,
    learning_rate: Float[Array, ""],
    task_key: Key,
    sharding: NamedSharding | None = None,
) -> tuple[TrainState, StepResult]:
    """One update.

    Args:
        learner: whose loss.
        recipe: its optimizer; `Recipe.compiled`, as the rate is an argument.
        state: before the update; its buffers are donated.
        frozen: backbone and buffers.
        task: the current task.
        batch: images as the data come, labels in the stream's numbering.
        learning_rate: of this step.
        task_key: the task's key. Draws and dropout are a function of it and the step's number alone, so a task that
            is taken up again draws the same.
        sharding: where the results lie, when there are several devices.

    Returns:
        The state after the update, and its losses.
    """
    # Crops and the division by 255 are part of the program: bytes travel to the device, not floats
    batch = Batch(pixels_of(batch, learner.image_size), batch.labels, batch.valid)
    key = jax.random.fold_in(task_key, state.step)

    def loss(trainable: Tree) -> tuple[Array, tuple[dict[str, Array], Array]]:
        terms, logits = learner.loss(trainable, frozen, task, batch, key)
        return total(learner, terms), (terms, logits)

    (value, (terms, logits)), gradient = jax.value_and_grad(loss, has_aux=True)(state.trainable)
    change, opt_state = recipe.transformation().update(gradient, state.opt_state, state.trainable)
    # The rate comes last: outside of the momentum, as in PyTorch, and as an argument, so none compiles anew
    trainable = jax.tree.map(lambda value, change: value - learning_rate * change, state.trainable, change)

    # [b]: logits are of the whole stream, training counts among the task's own classes
    guess = jnp.argmax(jnp.where(task.new, logits, -jnp.inf), axis=1)
    correct = jnp.sum((guess == batch.labels) & batch.valid)
    result = StepResult(jnp.stack([*(terms[name] for name in learner.terms), value]), correct)
    # Without this XLA could leave results divided in another way than the next step expects them, and compile again.
    return constrained((TrainState(trainable, opt_state, state.step + 1), result), sharding)


def total(learner: Learner, terms: dict[str, Array]) -> Float[Array, ""]:
    """Weighted sum of a learner's terms, added up in their order."""
    weights = learner.weights
    return functools.reduce(jnp.add, (weights.get(name, 1.0) * terms[name] for name in learner.terms))


class Predictions(NamedTuple):
    """Predicted classes of a batch, in the stream's numbering."""

    best: Int[Array, "b"]
    top5: Int[Array, "b 5"]
    """The five best, best first; fewer columns when the stream has fewer classes."""
    within_task: Int[Array, "b"]
    """Best among the classes of the image's true task."""
    among_old: Int[Array, "b"]
    """Best among the classes seen before the current task; the first class where there are none."""


@functools.partial(jax.jit, static_argnums=(0,))
def eval_step(
    learner: Learner,
    trainable: Tree,
    frozen: Frozen,
    batch: Batch,
    task_of_class: Int[Array, "c"],
    old: Bool[Array, "c"],
) -> Predictions:
    """Classify a batch by the scores of a learner's own head; a row depends on no other row.

    Args:
        learner: what classifies.
        trainable: its trainable tree.
        frozen: backbone and buffers.
        batch: images and labels.
        task_of_class: task of each class of the stream.
        old: the classes seen before the current task.
    """
    scores = learner.apply_fn(trainable, frozen, pixels_of(batch, learner.image_size))
    _, top = jax.lax.top_k(scores, min(5, learner.classes))
    # [b, c]: whether class c is of the true task of image b
    same_task = task_of_class[None, :] == task_of_class[batch.labels][:, None]
    within, among_old = (jnp.argmax(jnp.where(mask, scores, -jnp.inf), axis=1) for mask in (same_task, old))
    best = top[:, 0]
    # The best of all is the best of fewer, whatever its score: one that isn't a number compares with nothing
    return Predictions(best, top, within, jnp.where(old[best], best, among_old))


@functools.partial(jax.jit, static_argnums=(0,))
def feature_step(learner: Learner, trainable: Tree, frozen: Frozen, batch: Batch) -> Float[Array, "b e"]:
    """Features of a batch, for readouts."""
    return learner.features(trainable, frozen, pixels_of(batch, learner.image_size))


@functools.partial(jax.jit, static_argnums=(0, 1))
def map_step(
    learner: Learner,
    maps: tuple[FeatureMap, ...],
    drawn: tuple[Mapping[str, Any], ...],
    trainable: Tree,
    frozen: Frozen,
    batch: Batch,
) -> Float[Array, "b w"]:
    """Rows of all feature maps of a batch, side by side, from one pass through the network."""
    levels = learner.levels(trainable, frozen, pixels_of(batch, learner.image_size))
    return jnp.concatenate([of(part, levels) for of, part in zip(maps, drawn, strict=True)], axis=1)
