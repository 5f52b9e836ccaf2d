"""The ridge classifier: order of tasks and earlier images don't matter, and leave-one-out leaves one out."""

import numpy as np
import pytest

from ntkcl_jax.readouts import ridge
from ntkcl_jax.readouts.ridge import RIDGES, RandomRidge, Ridge, RidgeClassifier, learn, random_relu
from ntkcl_jax.seeds import stream_seed
from tests.support.lessons import CLASSES, SCENARIO, WIDTH, clusters, learnt, lesson

D, C = 6, 4


def images(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % C
    return rng.standard_normal((C, D))[labels] + 0.7 * rng.standard_normal((n, D)), labels


def taught(*tasks: tuple[int, ...]) -> RidgeClassifier:
    x, y = images()
    classifier = RidgeClassifier.empty(D, C)
    for classes in tasks:
        chosen = np.isin(y, classes)
        classifier = learn(classifier, x[chosen], y[chosen])
    return classifier


def solved(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    return np.linalg.solve(x.T @ x + penalty * np.eye(D), x.T @ np.eye(C)[y])


def test_the_classifier_is_ridge_regression_of_all_images_whatever_the_tasks() -> None:
    x, y = images()
    for tasks in (((0, 1), (2, 3)), ((2, 3), (0, 1)), ((3,), (1,), (0, 2)), ((0, 1, 2, 3),)):
        found = taught(*tasks)
        penalty = found.fraction * np.square(x).sum() / D
        np.testing.assert_allclose(found.weights(), solved(x, y, penalty), atol=1e-12)


def test_losses_are_those_of_learning_without_each_image() -> None:
    x, y = images()
    old, new = np.isin(y, (0, 1)), np.isin(y, (2, 3))
    found = taught((0, 1), (2, 3)).losses - taught((0, 1)).losses
    for i in (0, 9, len(RIDGES) - 1):
        penalty = RIDGES[i] * np.square(x).sum() / D
        total = 0.0
        for out in np.flatnonzero(new):
            kept = np.delete(np.arange(len(x)), out)
            total += np.square(np.eye(C)[y[out]] - x[out] @ solved(x[kept], y[kept], penalty)).sum()
        assert found[i] == pytest.approx(total, rel=1e-8)
    assert old.sum() + new.sum() == len(x)


def test_views_of_an_image_are_left_out_together_and_the_first_is_scored() -> None:
    x, y = images()
    views = np.stack([x, x + 0.3 * np.random.default_rng(2).standard_normal(x.shape), x[:, ::-1]], axis=1)
    rows, row_labels = views.reshape(-1, D), np.repeat(y, 3)
    found = learn(RidgeClassifier.empty(D, C), views, y)
    np.testing.assert_allclose(found.gram, rows.T @ rows, atol=1e-12)
    for i in (0, 8, len(RIDGES) - 1):
        penalty = RIDGES[i] * np.square(rows).sum() / D
        total = 0.0
        for out in range(len(x)):
            kept = np.repeat(np.arange(len(x)) != out, 3)
            total += np.square(np.eye(C)[y[out]] - x[out] @ solved(rows[kept], row_labels[kept], penalty)).sum()
        assert found.losses[i] == pytest.approx(total, rel=1e-8)


def test_expanding_a_few_images_at_a_time_is_expanding_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images()

    def expand(rows: np.ndarray) -> np.ndarray:
        return random_relu(rows, 9, seed=1)

    monkeypatch.setattr(ridge, "CHUNK", 7)
    parts = learn(RidgeClassifier.empty(9, C), x, y, expand)
    monkeypatch.setattr(ridge, "CHUNK", 1000)
    whole = learn(RidgeClassifier.empty(9, C), expand(x), y)
    assert parts.images == whole.images == len(x)
    for name in ("gram", "sums", "losses"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-8)


def test_what_is_kept_does_not_grow_with_images() -> None:
    few, many = taught((0,)), taught((0,), (0, 1, 2, 3), (1,))
    assert many.images > few.images
    for name in ("gram", "sums", "losses"):
        assert getattr(few, name).shape == getattr(many, name).shape


def test_classes_that_were_not_seen_score_zero() -> None:
    np.testing.assert_array_equal(taught((0, 1)).weights()[:, 2:], 0)


def test_noise_asks_for_a_larger_ridge() -> None:
    x, y = images()
    noisy = np.random.default_rng(1).permutation(y)
    clear, blurred = (learn(RidgeClassifier.empty(D, C), x, labels).fraction for labels in (y, noisy))
    assert blurred > clear


def test_features_on_a_line_are_learnt_too() -> None:
    x = np.outer([1.0, 2.0, -1.0, -2.0], np.ones(D))
    found = learn(RidgeClassifier.empty(D, 2), x, np.array([0, 0, 1, 1]))
    scores = np.concatenate([x, x[:1]]) @ found.weights()
    assert np.isfinite(scores).all()
    assert scores[0, 0] > 0 > scores[2, 0]


def test_random_features_are_a_function_of_their_seed_and_never_negative() -> None:
    x, _ = images(5)
    one = random_relu(x, 50, seed=3)
    np.testing.assert_array_equal(one, random_relu(x, 50, seed=3))
    assert (one != random_relu(x, 50, seed=4)).any()
    assert one.min() == 0
    assert one.shape == (5, 50)


def test_a_state_holds_the_whole_classifier() -> None:
    kept = taught((0, 1), (2, 3))
    again = RidgeClassifier.stored({name: np.array(value) for name, value in kept.state.items()})
    np.testing.assert_array_equal(again.weights(), kept.weights())
    assert (again.images, again.fraction) == (kept.images, kept.fraction)


@pytest.mark.parametrize("crops", [None, 0, 2])
def test_the_readouts_are_the_ridge_regression_of_all_views_of_all_images(crops: int | None) -> None:
    """Slow twin: all rows stacked, the ridge as rows of its own; λ is that of the stored losses."""
    train, labels = clusters(2, 12, spread=1.5)
    test, _ = clusters(3, 4)
    plain = crops is None
    readout = Ridge(WIDTH, CLASSES, 3) if plain else RandomRidge(WIDTH, CLASSES, 3, random_features=30, crops=crops)
    assert readout.views == (crops or 0)
    matrix = np.random.default_rng(stream_seed(3, "ntkcl-ridge")).standard_normal((WIDTH, 30))

    def inputs(x: np.ndarray) -> np.ndarray:
        mapped = x if plain else np.maximum(x @ matrix, 0)
        return np.concatenate([mapped, np.ones((len(x), 1))], axis=1).astype(np.float64)

    rows, targets = [], []
    for task, state in enumerate(learnt(readout, train, labels)):
        part, seen = lesson(train, labels, task, readout.views), SCENARIO.offsets[task + 1]
        rows.append(inputs(part.features.reshape(-1, WIDTH)))
        targets.append(np.repeat(np.eye(CLASSES)[part.labels], 1 + readout.views, axis=0))
        x, y = np.concatenate(rows), np.concatenate(targets)
        np.testing.assert_allclose(state["gram"], x.T @ x, rtol=1e-6)
        penalty = RIDGES[int(np.argmin(state["losses"]))] * np.square(x).sum() / x.shape[1]
        stacked = np.concatenate([x, np.sqrt(penalty) * np.eye(x.shape[1])])
        weights = np.linalg.lstsq(stacked, np.concatenate([y, np.zeros((x.shape[1], CLASSES))]), rcond=None)[0]
        found = readout.scores(state, test, seen)
        np.testing.assert_allclose(found, inputs(test) @ weights[:, :seen], rtol=1e-3, atol=1e-4)
        assert state["images"] == (labels < seen).sum()
