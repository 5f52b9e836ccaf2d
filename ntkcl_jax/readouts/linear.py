"""Baselines that train nothing inside the backbone, on the same frozen backbone, images, class orders and metrics.

All use the untouched backbone's class token, computed once per run: `prototypes` (cosine to class means, no training at
all; Janson et al., arXiv:2210.04428), `sequential` (one linear classifier over all classes, trained by SGD on each task
in turn, nothing done against forgetting), `joint` (the same classifier trained on all tasks so far at once: what
forgetting nothing would give) and `ridge` (the exemplar-free ridge classifier of `ntkcl_jax.readouts.ridge`).
"""

import functools
import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ntkcl_jax.data import Batch, Scenario, steps_per_epoch
from ntkcl_jax.devices.hosts import fetch
from ntkcl_jax.models.heads import unit
from ntkcl_jax.models.ntkcl import Network, Tree
from ntkcl_jax.readouts.ridge import RidgeClassifier, learn
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.metrics import TaskEvaluation, score_predictions
from ntkcl_jax.training.step import pixels_of

LINEAR_EPOCHS = 20
LINEAR_BATCH = 64
LINEAR_RATE = 0.05
LINEAR_MOMENTUM = 0.9


@functools.partial(jax.jit, static_argnums=(0,))
def _backbone_features(network: Network, backbone: Tree, batch: Batch) -> Float[Array, "b d"]:
    return network.backbone_fn(backbone, pixels_of(batch, network.config.backbone.image_size))


def backbone_features(network: Network, backbone: Tree, batches: Iterable[Batch]) -> Float[np.ndarray, "n d"]:
    """Class token of the untouched backbone for every valid row, in order."""
    parts = [(_backbone_features(network, backbone, batch), batch.valid) for batch in batches]
    return np.concatenate([x[valid] for x, valid in map(fetch, parts)])


def top_classes(
    scores: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"], offsets: tuple[int, ...]
) -> TaskEvaluation:
    """Score a matrix of class scores over the classes seen (`offsets` of the tasks seen, then their end)."""
    order = np.argsort(-scores, axis=1, kind="stable")
    task = np.searchsorted(np.array(offsets), np.arange(scores.shape[1]), side="right")
    within = np.where(task[None, :] == task[labels][:, None], scores, -np.inf).argmax(axis=1)
    top5 = order[:, :5] if scores.shape[1] >= 5 else None
    return score_predictions(order[:, 0], labels, offsets, top5=top5, within_task_predictions=within)


def feature_means(
    train: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], classes: int
) -> Float[np.ndarray, "c d"]:
    """Mean feature of each class."""
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(classes + 1))
    return np.stack([train[order[first:end]].mean(axis=0) for first, end in itertools.pairwise(bounds)])


def prototype_scores(test: Float[np.ndarray, "m d"], means: Float[np.ndarray, "c d"]) -> Float[np.ndarray, "m c"]:
    """Cosine of each test feature to each class mean."""
    return np.asarray(unit(jnp.asarray(test)) @ unit(jnp.asarray(means)).T)


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
    n = features.shape[0]
    optimizer = optax.sgd(linear_rate(epochs * steps_per_epoch(n, batch)), LINEAR_MOMENTUM)
    seen = jnp.arange(weights.shape[1]) < classes

    def loss(weights: Array, rows: Array) -> Array:
        logits = jnp.where(seen, features[rows] @ weights, -jnp.inf)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def step(carry: tuple, rows: Array) -> tuple:
        weights, state = carry
        gradient = jax.grad(loss)(weights, rows)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(weights, updates), state), None

    def epoch(carry: tuple, key: Array) -> tuple:
        return jax.lax.scan(step, carry, linear_order(key, n, batch))

    (weights, _), _ = jax.lax.scan(epoch, (weights, optimizer.init(weights)), jax.random.split(key, epochs))
    return weights


