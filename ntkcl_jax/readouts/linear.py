"""A softmax classifier on features, trained by SGD: on each task in turn, or on all of them at once.

`linear` does nothing against forgetting (method `sequential` on frozen features); `joint` keeps every feature it has
seen and starts over after each task: what forgetting nothing would give. Twenty epochs of batches of 64, momentum 0.9,
rate 0.05 falling along a cosine; cross-entropy over the classes seen.
"""

import functools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ntkcl_jax.data import steps_per_epoch
from ntkcl_jax.readouts.base import Lesson, LinearModel, Readout, State, with_constant
from ntkcl_jax.seeds import stream_seed

LINEAR_EPOCHS = 20
LINEAR_BATCH = 64
LINEAR_RATE = 0.05
LINEAR_MOMENTUM = 0.9


@dataclass(frozen=True)
class Linear(Readout):
    """One classifier, trained on each task's features in turn."""

    name: ClassVar = "linear"
    method: ClassVar = "sequential"
    """What its random stream is called."""

    def init(self) -> State:
        """Weights of zero, biases in the last row."""
        return {"weights": np.zeros((self.width + 1, self.classes), np.float32)}

    def learn(self, state: State, lesson: Lesson) -> State:
        """Train on the task's features, from the weights before; columns of classes not yet seen stay zero."""
        return self.fitted(state["weights"], lesson.plain, lesson.labels, lesson)

    def fitted(
        self,
        weights: Float[np.ndarray, "d1 c"],
        features: Float[np.ndarray, "n d"],
        labels: Int[np.ndarray, "n"],
        lesson: Lesson,
    ) -> State:
        """The state after training from `weights`."""
        fitted = fit_linear(
            jnp.array(weights),  # a copy: the call donates its argument
            jnp.asarray(with_constant(features)),
            jnp.asarray(labels),
            jnp.int32(lesson.seen),
            linear_key(self.method, self.seed, lesson.task),
            epochs=LINEAR_EPOCHS,
            batch=LINEAR_BATCH,
        )
        return {"weights": np.array(fitted)}

    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """Logits."""
        return with_constant(features) @ state["weights"][:, :seen]

    def linear(self, state: State) -> LinearModel:
        """The features as they are, and a constant."""
        return LinearModel.of(self.width + 1, None, constant=True)


@dataclass(frozen=True)
class Joint(Linear):
    """The classifier trained anew on all tasks so far: no method of continual learning, but their yardstick."""

    name: ClassVar = "joint"
    method: ClassVar = "joint"

    def learn(self, state: State, lesson: Lesson) -> State:
        """Train on everything."""
        return self.fitted(np.zeros_like(state["weights"]), *lesson.everything(), lesson)


def linear_rate(steps: int) -> optax.Schedule:
    """Learning rate of each step of a linear classifier: one cosine over all of them."""
    return optax.cosine_decay_schedule(LINEAR_RATE, steps)


def linear_order(key: Array, n: int, batch: int) -> Int[Array, "steps batch"]:
    """Rows of each batch of an epoch; the order wraps around, so every batch is full and every image is used."""
    return jnp.resize(jax.random.permutation(key, n), (steps_per_epoch(n, batch), batch))


@functools.partial(jax.jit, static_argnames=("epochs", "batch"), donate_argnums=(0,))
def fit_linear(
    weights: Float[Array, "d1 c"],
    features: Float[Array, "n d1"],
    labels: Int[Array, "n"],
    classes: Int[Array, ""],
    key: Array,
    *,
    epochs: int,
    batch: int,
) -> Float[Array, "d1 c"]:
    """Train a softmax classifier (last input constant 1) over the first `classes` columns by SGD with a cosine."""
    # A shape, so each number of images is a program of its own
    n = features.shape[0]
    optimizer = optax.sgd(linear_rate(epochs * steps_per_epoch(n, batch)), LINEAR_MOMENTUM)
    seen = jnp.arange(weights.shape[1]) < classes

    def loss(weights: Array, rows: Array) -> Array:
        # Unseen columns have no probability, so no gradient moves them from zero
        logits = jnp.where(seen, features[rows] @ weights, -jnp.inf)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def step(carry: tuple, rows: Array) -> tuple:
        weights, state = carry
        gradient = jax.grad(loss)(weights, rows)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(weights, updates), state), None

    # Steps scanned within epochs scanned: one program, as a step is too little work for a call of its own
    def epoch(carry: tuple, key: Array) -> tuple:
        return jax.lax.scan(step, carry, linear_order(key, n, batch))

    (weights, _), _ = jax.lax.scan(epoch, (weights, optimizer.init(weights)), jax.random.split(key, epochs))
    return weights


def linear_key(method: str, seed: int, task: int) -> Array:
    """Key of the image order of a task; `jax.random.split` gives each epoch its own."""
    return jax.random.key(stream_seed(seed, method, task))
