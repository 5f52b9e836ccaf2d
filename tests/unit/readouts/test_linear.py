"""Class means and the softmax classifier against their definitions, on features that need no network."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from ntkcl_jax.readouts import linear
from ntkcl_jax.readouts.base import with_constant
from ntkcl_jax.readouts.linear import Joint, Linear, fit_linear
from ntkcl_jax.readouts.prototypes import Prototypes
from ntkcl_jax.seeds import stream_seed
from tests.support.lessons import CLASSES, SCENARIO, WIDTH, clusters, learnt


def test_prototype_scores_are_cosines_to_class_means() -> None:
    (train, labels), (test, _) = clusters(2, 5), clusters(3, 2)
    readout = Prototypes(WIDTH, CLASSES, seed=0)
    for task, state in enumerate(learnt(readout, train, labels)):
        seen = SCENARIO.offsets[task + 1]
        scores = readout.scores(state, test, seen)
        assert scores.shape == (14, seen)
        for row, x in zip(scores, test, strict=True):
            for c in range(seen):
                mean = train[labels == c].mean(axis=0)
                assert row[c] == pytest.approx(x @ mean / np.linalg.norm(x) / np.linalg.norm(mean), abs=1e-6)
        assert np.all(state["means"][seen:] == 0)


def test_a_linear_classifier_trains_the_columns_seen_and_no_other() -> None:
    train, labels = clusters(2, 5)
    start = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)
    seen = labels < 4
    fitted = fit_linear(
        jnp.asarray(start), train[seen], labels[seen], jnp.int32(4), jax.random.key(0), epochs=3, batch=4
    )
    np.testing.assert_array_equal(np.asarray(fitted)[:, 4:], start[:, 4:])
    assert (np.asarray(fitted)[:, :4] != start[:, :4]).all()


def test_a_linear_classifier_repeats_a_plain_loop() -> None:
    """One epoch in one batch: the gradient of the mean cross-entropy is feature^T (softmax - one hot) / n."""
    train, labels = clusters(2, 2)
    fitted = fit_linear(jnp.zeros((10, 7)), train, labels, jnp.int32(7), jax.random.key(0), epochs=1, batch=len(train))
    expected = -linear.LINEAR_RATE * train.T @ (np.full((14, 7), 1 / 7) - np.eye(7)[labels]) / 14
    np.testing.assert_allclose(fitted, expected, rtol=1e-4, atol=1e-6)


def by_hand(weights: np.ndarray, x: np.ndarray, labels: np.ndarray, seen: int, key: jax.Array) -> np.ndarray:
    """Twenty epochs of batches of 64 with a heavy ball, step by step in float64."""
    inputs, buffer = np.concatenate([x, np.ones((len(x), 1))], axis=1), np.zeros_like(weights, np.float64)
    each = -(-len(x) // 64)
    for epoch, epoch_key in enumerate(jax.random.split(key, 20)):
        order = np.resize(np.asarray(jax.random.permutation(epoch_key, len(x))), (each, 64))
        for at, rows in enumerate(order):
            logits = inputs[rows] @ weights[:, :seen]
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            slope = np.zeros_like(buffer)
            slope[:, :seen] = (
                inputs[rows].T @ (odds / odds.sum(axis=1, keepdims=True) - np.eye(seen)[labels[rows]]) / 64
            )
            buffer = 0.9 * buffer + slope
            weights = weights - 0.025 * (1 + np.cos(np.pi * (epoch * each + at) / (20 * each))) * buffer
    return weights


@pytest.mark.parametrize(("readout", "stream"), [(Linear, "sequential"), (Joint, "joint")])
def test_each_task_is_trained_from_the_weights_before_or_all_tasks_anew(readout: type[Linear], stream: str) -> None:
    train, labels = clusters(2, 30)
    made = readout(WIDTH, CLASSES, seed=3)
    weights = np.zeros((WIDTH + 1, CLASSES))
    for task, state in enumerate(learnt(made, train, labels)):
        seen = SCENARIO.offsets[task + 1]
        chosen = labels < seen if stream == "joint" else np.isin(labels, SCENARIO.classes(task))
        start = np.zeros_like(weights) if stream == "joint" else weights
        key = jax.random.key(stream_seed(3, stream, task))
        weights = by_hand(start, train[chosen].astype(np.float64), labels[chosen], seen, key)
        np.testing.assert_allclose(state["weights"], weights, rtol=1e-2, atol=2e-3)
        assert np.all(state["weights"][:, seen:] == 0)
        scores = made.scores(state, train, seen)
        np.testing.assert_allclose(scores, with_constant(train) @ state["weights"][:, :seen], rtol=1e-6)