def with_constant(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d1"]:
    """Append a 1 to each row, the input of a classifier's biases."""
    return np.concatenate([features, np.ones((len(features), 1), features.dtype)], axis=1)


def linear_weights(
    method: str, scenario: Scenario, seed: int, train: Float[np.ndarray, "n d"], train_labels: Int[np.ndarray, "n"]
) -> Iterator[Float[np.ndarray, "d1 c"]]:
    """Train the linear classifier of a baseline task after task.

    Args:
        method: `sequential` or `joint`.
        scenario: class order and tasks.
        seed: the run's seed (order of the images).
        train: backbone features of the training images.
        train_labels: their labels in the stream's numbering.

    Yields:
        Its weights after each task, biases in the last row; columns of classes not yet seen are zero.
    """
    inputs = with_constant(train)
    weights = jnp.zeros((inputs.shape[1], scenario.num_classes))
    for task in range(scenario.num_tasks):
        first, end = scenario.offsets[task] if method == "sequential" else 0, scenario.offsets[task + 1]
        chosen = (train_labels >= first) & (train_labels < end)
        if method == "joint":
            weights = jnp.zeros_like(weights)
        weights = fit_linear(
            weights,
            jnp.asarray(inputs[chosen]),
            jnp.asarray(train_labels[chosen]),
            jnp.int32(end),
            linear_key(method, seed, task),
            epochs=LINEAR_EPOCHS,
            batch=LINEAR_BATCH,
        )
        yield np.array(weights)


def linear_key(method: str, seed: int, task: int) -> Array:
    """Key of the image order of a task; `jax.random.split` gives each epoch its own."""
    return jax.random.key(stream_seed(seed, method, task))


def ridge_weights(
    scenario: Scenario, train: Float[np.ndarray, "n d"], train_labels: Int[np.ndarray, "n"]
) -> Iterator[Float[np.ndarray, "d c"]]:
    """Learn the ridge classifier task after task.

    Args:
        scenario: class order and tasks.
        train: features of the training images.
        train_labels: their labels in the stream's numbering.

    Yields:
        Its weights after each task; columns of classes not yet seen are zero.
    """
    classifier = RidgeClassifier.empty(train.shape[1], scenario.num_classes)
    for task in range(scenario.num_tasks):
        chosen = np.isin(train_labels, scenario.classes(task))
        classifier = learn(classifier, train[chosen], train_labels[chosen])
        yield classifier.weights()


def run_baseline(
    method: str,
    scenario: Scenario,
    seed: int,
    train: Float[np.ndarray, "n d"],
    train_labels: Int[np.ndarray, "n"],
    test: Float[np.ndarray, "m d"],
    test_labels: Int[np.ndarray, "m"],
) -> Iterator[TaskEvaluation]:
    """Learn the stream with a baseline and evaluate after every task.

    Args:
        method: one of the four above.
        scenario: class order and tasks.
        seed: the run's seed (order of the images).
        train: backbone features of the training images.
        train_labels: their labels in the stream's numbering.
        test: backbone features of the test images.
        test_labels: their labels in the stream's numbering.

    Yields:
        One evaluation per task.
    """
    if method == "prototypes":
        learnt, means = itertools.repeat(None), feature_means(train, train_labels, scenario.num_classes)
    elif method == "ridge":
        train, test = with_constant(train), with_constant(test)
        learnt = ridge_weights(scenario, train, train_labels)
    else:
        test = with_constant(test)
        learnt = linear_weights(method, scenario, seed, train, train_labels)
    for task, weights in zip(range(scenario.num_tasks), learnt, strict=False):
        offsets = scenario.offsets[: task + 2]
        seen = test_labels < offsets[-1]
        if weights is None:
            scores = prototype_scores(test[seen], means[: offsets[-1]])
        else:
            scores = test[seen] @ weights[:, : offsets[-1]]
        yield top_classes(scores, test_labels[seen], offsets)
