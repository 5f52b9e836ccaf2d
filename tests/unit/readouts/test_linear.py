"""Baselines against their definitions, on features that need no network."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.models.ntkcl import Network
from ntkcl_jax.readouts import linear as baselines
from ntkcl_jax.readouts.linear import feature_means, fit_linear, prototype_scores, run_baseline, top_classes
from tests.support import streams as tiny

SCENARIO = Scenario(class_order=tuple(range(7)), task_sizes=(3, 2, 2))
METHODS = ("prototypes", "sequential", "joint", "ridge")


def features(seed: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Seven well separated clusters in ten dimensions."""
    centres = 3 + 2 * np.random.default_rng(1).normal(size=(7, 10))  # off the origin, as features of a network are
    labels = np.tile(np.arange(7), per_class)
    noise = np.random.default_rng(seed).normal(size=(len(labels), 10))
    return (centres[labels] + 0.5 * noise).astype(np.float32), labels


def run(method: str, seed: int = 0) -> list:
    return list(run_baseline(method, SCENARIO, seed, *features(2, 30), *features(3, 10)))


def test_prototype_scores_are_cosines_to_class_means() -> None:
    (train, labels), (test, _) = features(2, 5), features(3, 2)
    scores = prototype_scores(test, feature_means(train, labels, 4))
    for row, x in zip(scores, test, strict=True):
        for c in range(4):
            mean = train[labels == c].mean(axis=0)
            assert row[c] == pytest.approx(x @ mean / np.linalg.norm(x) / np.linalg.norm(mean), abs=1e-6)
    assert scores.shape == (14, 4)


def test_a_linear_classifier_trains_the_columns_seen_and_no_other() -> None:
    train, labels = features(2, 5)
    start = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)
    seen = labels < 4
    fitted = fit_linear(
        jnp.asarray(start), train[seen], labels[seen], jnp.int32(4), jax.random.key(0), epochs=3, batch=4
    )
    np.testing.assert_array_equal(np.asarray(fitted)[:, 4:], start[:, 4:])
    assert (np.asarray(fitted)[:, :4] != start[:, :4]).all()


def test_a_linear_classifier_repeats_a_plain_loop() -> None:
    """One epoch in one batch: the gradient of the mean cross-entropy is feature^T (softmax - one hot) / n."""
    train, labels = features(2, 2)
    fitted = fit_linear(jnp.zeros((10, 7)), train, labels, jnp.int32(7), jax.random.key(0), epochs=1, batch=len(train))
    expected = -baselines.LINEAR_RATE * train.T @ (np.full((14, 7), 1 / 7) - np.eye(7)[labels]) / 14
    np.testing.assert_allclose(fitted, expected, rtol=1e-4, atol=1e-6)


def test_top_classes_count_what_a_loop_counts() -> None:
    rng = np.random.default_rng(4)
    scores, labels = rng.normal(size=(40, 12)), np.tile(np.arange(12), 4)[:40]
    found = top_classes(scores, labels, (0, 5, 9, 12))
    bounds = [range(0, 5), range(5, 9), range(9, 12)]
    tasks = [next(t for t, classes in enumerate(bounds) if y in classes) for y in labels]
    best = [int(np.argmax(row)) for row in scores]
    assert found.correct == tuple(
        sum(b == y for b, y, k in zip(best, labels, tasks, strict=True) if k == t) for t in range(3)
    )
    assert found.correct_task == sum(b in bounds[t] for b, t in zip(best, tasks, strict=True))
    assert found.correct_top5 == sum(y in np.argsort(row)[-5:] for row, y in zip(scores, labels, strict=True))
    within = [max(bounds[t], key=lambda c: row[c]) for row, t in zip(scores, tasks, strict=True)]
    assert found.correct_given_task == sum(w == y for w, y in zip(within, labels, strict=True))


def test_on_an_easy_stream_joint_forgets_nothing_and_sequential_nearly_everything() -> None:
    final = {method: run(method)[-1] for method in METHODS}
    assert final["joint"].accuracy > 0.95
    assert final["prototypes"].accuracy > 0.95
    assert final["ridge"].accuracy > 0.95
    assert final["sequential"].accuracy < 0.6
    assert final["sequential"].task_accuracies[-1] > 0.95
    assert final["sequential"].task_accuracies[0] < 0.5


def test_after_the_first_task_sequential_and_joint_have_seen_the_same() -> None:
    assert run("sequential")[0].accuracy > 0.95
    assert run("joint")[0].accuracy > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_a_baseline_is_a_function_of_its_seed(method: str) -> None:
    assert run(method, seed=3) == run(method, seed=3)
    assert [e.images for e in run(method)] == [(30,), (30, 20), (30, 20, 20)]


@pytest.mark.parametrize("method", METHODS)
def test_a_baseline_never_sees_a_class_early(method: str) -> None:
    """Garbage in the images of later tasks doesn't change the first evaluations."""
    (train, labels), test = features(2, 30), features(3, 10)
    spoilt = np.where((labels >= 5)[:, None], 99, train).astype(np.float32)
    seen = [list(run_baseline(method, SCENARIO, 0, x, labels, *test)) for x in (train, spoilt)]
    assert seen[0][:2] == seen[1][:2]
    assert seen[0][2] != seen[1][2]


def test_backbone_features_are_the_class_tokens_of_valid_rows_in_order() -> None:
    network = Network(tiny.config().model, task_classes=3, classes=7)
    backbone = network.init(jax.random.key(0))[1].backbone
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    batches = [
        Batch(images[:3], np.zeros(3, np.int32), np.array([True] * 3)),
        Batch(np.concatenate([images[3:], images[:1]]), np.zeros(3, np.int32), np.array([True, True, False])),
    ]
    found = baselines.backbone_features(network, backbone, batches)
    np.testing.assert_allclose(found, network.backbone_fn(backbone, images / np.float32(255)), atol=1e-5)
    assert found.shape == (5, 16)
