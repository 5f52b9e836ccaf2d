"""The compiled steps: one training update, one evaluation batch.

Everything that differs between tasks is an array argument, everything that is static is a frozen config, so each step
is compiled once for all tasks, seeds and epochs.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int

from ntkcl_jax.config import ObjectiveConfig, OptimizerConfig
from ntkcl_jax.data import Batch, crop_resize_device
from ntkcl_jax.devices.mesh import pinned
from ntkcl_jax.methods.ntkcl_objective import (
    TERMS,
    OldRows,
    cross_entropy,
    dissimilarity,
    orthogonality,
    regularization,
    total_loss,
)
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.ntkcl import Classifier, Features, Frozen, Network, Tree


class TaskArrays(NamedTuple):
    """What a task changes, all of it arrays of task-independent shapes."""

    anchor: Tree
    """Parameters that L_reg pulls to: those at the previous task's end."""
    basis: Float[Array, "e k"]
    """Directions of the old prototypes, for L_orth."""
    classes: Bool[Array, "n"]
    """Columns of the proxy head that this task uses."""
    offset: Int[Array, ""]
    """The task's first class in the stream's numbering."""
    old: Int[Array, ""]
    """Rows of the prototype head that may enter L_dis as old prototypes."""


class StepResult(NamedTuple):
    """What one update yields beside the new state."""

    terms: Float[Array, "terms"]
    """The unweighted terms in the order of `TERMS`, then the total."""
    correct: Int[Array, ""]
    """Valid images that the proxy head classifies rightly from the hybrid feature."""


def pixels_of(batch: Batch, size: int) -> Float[Array, "b h w c"]:
    """Pixels in [0, 1] of a batch: cropped here where it carries boxes, divided by 255 where it holds bytes."""
    if batch.boxes is not None and batch.flips is not None:
        return crop_resize_device(batch.images, batch.boxes, batch.flips, size)
    images = jnp.asarray(batch.images)
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def loss_terms(
    network: Network,
    objective: ObjectiveConfig,
    adaptation: Tree,
    frozen: Frozen,
    task: TaskArrays,
    batch: Batch,
    old_rows: OldRows,
    key: Key | None,
) -> tuple[dict[str, Array], tuple[Features, Array]]:
    """Compute every unweighted loss term of a batch.

    Args:
        network: the architecture.
        objective: variants and weights.
        adaptation: trainable tree.
        frozen: backbone, running mean, prototypes.
        task: the task's arrays.
        batch: images with labels in the stream's numbering.
        old_rows: old prototypes drawn for this step.
        key: dropout key; None switches dropout off.

    Returns:
        The terms by name, and (features, proxy logits of the hybrid feature).
    """
    features = network.features(adaptation, frozen, pixels_of(batch, network.config.backbone.image_size), key)
    targets = batch.labels - task.offset
    proxy = network.module(adaptation, frozen).proxy
    logits = [proxy(x) for x in features]
    ce = [cross_entropy(x, targets, batch.valid, task.classes) for x in logits]
    alone = network.config.streams != "both"  # the three views are then one, which counts once
    terms = dict(zip(TERMS[:3], [jnp.zeros_like(x) for x in ce[:2]] + ce[2:] if alone else ce, strict=True))
    terms["dissimilarity"] = dissimilarity(
        features.hybrid, batch.labels, batch.valid, old_rows, objective.temperature, objective.dissimilarity
    )
    terms["orthogonality"] = orthogonality(features, batch.valid, task.basis, objective.orthogonality) / (1 + alone)
    terms["regularization"] = regularization(adaptation, task.anchor, objective.regularization)
    return terms, (features, logits[2])


def draw_old_rows(key: Key, prototypes: Float[Array, "c e"], old: Int[Array, ""], most: int) -> OldRows:
    """Draw up to `most` different rows among the first `old` ones, uniformly."""
    classes = prototypes.shape[0]
    order = jnp.where(jnp.arange(classes) < old, jax.random.uniform(key, (classes,)), 2.0)
    value, index = jax.lax.top_k(-order, min(most, classes))
    return OldRows(prototypes[index], index, value > -1.5)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """SGD as PyTorch does it: `buffer = momentum * buffer + (gradient + decay * p)`; `update` applies the rate."""
    return optax.chain(optax.add_decayed_weights(config.weight_decay), optax.trace(decay=config.momentum))


def learning_rate(config: OptimizerConfig, epoch: int, task: int = 0) -> float:
    """Cosine from the task's initial rate to 0, constant within an epoch, restarted in every task.

    `lr_e = 0.5 * lr_0 * (1 + cos(π e / epochs))`, e = 0 .. epochs - 1.

    Example:
        >>> [learning_rate(OptimizerConfig(learning_rate=1.0, epochs=2), e) for e in (0, 1)]
        [1.0, 0.5]
    """
    later = config.later_learning_rate
    initial = config.learning_rate if task == 0 or later is None else later
    return 0.5 * initial * (1 + math.cos(math.pi * epoch / config.epochs))


def update(
    network: Network,
    objective: ObjectiveConfig,
    optimizer: OptimizerConfig,
    adaptation: Tree,
    momentum: Any,
    frozen: Frozen,
    task: TaskArrays,
    batch: Batch,
    old_rows: OldRows,
    rate: Float[Array, ""],
    key: Key | None,
) -> tuple[Tree, Any, StepResult]:
    """One SGD update of the trainable tree. Pure; `train_step` is its compiled form with the draws made inside."""

    def loss(adaptation: Tree) -> tuple[Array, tuple[dict[str, Array], Array]]:
        terms, (_, logits) = loss_terms(network, objective, adaptation, frozen, task, batch, old_rows, key)
        return total_loss(terms, objective), (terms, logits)

    (total, (terms, logits)), gradient = jax.value_and_grad(loss, has_aux=True)(adaptation)
    step, momentum = make_optimizer(optimizer).update(gradient, momentum, adaptation)
    adaptation = jax.tree.map(lambda value, change: value - rate * change, adaptation, step)
    guess = jnp.argmax(jnp.where(task.classes, logits, -jnp.inf), axis=1) + task.offset
    correct = jnp.sum((guess == batch.labels) & batch.valid)
    return adaptation, momentum, StepResult(jnp.stack([*(terms[name] for name in TERMS), total]), correct)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 11), donate_argnums=(3, 4))
def train_step(
    network: Network,
    objective: ObjectiveConfig,
    optimizer: OptimizerConfig,
    adaptation: Tree,
    momentum: Any,
    frozen: Frozen,
    task: TaskArrays,
    batch: Batch,
    rate: Float[Array, ""],
    task_key: Key,
    step: Int[Array, ""],
    where: NamedSharding | None = None,
) -> tuple[Tree, Any, StepResult]:
    """Draw this step's old prototypes and dropout from the task's key, then `update`.

    The step's randomness is a function of (task key, step number) alone, so a resumed task draws the same. `where` says
    on which devices the results lie, when there are several.
    """
    row_key, dropout_key = jax.random.split(jax.random.fold_in(task_key, step))
    old_rows = draw_old_rows(row_key, frozen.prototypes["prototypes/kernel"], task.old, optimizer.batch_size)
    done = update(network, objective, optimizer, adaptation, momentum, frozen, task, batch, old_rows, rate, dropout_key)
    return pinned(done, where)


class Predictions(NamedTuple):
    """Predicted classes of a batch, in the stream's numbering."""

    best: Int[Array, "b"]
    top5: Int[Array, "b 5"]
    """The five best, best first; fewer columns when the stream has fewer classes."""
    within_task: Int[Array, "b"]
    """Best among the classes of the image's true task."""


@functools.partial(jax.jit, static_argnums=(0,))
def eval_step(
    network: Classifier,
    trainable: Tree,
    frozen: Any,
    batch: Batch,
    task_of_class: Int[Array, "c"],
) -> Predictions:
    """Classify a batch by a network's scores; a row depends on no other row."""
    scores = network.apply_fn(trainable, frozen, pixels_of(batch, network.image_size))
    _, top = jax.lax.top_k(scores, min(5, network.classes))
    same_task = task_of_class[None, :] == task_of_class[batch.labels][:, None]
    return Predictions(top[:, 0], top, jnp.argmax(jnp.where(same_task, scores, -jnp.inf), axis=1))
